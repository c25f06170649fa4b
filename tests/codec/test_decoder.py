"""Rules of `codec.decoder`: what was encoded comes back; what was not is an error with a type."""

from __future__ import annotations

import math
import struct
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import (
    BitstreamError,
    BundleTensorError,
    FrameFieldError,
    PayloadError,
    WrongModelError,
)
from codec.frame import PatchFrame, SideFrame, parse
from codec.tile import Tile, TileInfo
from fakes import cubes
from fakes.bundles import branch_bundle, frozen_bundle, klt_bundle, minmax_bundle

STEP = 16.0
DECODER = Decoder(klt_bundle())


def encode(tile: Tile, step: float = STEP) -> list[bytes]:
    """Frames of the linear codec."""
    return Encoder(klt_bundle(), step=step, backend="torch-cpu").encode(tile)


def frames_of(tile: Tile) -> tuple[SideFrame, PatchFrame]:
    """The frames of a tile of one patch."""
    side, patch = map(parse, encode(tile))
    assert isinstance(side, SideFrame)
    assert isinstance(patch, PatchFrame)
    return side, patch


def rmse(before: Tile, after: Tile) -> float:
    """Root mean square error of the valid samples [DN]."""
    valid = before.valid()
    error = after.samples.astype(np.float64) - before.samples
    return float(np.sqrt(np.square(error[valid]).mean()))


# ---- any tile comes back

CASES: dict[str, dict[str, Any]] = {
    "small": {"rows": 51, "cols": 56},
    "one pixel": {"rows": 1, "cols": 1},
    "one row": {"rows": 1, "cols": 40},
    "several patches": {"rows": 150, "cols": 140, "bands": 4},
    "4 bands": {"bands": 4},
    "1 band": {"bands": 1},
    "450 bands": {"bands": 450, "rows": 16, "cols": 16},
    "uint16": {"dtype": "uint16", "mean_dn": 30_000.0},
    "float32": {"dtype": "float32"},
    "NaN": {"dtype": "float32", "fill_samples": 0.05},
    "float fill": {"dtype": "float32", "nodata": -9999.0, "fill_samples": 0.05},
    "swath edge": {"nodata": -32768, "fill_pixels": 0.4},
    "dead detectors": {"nodata": -32768, "fill_samples": 0.02},
    "dead bands": {"nodata": 0, "dtype": "uint16", "fill_bands": (0, 4, 9)},
    "all at once": {
        "nodata": -1,
        "fill_samples": 0.02,
        "fill_pixels": 0.2,
        "fill_bands": (3,),
        "rows": 140,
    },
    "negative": {"mean_dn": -500.0},
}


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str) -> None:
    """Type, shape, mask and description come back exactly, samples to within the step."""
    tile = cubes.tile(**CASES[case])
    again = DECODER.decode(encode(tile))
    assert again.samples.dtype == tile.samples.dtype
    assert again.samples.shape == tile.samples.shape
    assert again.info == tile.info
    assert np.array_equal(again.valid(), tile.valid())
    fill = ~tile.valid()
    assert np.array_equal(again.samples[fill], tile.samples[fill], equal_nan=True)
    # Quantization alone would be STEP/√12 per component; what is left out adds its noise.
    assert rmse(tile, again) < STEP


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize("value", [0, 7, 30_000])
def test_a_constant_tile(dtype: str, value: int) -> None:
    """A flat tile comes back flat, to within the step of its mean."""
    samples = np.full((4, 9, 9), value, dtype=dtype)
    again = DECODER.decode(encode(Tile(samples=samples, info=TileInfo())))
    assert np.abs(again.samples.astype(np.float64) - value).max() <= STEP / 9


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("int16", -1), ("uint16", 65_535), ("float32", None), ("float32", 5.0)]
)
def test_no_valid_sample(dtype: str, nodata: float | None) -> None:
    """A tile of nothing but fill comes back as just that, for a few bytes."""
    samples = np.full((3, 9, 130), math.nan if nodata is None else nodata, dtype=dtype)
    frames = encode(Tile(samples=samples, info=TileInfo(nodata=nodata)))
    assert sum(map(len, frames)) < 150
    again = DECODER.decode(frames)
    assert np.array_equal(again.samples, samples, equal_nan=True)


def test_nothing_is_clipped() -> None:
    """Negative reflectance, as over dark water, and reflectance above one come back as such."""
    tile = cubes.tile(mean_dn=0.0, noise_dn=200.0)
    bright = Tile(samples=tile.samples + np.int16(15_000), info=tile.info)
    for given_tile in (tile, bright):
        again = DECODER.decode(encode(given_tile, step=1.0))
        bias = again.samples.mean(dtype=np.float64) - given_tile.samples.mean(dtype=np.float64)
        assert abs(bias) < 1.0
    assert tile.samples.min() < -300
    assert DECODER.decode(encode(tile, step=1.0)).samples.min() < -100


@pytest.mark.parametrize("clip", [False, True])
def test_minmax_clips_only_if_the_bundle_says_so(clip: bool) -> None:
    """The paper's clip is the bundle's choice: it changes bytes only for samples out of range."""
    inside = cubes.tile(bands=5)
    outside = Tile(samples=inside.samples - np.int16(9_000), info=inside.info)
    floor = Tile(samples=np.zeros_like(inside.samples), info=inside.info)
    coder = Encoder(minmax_bundle(clip=clip), backend="torch-cpu")
    same = coder.encode(outside)[1] == coder.encode(floor)[1]
    assert same == clip


@pytest.mark.parametrize("case", ["float32", "swath edge", "dead detectors", "dead bands", "small"])
def test_the_papers_codec_round_trip(case: str) -> None:
    """Without a shortcut type, shape, mask and description come back just the same."""
    tile = cubes.tile(**CASES[case])
    bundle = minmax_bundle(tile.samples.shape[0])
    again = Decoder(bundle).decode(Encoder(bundle, backend="torch-cpu").encode(tile))
    assert again.samples.dtype == tile.samples.dtype
    assert np.array_equal(again.valid(), tile.valid())
    assert again.info == tile.info


@pytest.mark.parametrize("shortcut", ["wavelet", "dct"])
def test_the_untrained_codec_is_a_transform_codec(shortcut: str) -> None:
    """At a fine step the error is that of rounding alone: the branch adds nothing."""
    tile = cubes.tile(bands=3, dtype="float32", noise_dn=100.0)
    bundle = klt_bundle(shortcut)
    again = Decoder(bundle).decode(Encoder(bundle, step=1.0, backend="torch-cpu").encode(tile))
    assert rmse(tile, again) == pytest.approx(1 / math.sqrt(12), rel=0.15)


def test_the_error_follows_the_step() -> None:
    """Half the step, about half the error, while the noise is above it."""
    tile = cubes.tile(bands=6, noise_dn=300.0, rows=32, cols=32)
    errors = [rmse(tile, DECODER.decode(encode(tile, step))) for step in (20.0, 40.0, 80.0)]
    for fine, coarse in pairwise(errors):
        assert 1.6 < coarse / fine < 2.2


def test_a_patch_says_its_own_step() -> None:
    """That of the tile, and as much coarser as its frame says."""
    side, patch = map(parse, encode(cubes.tile(bands=6, rows=32, cols=32), 20.0))
    assert isinstance(side, SideFrame)
    assert isinstance(patch, PatchFrame)
    assert DECODER.decode_patch(side, patch).step == 20.0
    assert DECODER.decode_patch(side, replace(patch, step_offset=8)).step == 40.0


def test_a_measured_sample_never_becomes_fill() -> None:
    """Integers that would be restored as the fill value move by one, floats by the least bit."""
    for dtype, fill in (("int16", 7), ("int16", 32_767), ("float32", 0.0), ("float32", 7.0)):
        samples = np.full((4, 9, 9), fill, dtype=dtype)
        samples[:, ::2] += 1 if fill < 100 else -1
        samples[:, 1::2] -= 1 if fill < 100 else 2
        tile = Tile(samples=samples, info=TileInfo(nodata=fill))
        again = DECODER.decode(encode(tile, step=500.0))
        assert again.valid().all(), (dtype, fill)


@settings(max_examples=25)
@given(
    tile=st.builds(
        cubes.tile,
        bands=st.integers(1, 6),
        rows=st.integers(1, 20),
        cols=st.integers(1, 20),
        dtype=st.sampled_from(["int16", "uint16", "float32"]),
        seed=st.integers(0, 99),
        noise_dn=st.sampled_from([0.0, 3.0, 3000.0]),
        nodata=st.just(5.0),
        fill_samples=st.sampled_from([0.0, 0.3, 0.97]),
    ),
    step=st.sampled_from([1.0, 64.0, 5000.0]),
)
def test_any_tile_comes_back(tile: Tile, step: float) -> None:
    """Whatever the tile and the step, it decodes, and its mask is exact."""
    again = DECODER.decode(encode(tile, step))
    assert np.array_equal(again.valid(), tile.valid())


# ---- frozen frames

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_STEPS = {2.0: 0.50, 64.0: 13.41, 300.0: 31.66}
QUICK_STEPS = {2.0: 0.53, 64.0: 15.10, 300.0: 28.98}
"""Steps of the frozen frames, with the error of what they decode to [DN]."""


def golden_frames(step: float, version: int = 5) -> list[bytes]:
    """Side frame and patch frame of `golden_tile` under `frozen_bundle`."""
    text = (GOLDEN / f"frames_v{version}.hex").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    first = 2 * list(GOLDEN_STEPS).index(step)
    return [bytes.fromhex(line) for line in lines[first : first + 2]]


def golden_tile() -> Tile:
    """Nine rows of eight pixels of three bands, by formula."""
    band, row, col = np.mgrid[0:3, 0:9, 0:8]
    samples = 1000 + 300 * band + (60 - 25 * band) * row - 20 * col * (band == 1)
    samples += 40 * (row % 3 == 0)
    return Tile(samples=samples.astype(np.int16), info=TileInfo(sensor="golden"))


@pytest.mark.parametrize("step", GOLDEN_STEPS)
def test_old_frames_decode_for_ever(step: float) -> None:
    """A tile sent by version 5 is the same tile in every release, on every machine.

    The encoder's bytes are not compared: its eigenvectors may differ in the last bit.
    """
    tile, again = golden_tile(), Decoder(frozen_bundle()).decode(golden_frames(step))
    assert again.info == tile.info
    assert rmse(tile, again) == pytest.approx(GOLDEN_STEPS[step], abs=0.05)


@pytest.mark.parametrize("step", GOLDEN_STEPS)
def test_the_encoder_still_sends_as_much(step: float) -> None:
    """What the encoder makes of the tile today decodes as well, in as many bytes."""
    frames = Encoder(frozen_bundle(), step=step, backend="torch-cpu").encode(golden_tile())
    assert [len(f) for f in frames] == pytest.approx([len(f) for f in golden_frames(step)], abs=4)
    again = Decoder(frozen_bundle()).decode(frames)
    assert rmse(golden_tile(), again) == pytest.approx(GOLDEN_STEPS[step], abs=0.05)


@pytest.mark.parametrize("step", QUICK_STEPS)
def test_old_quick_frames_decode_for_ever(step: float) -> None:
    """A patch sent by version 6 likewise; today's encoder makes no more bytes of it."""
    tile, frozen = golden_tile(), golden_frames(step, 6)
    assert rmse(tile, Decoder(frozen_bundle()).decode(frozen)) == pytest.approx(
        QUICK_STEPS[step], abs=0.05
    )
    frames = Encoder(frozen_bundle(), step=step, backend="torch-cpu", speed=1).encode(tile)
    assert [len(f) for f in frames] == pytest.approx([len(f) for f in frozen], abs=4)
    assert [frame[0] for frame in frames] == [5, 6]


def test_old_frames_name_their_model() -> None:
    """The name of a model of given integers is frozen too."""
    assert frozen_bundle().name == "25c518c2fd769265"


# ---- frames in disorder


def tile_of_two() -> tuple[Tile, list[bytes]]:
    """A tile of two patches and its frames."""
    tile = cubes.tile(rows=136, cols=16, bands=3)
    return tile, encode(tile)


def test_order_does_not_matter() -> None:
    """Frames may arrive in any order, the side frame last."""
    _, frames = tile_of_two()
    one, other = DECODER.decode(frames), DECODER.decode(frames[::-1])
    assert np.array_equal(one.samples, other.samples)


def test_threads_change_nothing() -> None:
    """Patches that are decoded at a time are what they are one after another, to the last bit."""
    bundle, tile = branch_bundle(), cubes.tile(bands=4, rows=40, cols=300, seed=4)
    frames = Encoder(bundle, backend="torch-cpu").encode(tile)
    assert bundle.synthesis().branch[-1].weight.any()
    one, many = (Decoder(bundle, threads).decode(frames).samples for threads in (1, 3))
    assert np.array_equal(one, many)


def test_a_patch_decodes_alone() -> None:
    """Given the side frame, a patch needs no other: its samples are those of the whole tile."""
    _, frames = tile_of_two()
    side, _, second = map(parse, frames)
    assert isinstance(side, SideFrame)
    assert isinstance(second, PatchFrame)
    patch = DECODER.decode_patch(side, second)
    assert (patch.patch_row, patch.patch_col) == (1, 0)
    assert np.array_equal(patch.samples, DECODER.decode(frames).samples[:, 128:])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        pytest.param([1, 2], "one side frame expected, got 0", id="no side"),
        pytest.param([0, 0, 1, 2], "one side frame expected, got 2", id="two sides"),
        pytest.param([0, 1], r"1 patches are missing, the first \(1, 0\)", id="a hole"),
        pytest.param([0], r"2 patches are missing, the first \(0, 0\)", id="no patch"),
        pytest.param([0, 1, 2, 1], r"patch \(0, 0\) came twice", id="twice"),
    ],
)
def test_a_tile_is_all_of_its_frames(chosen: list[int], message: str) -> None:
    """A frame missing or too many is an error that says which."""
    _, frames = tile_of_two()
    with pytest.raises(BitstreamError, match=message):
        DECODER.decode([frames[i] for i in chosen])


def test_a_patch_of_another_tile_is_refused() -> None:
    """Side information of one tile never decodes the patch of another."""
    side, _ = frames_of(cubes.tile(sequence=1))
    _, patch = frames_of(cubes.tile(sequence=2))
    with pytest.raises(BitstreamError, match=f"patch of tile {patch.tile_id.hex()}"):
        DECODER.decode_patch(side, patch)


def test_another_model_is_refused() -> None:
    """Frames of another model are refused by name: whole tiles, and patches among ours."""
    side, patch = frames_of(cubes.tile())
    with pytest.raises(WrongModelError, match=f"coded by model {side.model.hex()}"):
        Decoder(branch_bundle()).decode_patch(side, patch)
    with pytest.raises(WrongModelError, match="patch coded by model 7878787878787878"):
        DECODER.decode_patch(side, replace(patch, model=b"x" * 8))


def test_a_flight_bundle_cannot_decode() -> None:
    """A decoder needs the whole bundle."""
    with pytest.raises(BundleTensorError, match="flight bundle"):
        Decoder(klt_bundle().for_flight())


# ---- hostile frames: right checksum, wrong content


def test_beside_the_wavelet_a_flight_bundle_decodes_a_little_worse() -> None:
    """Symbols stand for themselves where nothing restores them: as in the linear codec."""
    tile, flight = cubes.tile(bands=6, rows=40, cols=40), branch_bundle().for_flight()
    frames = Encoder(flight, step=STEP, backend="torch-cpu").encode(tile)
    plain = Decoder(flight, restores=False).decode(frames)
    restored = Decoder(branch_bundle()).decode(frames)

    assert plain.samples.shape == tile.samples.shape
    assert not np.array_equal(plain.samples, restored.samples)
    linear = encode(tile)
    unrestored = Decoder(klt_bundle().for_flight(), restores=False).decode(linear)
    assert np.array_equal(unrestored.samples, DECODER.decode(linear).samples)


@pytest.mark.parametrize("bundle", [klt_bundle("dct"), minmax_bundle()], ids=["dct", "minmax"])
def test_any_other_model_needs_its_network_to_decode(bundle: Bundle) -> None:
    """What `restores` leaves out is not all that they lack."""
    with pytest.raises(BundleTensorError, match="flight bundle"):
        Decoder(bundle.for_flight(), restores=False)


def test_a_huge_grid_is_counted_not_listed() -> None:
    """A side frame that claims millions of patches costs no memory for those that are missing."""
    side, patch = frames_of(cubes.tile())
    huge = replace(side, shape=(10, 65_536, 65_536), patch_px=8)
    with pytest.raises(BitstreamError, match="67108863 patches are missing"):
        DECODER.decode([huge.pack(), replace(patch, payload=b"", mask=b"").pack()])


def test_what_cannot_be_a_tile_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches are counted, and the tile measured, before the first patch takes time and memory."""
    _, frames = tile_of_two()
    monkeypatch.setattr(Decoder, "decode_patch", lambda *_: pytest.fail("a patch was decoded"))
    with pytest.raises(BitstreamError, match="1 patches are missing"):
        DECODER.decode(frames[:-1])
    monkeypatch.setattr("codec.decoder.memory_bytes", lambda: 100)
    with pytest.raises(BitstreamError, match=r"tile holds \d+ bytes, this machine has 100"):
        DECODER.decode(frames)


def test_a_tile_is_in_memory_once() -> None:
    """Patches are written where they belong: a large tile needs no second place."""
    tile = Tile(samples=np.full((8, 640, 640), 500, np.int16), info=TileInfo())
    frames = encode(tile)
    tracemalloc.start()
    try:
        DECODER.decode(frames)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1.8 * tile.samples.nbytes


def test_more_components_than_the_model_sends() -> None:
    """Levels are bounded by the model, not by what fits in a header."""
    side, patch = frames_of(cubes.tile(bands=10))
    with pytest.raises(FrameFieldError, match="9 components"):
        DECODER.decode_patch(replace(side, levels=(40,) * 9), patch)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"payload": b""}, PayloadError, id="no payload"),
        pytest.param({"payload": b"\x00" * 5}, PayloadError, id="short payload"),
        pytest.param({"levels": ()}, BitstreamError, id="no components"),
        pytest.param({"levels": (40,)}, BitstreamError, id="a component less"),
        pytest.param({"valid_bands": np.arange(10) > 0}, BitstreamError, id="a band less"),
    ],
)
def test_a_hostile_side_frame(change: dict[str, Any], error: type[BitstreamError]) -> None:
    """Side information that contradicts itself is an error with a type."""
    side, patch = frames_of(cubes.tile())
    with pytest.raises(error):
        DECODER.decode_patch(replace(side, **change), patch)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"patch_row": 1}, FrameFieldError, id="outside the grid"),
        pytest.param({"payload": b"\x01"}, PayloadError, id="no whole word"),
        pytest.param({"payload": b"\xff" * 4000}, PayloadError, id="far too long"),
        pytest.param({"mask": b"Q"}, PayloadError, id="unknown mask"),
        pytest.param({"mask": b"P\x00"}, BitstreamError, id="damaged mask"),
    ],
)
def test_a_hostile_patch_frame(change: dict[str, Any], error: type[BitstreamError]) -> None:
    """A patch that contradicts its tile is an error with a type."""
    side, patch = frames_of(cubes.tile())
    with pytest.raises(error):
        DECODER.decode_patch(side, replace(patch, **change))


def test_symbols_without_components() -> None:
    """A payload where the tile has no components is refused, not an index out of range."""
    side, _ = frames_of(Tile(samples=np.full((4, 9, 9), 5, np.int16), info=TileInfo()))
    _, patch = frames_of(cubes.tile())
    with pytest.raises(PayloadError, match="without components"):
        DECODER.decode_patch(side, replace(patch, tile_id=side.tile_id))


@settings(max_examples=60)
@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(-128, 127))
def test_any_payload_decodes_or_is_refused(side_raw: bytes, raw: bytes, offset: int) -> None:
    """Whatever the payloads hold, the decoder returns a patch or raises a `BitstreamError`."""
    side, patch = frames_of(cubes.tile(bands=4, rows=8, cols=8))
    for hostile in (replace(side, payload=side_raw), side):
        try:
            decoded = DECODER.decode_patch(hostile, replace(patch, payload=raw, step_offset=offset))
        except BitstreamError:
            continue
        assert decoded.samples.shape == (4, 8, 8)


@pytest.mark.parametrize("fields", [{"step": 9e8}, {"levels": (255, 255, 255, 255)}])
def test_overflow_is_no_warning(fields: dict[str, Any]) -> None:
    """Numbers that overflow end at the type's limits: no NaN reaches an integer."""
    side, patch = frames_of(cubes.tile(bands=4, rows=8, cols=8, noise_dn=500.0))
    info = replace(side.info, reflectance_scale=1e12)
    fields = {"info": info, **fields, "levels": fields.get("levels", side.levels)}
    hostile = replace(side, **fields)
    for offset in (0, 127):
        try:
            decoded = DECODER.decode_patch(hostile, replace(patch, step_offset=offset))
        except BitstreamError:
            continue
        assert decoded.samples.dtype == np.int16


def test_no_frame_cut_or_flipped_decodes() -> None:
    """Through the whole decoder: a damaged frame never becomes a tile."""
    frames = encode(cubes.tile(bands=4, rows=8, cols=8))
    for position, raw in enumerate(frames):
        broken = [raw[:length] for length in range(len(raw))]
        broken += [bytes([*raw[:i], raw[i] ^ 1 << i % 8, *raw[i + 1 :]]) for i in range(len(raw))]
        for damaged in broken:
            with pytest.raises(BitstreamError):
                DECODER.decode([*frames[:position], damaged, *frames[position + 1 :]])


def test_the_checksum_is_over_everything() -> None:
    """CRC32C, big-endian, over all that comes before it."""
    raw = encode(cubes.tile())[0]
    assert struct.unpack(">I", raw[-4:])[0] == google_crc32c.value(raw[:-4])
