"""Rules of `codec.encoder`: any tile is coded; what a patch costs depends on it alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from codec.backend_names import BackendName
from codec.decoder import Decoder
from codec.encoder import Encoder, make_backend
from codec.errors import BackendError, TileError
from codec.frame import PatchFrame, SideFrame, parse
from codec.speeds import FASTEST
from codec.tile import Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from fakes import cubes
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle
from fakes.late_device import LateRuntime

DATA: Final = Path(__file__).parents[1] / "data"


def encoder(step: float | None = None) -> Encoder:
    """An encoder whose branch does something."""
    return Encoder(branch_bundle(), step=step, backend="torch-cpu")


def test_frames_come_in_order() -> None:
    """The side frame is first, then one frame per patch, row by row, all of one tile and model."""
    tile = cubes.tile(bands=3, rows=130, cols=260, scene="A")
    side, *patches = map(parse, encoder().encode(tile))
    assert isinstance(side, SideFrame)
    assert side.shape == (3, 130, 260)
    assert side.info == tile.info
    assert {p.tile_id for p in patches} == {side.tile_id} == {tile.info.tile_id}
    assert {p.model for p in patches} == {side.model} == {branch_bundle().model}
    assert [(p.patch_row, p.patch_col) for p in patches if isinstance(p, PatchFrame)] == list(
        side.grid
    )


def test_a_batch_changes_nothing() -> None:
    """Patches of many tiles in one batch give the bytes each gives alone, bit for bit."""
    coder = encoder()
    tiles = [
        cubes.tile(rows=140, cols=30, seed=1),
        cubes.tile(rows=24, cols=24, seed=2, nodata=-1, fill_samples=0.05),
        cubes.tile(rows=16, cols=40, seed=3, bands=4),
    ]
    jobs = [patch for tile in tiles for patch in coder.open(tile).patches]
    assert coder.encode_batch(jobs) == [coder.encode_batch([job])[0] for job in jobs]
    assert coder.encode_batch(jobs[::-1]) == coder.encode_batch(jobs)[::-1]
    assert coder.encode_batch([]) == []


def test_patches_coded_at_a_time_are_the_same() -> None:
    """On several threads, and in the same order: at every speed."""
    tile = cubes.tile(rows=140, cols=300, seed=1)
    many = Encoder(branch_bundle(), backend="torch-cpu", coders=3)
    for speed in (0, 1):
        assert many.encode(tile, speed=speed) == encoder().encode(tile, speed=speed)


def test_encoding_is_repeatable() -> None:
    """Equal tiles give equal bytes, in one encoder or two."""
    first = encoder().encode(cubes.tile())
    assert first == encoder().encode(cubes.tile())


def test_a_small_tile_pays_for_itself() -> None:
    """51×56 pixels are coded as 7×7 latent positions, not as a patch of 16×16."""
    tile = cubes.tile(rows=51, cols=56, noise_dn=40.0)
    whole = cubes.tile(rows=128, cols=128, noise_dn=40.0)
    small_bytes, whole_bytes = (len(encoder().encode(t)[1]) for t in (tile, whole))
    assert small_bytes < 1.3 * whole_bytes * 49 / 256


@pytest.mark.parametrize("steps", [(8.0, 32.0), (32.0, 128.0)])
def test_a_coarser_step_costs_less(steps: tuple[float, float]) -> None:
    """The step trades bytes for error."""
    tile = cubes.tile(rows=64, cols=64)
    fine, coarse = (sum(map(len, encoder(step).encode(tile))) for step in steps)
    assert coarse < 0.8 * fine


def test_the_step_travels() -> None:
    """The step asked for is in the side frame, as the float32 both ends start from."""
    side = parse(encoder(0.1).encode(cubes.tile())[0])
    assert isinstance(side, SideFrame)
    assert side.step == float(np.float32(0.1))
    assert encoder().step == branch_bundle().default_step


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), 1e10, 1e-60])
def test_an_impossible_step_is_refused(step: float) -> None:
    """A step is positive and of this world."""
    with pytest.raises(TileError, match="step must be positive"):
        encoder(step)


def test_a_patch_without_symbols_is_a_header() -> None:
    """A flat tile costs its headers: no symbol, no delta, no payload."""
    tile = Tile(samples=np.full((4, 16, 16), 700, dtype=np.int16), info=TileInfo())
    side, patch = map(parse, encoder().encode(tile))
    assert patch.payload == b""
    assert side.payload != b""


def test_only_fill_costs_a_mask() -> None:
    """Patches without fill pay nothing for it, those with fill pay for theirs."""
    tile = cubes.tile(rows=20, cols=256, nodata=-1, fill_pixels=0.3)
    _, left, right = map(parse, encoder().encode(tile))
    assert isinstance(left, PatchFrame)
    assert isinstance(right, PatchFrame)
    assert left.mask
    assert not right.mask


def test_dead_bands_are_named_once() -> None:
    """A band without a valid sample is told by the side frame and left out of every mask."""
    tile = cubes.tile(bands=9, nodata=-1, fill_bands=(0, 5))
    side, patch = map(parse, encoder().encode(tile))
    assert isinstance(side, SideFrame)
    assert isinstance(patch, PatchFrame)
    assert np.flatnonzero(~side.valid_bands).tolist() == [0, 5]
    assert not patch.mask


def test_a_valid_tile_carries_no_mask() -> None:
    """Jobs of a tile without fill hold no mask in memory; those of one with fill hold views."""
    assert encoder().open(cubes.tile(nodata=-1)).patches[0].valid is None
    assert encoder().open(cubes.tile(nodata=-1, fill_samples=0.1)).patches[0].valid is not None


def test_the_tile_is_left_alone() -> None:
    """Encoding reads the samples, which may be a view nobody may write to."""
    tile = cubes.tile(dtype="float32", fill_samples=0.1)
    before = tile.samples.copy()
    tile.samples.flags.writeable = False
    encoder().encode(tile)
    assert np.array_equal(tile.samples, before, equal_nan=True)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (1, 0, 2)])
def test_the_layout_in_memory_does_not_matter(order: tuple[int, int, int]) -> None:
    """A view of samples interleaved by pixel or line, as messages bring them, codes the same."""
    tile = cubes.tile(rows=40, cols=30, nodata=-1, fill_samples=0.05)
    stored = np.ascontiguousarray(tile.samples.transpose(order))
    view = Tile(samples=stored.transpose(np.argsort(order)), info=tile.info)
    assert encoder().encode(view) == encoder().encode(tile)


def test_sizes_are_those_of_the_samples() -> None:
    """The bytes behind all patches are the tile's."""
    tile = cubes.tile(rows=130, cols=140)
    assert sum(patch.size_bytes for patch in encoder().open(tile).patches) == tile.samples.nbytes


def test_stages_are_timed_by_name() -> None:
    """The timer hears of each stage, in order, and clocks belong to it."""
    stages: list[str] = []

    @contextmanager
    def timer(stage: str) -> Iterator[None]:
        stages.append(stage)
        yield

    Encoder(klt_bundle(), backend="torch-cpu", timer=timer).encode(cubes.tile())
    assert stages == ["condition", "condition", "analyze", "quantize", "entropy_code"]


def test_a_tile_may_have_a_step_of_its_own() -> None:
    """Its frames are those of an encoder of that step; the next tile has the encoder's again."""
    coder, tile = encoder(), cubes.tile()
    assert coder.encode(tile, 7.0) == encoder(step=7.0).encode(tile) != coder.encode(tile)
    for step in (0.0, 1e-50, 1e9, float("nan")):
        with pytest.raises(TileError, match="step must be positive"):
            coder.open(tile, step)


def test_a_flight_bundle_is_enough() -> None:
    """The decoder's half of the model stays on the ground."""
    coder = Encoder(branch_bundle().for_flight(), backend="torch-cpu")
    assert coder.encode(cubes.tile()) == encoder().encode(cubes.tile())


def test_the_papers_codec_takes_its_bands() -> None:
    """A tile of another band count is refused by name."""
    coder = Encoder(minmax_bundle(5), backend="torch-cpu")
    assert len(coder.encode(cubes.tile(bands=5))) == 2
    with pytest.raises(TileError, match="takes 5 bands, the tile has 6"):
        coder.encode(cubes.tile(bands=6))


def test_garbage_is_a_tile_error() -> None:
    """Floats beyond all sense are refused with a type, so that a stage can count the drop."""
    samples = np.full((3, 8, 8), 1e37, dtype=np.float32)
    with pytest.raises(TileError, match="too large"):
        encoder().encode(Tile(samples=samples, info=TileInfo()))


def test_backends_are_chosen_by_name() -> None:
    """Each name gives its backend."""
    assert make_backend(branch_bundle(), "torch-cpu", 0).name == "torch-cpu"
    assert make_backend(branch_bundle(), "openvino", 1).name == "openvino-cpu"


@pytest.mark.parametrize("name", ["auto", "torch", "torch-cuda"])
def test_a_gpu_is_taken_where_there_is_one(
    name: BackendName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all of a tile, not with its network alone."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("codec.backends.cuda_runtime.CudaRuntime", LateRuntime)
    backend = make_backend(branch_bundle(calibrated=True), name, 0)
    assert backend.precision == "bfloat16"
    assert backend.device is not None
    assert make_backend(branch_bundle(), "torch-cpu", 0).device is None


def test_a_backend_nobody_knows_is_refused() -> None:
    """A name misspelled does not end on the slowest there is without a word."""
    with pytest.raises(BackendError, match=r"cuda: no such backend; remedy: one of auto, torch,"):
        make_backend(branch_bundle(), "cuda", 0)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for CUDA without a device is an error with a remedy, not PyTorch's traceback."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendError, match="remedy: auto or torch-cpu"):
        Encoder(klt_bundle(), backend="torch-cuda")


@pytest.mark.parametrize("step", [96.0, 192.0])
@pytest.mark.parametrize("scene", ["aviris_salton_sea.npz", "hyspecnet-11k"])
def test_side_information_is_a_third_of_ten_bits_an_entry(scene: str, step: float) -> None:
    """Mean and eigenvectors at the precision each needs, headers counted, against plain entries."""
    tile = read_tile(find_scenes(DATA / scene)[0])
    raw = Encoder(klt_bundle(components=512), backend="torch-cpu").open(tile, step).side_frame
    side = parse(raw)
    assert isinstance(side, SideFrame)
    entries = (1 + len(side.levels)) * int(side.valid_bands.sum())
    assert len(raw) < 10 * entries / 8 / 3


@pytest.mark.parametrize("quick", [True, False])
def test_a_quarter_step_gives_back_integers(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a bright cloud, too, and where the machine is quick at products of bytes."""
    monkeypatch.setattr("codec.projection.multiplies_bytes_fast", lambda: quick)
    tile = read_tile(find_scenes(DATA / "aviris_salton_sea.npz")[0])
    samples = tile.samples[tile.valid().all(axis=(1, 2)), :32, :32]
    samples[:, 8:20, 6:24] = samples[:, 8:20, 6:24] // 2 + 6000
    bundle = klt_bundle(components=512)
    frames = Encoder(bundle, step=0.25, backend="torch-cpu", speed=1).encode(
        Tile(samples=samples, info=TileInfo())
    )
    assert np.array_equal(Decoder(bundle).decode(frames).samples, samples)


# ---- speed


@pytest.mark.parametrize("speed", range(FASTEST + 1))
def test_every_speed_decodes(speed: int) -> None:
    """Whatever the haste: the same tile, in frames that say how they are coded."""
    tile = cubes.tile(bands=20, rows=140, cols=130, nodata=-1, fill_samples=0.01)
    bundle = branch_bundle()
    frames = Encoder(bundle, step=16.0, backend="torch-cpu", speed=speed).encode(tile)
    again = Decoder(bundle).decode(frames)
    assert np.array_equal(again.valid(), tile.valid())
    error = (again.samples - tile.samples.astype(np.float32))[tile.valid()]
    assert np.sqrt(np.square(error).mean()) < 16
    side, *patches = [parse(frame) for frame in frames]
    assert isinstance(side, SideFrame)
    assert side.step == pytest.approx(16 * math.sqrt(2) if speed == FASTEST else 16)
    for patch in patches:
        assert isinstance(patch, PatchFrame)
        assert patch.quick is (speed > 0)


@pytest.mark.parametrize("speed", range(FASTEST + 1))
def test_a_flat_tile_has_no_components(speed: int) -> None:
    """All of it is in its mean; the patch frame is there all the same."""
    tile = Tile(samples=np.full((3, 20, 20), 500, np.int16), info=TileInfo(sensor="flat"))
    bundle = branch_bundle()
    frames = Encoder(bundle, step=16.0, backend="torch-cpu", speed=speed).encode(tile)
    assert np.array_equal(Decoder(bundle).decode(frames).samples, tile.samples)


def test_a_tile_may_be_faster_than_the_others() -> None:
    """The speed of a tile goes with its patches, whatever batch they end in."""
    coder, tile = encoder(), cubes.tile(rows=24, cols=24)
    slow, fast = coder.open(tile).patches[0], coder.open(tile, speed=1).patches[0]
    kinds = [parse(raw) for raw in coder.encode_batch([slow, fast])]
    assert [frame.quick for frame in kinds if isinstance(frame, PatchFrame)] == [False, True]


@pytest.mark.parametrize("speed", [-1, FASTEST + 1])
def test_there_are_four_speeds(speed: int) -> None:
    """Another one is refused."""
    with pytest.raises(TileError, match="there are 0 to 3"):
        Encoder(branch_bundle(), speed=speed)


def test_a_network_alone_takes_larger_steps_at_most() -> None:
    """Without a wavelet nothing is coded quickly; the last speed makes the step larger."""
    tile = cubes.tile(bands=minmax_bundle().conditioner.components, rows=24, cols=24)
    step = minmax_bundle().default_step
    for speed, larger in ((1, 1.0), (FASTEST, math.sqrt(2))):
        coder = Encoder(minmax_bundle(), backend="torch-cpu", speed=speed)
        side, patch = (parse(frame) for frame in coder.encode(tile))
        assert isinstance(side, SideFrame)
        assert isinstance(patch, PatchFrame)
        assert (patch.quick, side.step) == (False, pytest.approx(step * larger))
