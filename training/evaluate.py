"""Evaluation: the real encoder and decoder, every byte counted, quality per patch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from training.bjontegaard import Delta, Interval, Point, delta
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """Inverse of `to_dict`, but for infinite values: they come back as NaN."""
        fields: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**fields)


def evaluate(
    bundle: Bundle,
    scenes: Sequence[Scene],
    steps: Sequence[float],
    *,
    codec: str,
    backend: BackendName = "auto",
    max_bpppc: float = math.inf,
    on_score: Callable[[Score], None] = lambda _: None,
) -> list[Score]:
    """Encode and decode scenes at some steps.

    Args:
        bundle: The model, with its synthesis network.
        scenes: What is coded.
        steps: Quantizer steps [10⁻⁴ reflectance].
        codec: Name in the scores.
        backend: What runs the encoder network.
        max_bpppc: A scene that took more is left out of the steps that follow [bits per sample].
        on_score: Called with each score as it is found.
    """
    encoder, decoder = Encoder(bundle, backend=backend), Decoder(bundle)
    scores: list[Score] = []
    beyond = set()
    for step in steps:
        for scene in (scene for scene in scenes if scene.name not in beyond):
            scores.append(_score(encoder, decoder, scene, step, codec))
            if scores[-1].bpppc > max_bpppc:
                beyond.add(scene.name)
            on_score(scores[-1])
    return scores


def _score(encoder: Encoder, decoder: Decoder, scene: Scene, step: float, codec: str) -> Score:
    start_s = time.perf_counter()
    frames = encoder.encode(scene.tile, step)
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
        step=step,
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


Curves = dict[str, list[Point]]
"""Rate and PSNR by the name of the scene."""


def curves(scores: Iterable[Score]) -> Curves:
    """Take rate and PSNR out of one codec's scores."""
    found: Curves = {}
    for score in scores:
        found.setdefault(score.scene, []).append((score.bpppc, score.psnr_db))
    return found


def compare(ours: Curves, theirs: Curves, over: Interval | None = None) -> dict[str, Delta]:
    """Compare two codecs on every scene that both have points of.

    Args:
        ours: The codec that is judged.
        theirs: What it is held against.
        over: Lowest and highest rate [bits per sample]; None takes all that theirs has.
    """
    return {
        scene: delta(points, theirs[scene], *(over or (min(rates), max(rates))))
        for scene, points in ours.items()
        if theirs.get(scene)
        for rates in [[rate for rate, _ in theirs[scene]]]
    }
