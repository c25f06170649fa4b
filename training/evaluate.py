"""Evaluation: the real encoder and decoder, every byte counted, quality per patch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from codec.backend_names import BackendName
from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.patch_grid import PatchGrid
from codec.patching import split
from codec.quality import max_abs_error, psnr_db, spectral_angle_deg, ssim
from codec.tile import Tile
from training.scenes import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One scene under one codec at one step; the fields of `evaluate --json`.

    Attributes:
        scene: Name of the scene.
        group: Group of the scene.
        codec: What was measured, a name for the reader.
        bundle: Name of the bundle.
        step: Quantizer step [10⁻⁴ reflectance].
        backend: What ran the encoder network.
        precision: What it computed in.
        bytes: All frames of the tile, headers and checksums counted.
        side_bytes: The side frame among them.
        bpppc: Bits per valid sample.
        psnr_db: Per patch, MAX = reflectance 1.0, then averaged [dB].
        spectral_angle_deg: Per patch, then averaged [degrees].
        ssim: Per patch, then averaged [1].
        max_abs_error: Largest of any sample [DN].
        encode_seconds: Tile to frames [s].
        decode_seconds: Frames to tile [s].
    """

    scene: str
    group: str
    codec: str
    bundle: str
    step: float
    backend: str
    precision: str
    bytes: int
    side_bytes: int
    bpppc: float
    psnr_db: float
    spectral_angle_deg: float
    ssim: float
    max_abs_error: float
    encode_seconds: float
    decode_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is undefined or infinite becomes None."""
        return {
            k: None if isinstance(v, float) and not np.isfinite(v) else v
            for k, v in asdict(self).items()
        }


def evaluate(
    bundle: Bundle,
    scenes: Sequence[Scene],
    steps: Sequence[float],
    *,
    codec: str,
    backend: BackendName = "auto",
    on_score: Callable[[Score], None] = lambda _: None,
) -> list[Score]:
    """Encode and decode scenes at some steps.

    Args:
        bundle: The model, with its synthesis network.
        scenes: What is coded.
        steps: Quantizer steps [10⁻⁴ reflectance].
        codec: Name in the scores.
        backend: What runs the encoder network.
        on_score: Called with each score as it is found.
    """
    decoder = Decoder(bundle)
    scores = []
    for step in steps:
        encoder = Encoder(bundle, step=step, backend=backend)
        for scene in scenes:
            scores.append(_score(encoder, decoder, scene, codec))
            on_score(scores[-1])
    return scores


def _score(encoder: Encoder, decoder: Decoder, scene: Scene, codec: str) -> Score:
    start_s = time.perf_counter()
    frames = encoder.encode(scene.tile)
    encoded_s = time.perf_counter()
    restored = decoder.decode(frames)
    decoded_s = time.perf_counter()
    size = sum(map(len, frames))
    samples = int(scene.tile.valid().sum())
    return Score(
        scene=scene.name,
        group=scene.group,
        codec=codec,
        bundle=encoder.bundle.name,
        step=encoder.step,
        backend=encoder.backend.name,
        precision=encoder.backend.precision,
        bytes=size,
        side_bytes=len(frames[0]),
        bpppc=8 * size / samples if samples else float("nan"),
        encode_seconds=encoded_s - start_s,
        decode_seconds=decoded_s - encoded_s,
        **quality(scene.tile, restored),
    )


def quality(tile: Tile, restored: Tile) -> dict[str, float]:
    """Quality of each patch, averaged; the largest error of all."""
    grid = PatchGrid(tile_rows=tile.samples.shape[1], tile_cols=tile.samples.shape[2])
    peak = tile.info.reflectance_scale
    values = [
        (
            psnr_db(before, after, valid, peak),
            spectral_angle_deg(before, after, valid),
            ssim(before, after, valid, peak),
            max_abs_error(before, after, valid),
        )
        for before, after, valid in zip(
            split(tile.samples, grid),
            split(restored.samples, grid),
            split(tile.valid(), grid),
            strict=True,
        )
        if valid.any()
    ]
    if not values:
        return dict.fromkeys(("psnr_db", "spectral_angle_deg", "ssim", "max_abs_error"), np.nan)
    psnr, angle, similarity, worst = map(np.array, zip(*values, strict=True))
    return {
        "psnr_db": float(psnr.mean()),
        "spectral_angle_deg": float(angle.mean()),
        "ssim": float(similarity.mean()),
        "max_abs_error": float(worst.max()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A codec against another on one scene.

    Attributes:
        scene: Name of the scene.
        rate_change: Bytes at equal PSNR over the other's, minus 1, averaged over the PSNR range
            both reach; NaN where the ranges do not meet.
        psnr_change_db: PSNR at equal bytes minus the other's, averaged over the common range [dB].
    """

    scene: str
    rate_change: float
    psnr_change_db: float


def compare(scores: Sequence[Score], baseline: Sequence[Score]) -> list[Comparison]:
    """Compare two codecs scene by scene, at equal quality and at equal rate.

    Between the measured steps, PSNR is taken as linear in log₂ of the bytes: the mean over the
    common range of Bjøntegaard's deltas (VCEG-M33, 2001), without his cubic, which can overshoot.
    """
    return [
        Comparison(scene=scene, rate_change=2**octaves - 1, psnr_change_db=decibels)
        for scene, ours, theirs in _curves(scores, baseline)
        for octaves in [_mean_gap(ours[::-1], theirs[::-1])]
        for decibels in [_mean_gap(ours, theirs)]
    ]


Curve = np.ndarray[tuple[int, int], np.dtype[np.float64]]
"""Rows log₂(bytes) and PSNR, shape (2, steps)."""


def _curves(
    scores: Sequence[Score], baseline: Sequence[Score]
) -> Iterator[tuple[str, Curve, Curve]]:
    for scene in dict.fromkeys(score.scene for score in scores):
        curves = [
            np.array([(np.log2(s.bytes), s.psnr_db) for s in side if s.scene == scene]).T
            for side in (scores, baseline)
        ]
        if all(curve.size and np.isfinite(curve).all() for curve in curves):
            yield scene, curves[0], curves[1]


def _mean_gap(ours: Curve, theirs: Curve) -> float:
    """Mean of our second row minus theirs, over the range of the first row both cover."""
    low = max(ours[0].min(), theirs[0].min())
    high = min(ours[0].max(), theirs[0].max())
    if low >= high:
        return float("nan")
    at = np.linspace(low, high, 101)
    ours, theirs = ours[:, np.argsort(ours[0])], theirs[:, np.argsort(theirs[0])]
    return float(np.mean(np.interp(at, *ours) - np.interp(at, *theirs)))
