"""Rules of `codec.backends.device_backend`: what the host makes of a tile, made elsewhere."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.backends import device_backend
from codec.backends.cuda_runtime import CudaRuntime
from codec.backends.device_backend import DeviceBackend
from codec.backends.staging import Recorded, Runtime
from codec.backends.torch_backend import TorchBackend
from codec.bundle import Bundle, load_bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BackendError, TileError
from codec.known_answer import check_encoder
from codec.quality import psnr_db
from codec.speeds import FASTEST
from codec.tile import Tile, TileInfo
from codec.tile_files import find_scenes, read_tile
from fakes import cubes
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle
from fakes.late_device import LateRuntime

MODELS: Final = Path(__file__).parents[3] / "deploy/models"
DATA: Final = Path(__file__).parents[2] / "data"
RUNTIMES: Final[list[type[Runtime]]] = [
    LateRuntime,
    *([CudaRuntime] if torch.cuda.is_available() else []),
]
"""What this machine has: hardware cannot be installed, so no test waits for it by a skip."""
BUNDLES: Final[dict[str, Bundle]] = {
    "branch": branch_bundle(),
    "linear": klt_bundle(),
    "dct": klt_bundle("dct"),
    "minmax": minmax_bundle(10),
}
TILES: Final[dict[str, dict[str, Any]]] = {
    "whole": {},
    "ragged": {"rows": 131, "cols": 260, "dtype": "uint16", "mean_dn": 40_000.0},
    "gaps": {"rows": 140, "cols": 50, "nodata": -1, "fill_samples": 0.03, "fill_bands": (3,)},
    "floats": {"rows": 30, "cols": 41, "dtype": "float32", "fill_pixels": 0.2},
    "pixel": {"rows": 1, "cols": 1},
}


def on_device(bundle: Bundle, runtime: Runtime | None = None, **encoder: Any) -> Encoder:
    """An encoder whose tiles are on a device."""
    made = Encoder(bundle, backend="torch-cpu", **encoder)
    made.backend = DeviceBackend(bundle, runtime or LateRuntime())
    return made


def quality(tile: Tile, bundle: Bundle, frames: list[bytes]) -> tuple[int, float]:
    """Bytes and PSNR [dB] of what was encoded."""
    again = Decoder(bundle).decode(frames)
    assert np.array_equal(again.valid(), tile.valid())
    found_db = psnr_db(tile.samples, again.samples, tile.valid(), tile.info.reflectance_scale)
    return sum(map(len, frames)), found_db


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("speed", range(FASTEST + 1))
@pytest.mark.parametrize("kind", TILES)
@pytest.mark.parametrize("model", BUNDLES)
def test_a_tile_costs_what_it_does_on_the_host(
    model: str, kind: str, speed: int, runtime: type[Runtime]
) -> None:
    """Of any tile and model; bytes within 2 % and PSNR within 0.1 dB, quickly 6 % and 0.2 dB.

    Not compared: which symbols. Sums in another order turn components by a little, the branch is
    in bfloat16, and quick symbols are rounded by group.
    """
    bundle, tile = BUNDLES[model], cubes.tile(**TILES[kind])
    size, found_db = quality(tile, bundle, on_device(bundle, runtime(), speed=speed).encode(tile))
    host = Encoder(bundle, backend="torch-cpu", speed=speed).encode(tile)
    host_size, host_db = quality(tile, bundle, host)
    assert size == pytest.approx(host_size, rel=0.06 if speed else 0.02, abs=16)
    assert found_db == pytest.approx(host_db, abs=0.2 if speed else 0.1)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["default", "reference"])
def test_shipped_models_do_what_they_do_on_the_host(name: str, runtime: type[Runtime]) -> None:
    """They know their answer, the reference in bfloat16; bytes within 1 %, PSNR within 0.1 dB."""
    bundle = load_bundle(MODELS / f"{name}.safetensors")
    device, host = on_device(bundle, runtime()), Encoder(bundle, backend="torch-cpu")
    check_encoder(device)
    tile = read_tile(find_scenes(DATA / "aviris_salton_sea.npz")[0])
    part = Tile(samples=tile.samples[:224, :, :40], info=tile.info)
    (size, found_db), (host_size, host_db) = (
        quality(part, bundle, encoder.encode(part)) for encoder in (device, host)
    )
    assert size == pytest.approx(host_size, rel=0.01)
    assert found_db == pytest.approx(host_db, abs=0.1)


def test_samples_may_be_in_another_order_of_bytes() -> None:
    """As ENVI files are: what is above 32,767 is not taken as negative."""
    coder, tile = on_device(klt_bundle()), cubes.tile(dtype="uint16", mean_dn=40_000.0)
    swapped = tile.samples.astype(tile.samples.dtype.newbyteorder(">"))
    assert coder.encode(Tile(samples=swapped, info=tile.info)) == coder.encode(tile)


@pytest.mark.parametrize("model", BUNDLES)
def test_a_batch_changes_nothing(model: str) -> None:
    """Patches of many tiles, shapes and speeds at once give what each gives alone."""
    coder = on_device(BUNDLES[model])
    tiles = [
        cubes.tile(rows=140, cols=300, seed=1),
        cubes.tile(rows=140, cols=172, seed=2, nodata=-1, fill_samples=0.05),
        cubes.tile(rows=24, cols=44, seed=3, noise_dn=90.0),
    ]
    jobs = [
        patch for i, tile in enumerate(tiles) for patch in coder.open(tile, speed=i % 2).patches
    ]
    together = coder.encode_batch(jobs)
    assert together == [coder.encode_batch([job])[0] for job in jobs]
    assert coder.encode_batch(jobs[::-1]) == together[::-1]
    assert coder.encode_batch([]) == []


def test_coders_on_threads_change_nothing() -> None:
    """What comes back may be coded by many."""
    tile = cubes.tile(rows=140, cols=300)
    assert on_device(branch_bundle(), coders=3).encode(tile) == on_device(branch_bundle()).encode(
        tile
    )


def test_threads_do_not_disturb_each_other() -> None:
    """Some open tiles while others encode: the frames are those of one at a time."""
    coder, alone = on_device(branch_bundle(), runtime := LateRuntime()), list[bool]()
    record = runtime.record

    def watched(function: Callable[[Tensor], Tensor], source: Tensor) -> Recorded:
        def replay() -> None:
            alone.append(coder.backend._replaying.locked())  # type: ignore[attr-defined]
            recorded.replay()

        recorded = record(function, source)
        return Recorded(source, replay, recorded.result)

    runtime.record = watched  # type: ignore[method-assign]
    tiles = [cubes.tile(rows=20, cols=140, seed=seed, noise_dn=50.0) for seed in range(6)]
    expected = [coder.encode(tile) for tile in tiles]
    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(coder.encode, tiles * 5)] == expected * 5
    assert alone
    assert all(alone)


@pytest.mark.parametrize("speed", [0, 1])
def test_a_tile_goes_up_once(speed: int) -> None:
    """When it is opened; its patches are there then, and its memory is free with the last one."""
    runtime = LateRuntime()
    coder = on_device(klt_bundle(), runtime, speed=speed)
    job = coder.open(cubes.tile(rows=140, cols=140))
    runtime.streams.clear()
    coder.encode_batch(job.patches)
    assert "copying" not in runtime.streams
    assert isinstance(coder.backend, DeviceBackend)
    assert len(coder.backend._strips) == 2  # rows of patches
    del job
    gc.collect()
    assert not coder.backend._strips


def test_what_was_opened_elsewhere_goes_up_when_it_is_needed() -> None:
    """And the other way: a patch is a patch, wherever its tile was opened."""
    tile, host = cubes.tile(rows=140, cols=140), Encoder(branch_bundle(), backend="torch-cpu")
    device = on_device(branch_bundle())
    job, other = host.open(tile), device.open(tile)
    assert quality(tile, branch_bundle(), [job.side_frame, *device.encode_batch(job.patches)])
    assert quality(tile, branch_bundle(), [other.side_frame, *host.encode_batch(other.patches)])
    assert isinstance(device.backend, DeviceBackend)
    assert len(device.backend._strips) == 4


def test_only_symbols_come_back() -> None:
    """Two bytes each where they fit, and what rounding left where the coder asks for it."""
    coder = on_device(klt_bundle())
    assert coder.backend.device is not None
    for speed, step, kinds in (
        (0, 32.0, ["int16", "int16"]),
        (1, 32.0, ["int16"]),
        (1, 0.05, ["int32"]),
    ):
        (found,) = coder.backend.device.symbols(coder.open(cubes.tile(), step, speed).patches) or ()
        arrays = [array for array in (found.values, found.errors) if array is not None]
        assert [array.dtype.name for array in arrays] == kinds


def test_the_branch_is_recorded_for_each_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each power of two and shape once; and never more are kept than there is room for."""
    runtime = LateRuntime()
    coder = on_device(branch_bundle(), runtime)
    patches = coder.open(cubes.tile(rows=20, cols=128 * 5 + 3)).patches
    for count in (1, 2, 3, 4, 5, 3, 1):
        coder.encode_batch(patches[:count])
    assert runtime.recorded == [(1, 2, 24, 128), (2, 2, 24, 128), (4, 2, 24, 128), (8, 2, 24, 128)]
    coder.encode_batch(patches[5:])
    assert runtime.recorded[4:] == [(1, 2, 24, 8)]
    monkeypatch.setattr(device_backend, "_MOST_RECORDED", 5)
    coder.encode_batch(coder.open(cubes.tile(rows=9, cols=9)).patches)
    coder.encode_batch(patches[:1])
    coder.encode_batch(patches[5:])
    assert runtime.recorded[5:] == [(1, 2, 16, 16), (1, 2, 24, 128)]  # the oldest makes room


def test_what_the_branch_gives_stays() -> None:
    """The next batch of the same shape, of another thread maybe, goes through the same memory."""
    backend, seen = DeviceBackend(branch_bundle(), LateRuntime()), torch.ones(1, 2, 8, 8)
    with torch.inference_mode():
        first = backend._run_branch(seen)
        before = first.clone()
        assert not torch.equal(backend._run_branch(-seen), before)
        assert torch.equal(first, before)


def test_a_branch_that_does_nothing_is_not_run() -> None:
    """The linear codec has none."""
    runtime = LateRuntime()
    on_device(klt_bundle(), runtime).encode(cubes.tile())
    assert runtime.recorded == []


@pytest.mark.parametrize("speed", range(FASTEST + 1))
@pytest.mark.parametrize("fill", [None, 500])
def test_a_tile_without_components_is_one(speed: int, fill: int | None) -> None:
    """All of it is its mean, or it has no valid sample at all."""
    tile = Tile(samples=np.full((3, 20, 20), 500, np.int16), info=TileInfo(nodata=fill))
    frames = on_device(branch_bundle(), step=16.0, speed=speed).encode(tile)
    assert np.array_equal(Decoder(branch_bundle()).decode(frames).samples, tile.samples)


def test_garbage_is_a_tile_error() -> None:
    """It is the tile that fails then, not the device."""
    tile = Tile(samples=np.full((3, 8, 8), 1e37, np.float32), info=TileInfo())
    with pytest.raises(TileError, match="too large"):
        on_device(branch_bundle()).encode(tile)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory\nmore"),
        torch.AcceleratorError("CUDA error: lost"),
    ],
)
def test_what_a_device_raises_is_a_backend_error(error: Exception) -> None:
    """Opening or encoding: one line, with the remedy."""
    runtime = LateRuntime()
    coder = on_device(branch_bundle(), runtime)
    job = coder.open(cubes.tile())

    def fail() -> None:
        raise error

    runtime.fail = fail
    reason = str(error).split("\n", maxsplit=1)[0]
    for work in (lambda: coder.open(cubes.tile()), lambda: coder.encode_batch(job.patches)):
        with pytest.raises(BackendError, match=f"^torch-cpu: {reason}; remedy: torch-cpu$"):
            work()


def test_a_flipped_bit_is_seen() -> None:
    """The fingerprint is that of the weights on the device."""
    coder = on_device(branch_bundle())
    before = coder.fingerprint()
    assert coder.fingerprint() == before
    assert isinstance(coder.backend, DeviceBackend)
    with torch.inference_mode():
        next(iter(coder.backend._branch.parameters())).view(torch.int16)[0, 0, 0, 0] ^= 1
    assert coder.fingerprint() != before


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_components_at_hand_are_analyzed_as_elsewhere(runtime: type[Runtime]) -> None:
    """In bfloat16 the branch differs a little, the float32 shortcut beside it does not."""
    rng = np.random.default_rng(0)
    patches = [
        (rng.normal(size=shape) * 50).astype(np.float32)
        for shape in ((3, 16, 24), (3, 8, 8), (0, 8, 16), (6, 8, 8))
    ]
    expected = TorchBackend(branch_bundle()).analyze(patches)
    found = DeviceBackend(branch_bundle(), runtime()).analyze(patches)
    for latents, reference in zip(found, expected, strict=True):
        assert latents.shape == reference.shape
        assert np.allclose(latents, reference, atol=0.5)
        assert np.allclose(latents[128:], reference[128:], atol=1e-3)
