"""The codecs ours is held against: KLT + JPEG 2000, image codecs band by band, lossless references.

Every score is of a real decoding of real bytes, and every byte the decoder needs is counted but the
tile's type, shape and `info` (ours sends those, too; the others get them free).
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from codec import masks
from codec.conditioning import UNITS_PER_REFLECTANCE
from codec.tables import FrequencyTables, laplace_tables
from codec.tile import Tile
from training.bjontegaard import Point, envelope
from training.config import BITS_WEIGHT, BaselineSettings
from training.errors import ScenesError
from training.evaluate import Score, quality
from training.klt_j2k import (
    RESOLUTIONS,
    KltJ2k,
    decode,
    decode_planes,
    encode_planes,
    measured,
    pack_bands,
    place,
)
from training.scenes import Scene

MAX_BPPPC: Final = 2.5
"""Where the ladders of steps end [bits per valid sample]."""

_SIDE_RATIOS: Final = (1.0, 2**0.5)
"""Step of the basis over that of the components, tried in turn: the first is best below half a bit,
the second above; finer ones gained nothing."""

_LENGTH_BYTES: Final = 3
"""Says where a codestream ends, up to 16 MiB."""

_LEAST_BYTES: Final = 4
"""The least sample of all, which the image codecs' samples are counted from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Coded:
    """A tile once there and back."""

    bytes: int
    side_bytes: int
    restored: Tile
    encode_seconds: float
    decode_seconds: float


def every_baseline(scene: Scene, settings: BaselineSettings) -> list[Score]:
    """Score all of them; floats go through KLT + JPEG 2000 only, the image codecs take none.

    The basis is coded under the analytic tables, so that the scores know nothing of any bundle. On
    four held-back scenes at two steps a calibrated bundle's tables take up to 0.1 % less of a curve
    between 0.05 and 2 bits, and up to 0.03 % more.
    """
    scores = klt_j2k(
        scene,
        laplace_tables(),
        components=settings.components,
        steps=settings.steps,
        reversible_steps=settings.reversible_steps,
    )
    if scene.tile.samples.dtype.kind == "f":
        return scores
    bands = j2k_bands(scene, steps=settings.band_steps)
    return scores + bands + jxl_bands(scene, distances=settings.distances) + lossless(scene)


def baseline_curves(scores: Sequence[Score]) -> dict[str, list[Point]]:
    """Rate and PSNR by baseline; of KLT + JPEG 2000 the envelope over all its variants.

    Args:
        scores: Of one scene.
    """

    def points(names: Callable[[str], bool]) -> list[Point]:
        return [(s.bpppc, s.psnr_db) for s in scores if names(s.codec)]

    return {
        "klt-j2k": envelope(points(lambda codec: codec.startswith("klt"))),
        "klt-j2k-5/3": envelope(points(lambda codec: codec.endswith("-5/3"))),
        "j2k-band": points(lambda codec: codec == "j2k-band"),
        "jxl-band": points(lambda codec: codec == "jxl-band"),
    }


# ---- KLT + JPEG 2000 ---------------------------------------------------------------------------


def klt_j2k(
    scene: Scene,
    tables: FrequencyTables,
    *,
    components: Sequence[int],
    steps: Sequence[float],
    reversible_steps: Sequence[float],
) -> list[Score]:
    """KLT + JPEG 2000 over component counts and steps: "klt16-j2k", reversible "klt16-j2k-5/3".

    At each step the wavelet levels are chosen with all components, and the basis' step for each
    count, so as to spend least in rate and distortion together; only the best is scored. A count
    that gives the same components as a smaller one is left out. The search goes on from the last
    step's best count, no further than the cost falls: on four held-back scenes the envelope over
    all counts stayed within 0.12 % of rate from 0.02 to 2 bits, and 52 to 73 scores took the place
    of 143 to 172.

    Args:
        scene: What is coded.
        tables: Integer tables for the basis.
        components: Counts, ascending.
        steps: See `KltJ2k.step`, descending; the ladder ends at `MAX_BPPPC`.
        reversible_steps: The same for the reversible variants.
    """
    scores = []
    for reversible, ladder in ((False, steps), (True, reversible_steps)):
        useful = [r for r in RESOLUTIONS if r == 1 or min(scene.tile.samples.shape[1:]) >> r >= 4]
        counts = components
        for step in ladder:
            widest = KltJ2k(
                components=max(components),
                step=step,
                side_step=step,
                resolutions=useful[0],
                reversible=reversible,
            )
            settings = [replace(widest, resolutions=r) for r in useful]
            rung = _rung(scene.tile, tables, counts, settings)
            scored = [_score(scene, _name(trial.setting), step, trial.coded) for trial in rung]
            scores += [score for score in scored if score.bpppc <= MAX_BPPPC]
            if all(score.bpppc > MAX_BPPPC for score in scored) and not reversible:
                break
            best = min(rung, key=lambda trial: trial.cost).setting
            counts = components[max(0, components.index(best.components) - 1) :]
    return scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """A setting, what came of it, and its cost in rate and distortion together."""

    setting: KltJ2k
    coded: _Coded
    cost: float


def _rung(
    tile: Tile, tables: FrequencyTables, counts: Sequence[int], widest: Sequence[KltJ2k]
) -> list[_Trial]:
    """The best variant of each count, from the smallest on, until two in a row cost more."""

    def best(settings: Iterable[KltJ2k]) -> _Trial:
        trials = [_try(tile, setting, tables) for setting in settings]
        return min(trials, key=lambda trial: trial.cost)

    chosen = best(widest).setting
    rung: list[_Trial] = []
    for count in counts:
        trial = best(
            replace(chosen, components=count, side_step=chosen.step * r) for r in _SIDE_RATIOS
        )
        if rung and trial.coded.bytes == rung[-1].coded.bytes:  # so will every larger count's be
            break
        rung.append(trial)
        if len(rung) > 2 and rung[-3].cost < rung[-2].cost < rung[-1].cost:
            break
    return rung


def _name(setting: KltJ2k) -> str:
    return f"klt{setting.components}-j2k" + ("-5/3" if setting.reversible else "")


def _try(tile: Tile, setting: KltJ2k, tables: FrequencyTables) -> _Trial:
    start_s = time.perf_counter()
    raw, side_bytes = setting.encode(tile, tables)
    encoded_s = time.perf_counter()
    restored = decode(raw, tile, tables)
    coded = _Coded(
        bytes=len(raw),
        side_bytes=side_bytes,
        restored=restored,
        encode_seconds=encoded_s - start_s,
        decode_seconds=time.perf_counter() - encoded_s,
    )
    return _Trial(setting=setting, coded=coded, cost=_cost(tile, coded, setting.step))


def _cost(tile: Tile, coded: _Coded, step: float) -> float:
    """Squared error over the squared step, and bits at what one is worth at that step."""
    valid = tile.valid()
    unit = UNITS_PER_REFLECTANCE / tile.info.reflectance_scale
    error = coded.restored.samples[valid].astype(np.float32) - tile.samples[valid]
    return float((error @ error) * (unit / step) ** 2 + BITS_WEIGHT * 8 * coded.bytes)


# ---- image codecs ------------------------------------------------------------------------------

Images: TypeAlias = NDArray[np.uint16]
"""Bands less the least sample of all, shape (bands, rows, cols)."""

Shape: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImageCodec:
    """A codec without a spectral transform.

    Attributes:
        name: In the scores.
        step: Its quantizer step [10⁻⁴ reflectance]; NaN if it has none.
        encode: Bands to one codestream each, or one for all.
        decode: The inverse; gets the codestreams and the shape.
    """

    name: str
    step: float
    encode: Callable[[Images], list[bytes]]
    decode: Callable[[list[bytes], Shape], Images]


def j2k_bands(scene: Scene, *, steps: Sequence[float]) -> list[Score]:
    """JPEG 2000 without a spectral transform: "j2k-band".

    The bands, less their means, share one codestream and its allocation of rate, which spends less
    at equal error than a codestream each.

    Args:
        scene: What is coded.
        steps: See `KltJ2k.step`, descending; the ladder ends at `MAX_BPPPC`.
    """
    return _ladder(scene, [_j2k(scene, step) for step in steps])


def jxl_bands(scene: Scene, *, distances: Sequence[float]) -> list[Score]:
    """JPEG XL band by band: "jxl-band".

    Samples go in as they are, in 16 bits: stretching them to the whole range, or each band to its
    own, took more bytes at equal error.

    Args:
        scene: What is coded.
        distances: JPEG XL's measure of loss, descending; the ladder ends at `MAX_BPPPC`.
    """
    return _ladder(scene, [_jxl(distance) for distance in distances])


def lossless(scene: Scene) -> list[Score]:
    """Lossless references: "jxl-lossless", "j2k-lossless", "jls-lossless"."""
    codecs = (_jxl(None), _j2k_lossless(), _jls_lossless())
    return [_run_image_codec(scene, codec) for codec in codecs]


def _ladder(scene: Scene, codecs: Sequence[_ImageCodec]) -> list[Score]:
    scores = []
    for codec in codecs:
        score = _run_image_codec(scene, codec)
        if score.bpppc > MAX_BPPPC:
            break
        scores.append(score)
    return scores


def _run_image_codec(scene: Scene, codec: _ImageCodec) -> Score:
    """Code the bands that hold anything; fill goes in as its band's mean, and a mask beside it."""
    tile = scene.tile
    if tile.samples.dtype.kind == "f":
        raise ScenesError(f"{scene.name}: image codecs take integer samples; remedy: round them")
    start_s = time.perf_counter()
    valid_bands, valid = measured(tile)
    mask = b"" if valid is None else masks.pack(valid)
    images = tile.samples[valid_bands].astype(np.int32)
    if valid is not None:
        means = images.mean(axis=(1, 2), keepdims=True, where=valid)
        images = np.where(valid, images, np.rint(means).astype(np.int32))
    least = images.min() if images.size else 0
    streams = codec.encode((images - least).astype(np.uint16)) if images.size else []
    side_bytes = len(pack_bands(valid_bands)) + len(mask)
    side_bytes += _LEAST_BYTES + _LENGTH_BYTES * len(streams)
    encoded_s = time.perf_counter()
    if streams:
        rows, cols = images.shape[1:]
        images = codec.decode(streams, (len(images), rows, cols)) + least
    restored = place(images, np.flatnonzero(valid_bands), valid, tile)
    coded = _Coded(
        bytes=side_bytes + sum(map(len, streams)),
        side_bytes=side_bytes,
        restored=restored,
        encode_seconds=encoded_s - start_s,
        decode_seconds=time.perf_counter() - encoded_s,
    )
    return _score(scene, codec.name, codec.step, coded)


def _j2k(scene: Scene, step: float) -> _ImageCodec:
    unit = UNITS_PER_REFLECTANCE / scene.tile.info.reflectance_scale
    head = struct.Struct(">f")

    def encode(images: Images) -> list[bytes]:
        means = np.rint(images.mean(axis=(1, 2), keepdims=True)).astype(">u2")
        planes = (images - means.astype(np.float32)) * np.float32(unit)
        stream, plane_unit = encode_planes(
            planes, step, resolutions=max(RESOLUTIONS), reversible=False
        )
        return [head.pack(plane_unit) + means.tobytes() + stream]

    def decode(streams: list[bytes], shape: Shape) -> Images:
        (plane_unit,) = head.unpack_from(streams[0])
        end = head.size + 2 * shape[0]
        means = np.frombuffer(streams[0][head.size : end], dtype=">u2")[:, None, None]
        planes = decode_planes(streams[0][end:], plane_unit, shape) / np.float32(unit)
        images = np.rint(planes + means.astype(np.float32))
        return np.asarray(np.clip(images, 0, np.iinfo(np.uint16).max), dtype=np.uint16)

    return _ImageCodec(name="j2k-band", step=step, encode=encode, decode=decode)


def _jxl(distance: float | None) -> _ImageCodec:
    """JPEG XL at a distance, or lossless."""

    def encode(images: Images) -> list[bytes]:
        lossless = distance is None
        return [
            bytes(imagecodecs.jpegxl_encode(image, distance=distance, lossless=lossless))
            for image in images
        ]

    def decode(streams: list[bytes], shape: Shape) -> Images:
        return np.stack([*map(imagecodecs.jpegxl_decode, streams)]).reshape(shape)

    name = "jxl-lossless" if distance is None else "jxl-band"
    return _ImageCodec(name=name, step=math.nan, encode=encode, decode=decode)


def _j2k_lossless() -> _ImageCodec:
    def encode(images: Images) -> list[bytes]:
        stream = imagecodecs.jpeg2k_encode(
            images, codecformat="j2k", planar=True, mct=False, reversible=True
        )
        return [bytes(stream)]

    def decode(streams: list[bytes], shape: Shape) -> Images:
        return np.asarray(imagecodecs.jpeg2k_decode(streams[0], planar=True)).reshape(shape)

    return _ImageCodec(name="j2k-lossless", step=math.nan, encode=encode, decode=decode)


def _jls_lossless() -> _ImageCodec:
    def encode(images: Images) -> list[bytes]:
        return [bytes(imagecodecs.jpegls_encode(image)) for image in images]

    def decode(streams: list[bytes], shape: Shape) -> Images:
        return np.stack([*map(imagecodecs.jpegls_decode, streams)]).reshape(shape)

    return _ImageCodec(name="jls-lossless", step=math.nan, encode=encode, decode=decode)


# ---- scores ------------------------------------------------------------------------------------


def _score(scene: Scene, name: str, step: float, coded: _Coded) -> Score:
    samples = int(scene.tile.valid().sum())
    return Score(
        scene=scene.name,
        group=scene.group,
        codec=name,
        bundle="",
        step=step,
        backend="imagecodecs",
        precision="",
        bytes=coded.bytes,
        side_bytes=coded.side_bytes,
        bpppc=8 * coded.bytes / samples if samples else float("nan"),
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        **quality(scene.tile, coded.restored),
    )
