"""Every byte is counted, quality is per patch, and comparisons are at equal rate or quality."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.quality import psnr_db
from fakes.bundles import klt_bundle
from fakes.cubes import tile
from training.evaluate import Score, compare, evaluate
from training.scenes import Scene, Split

FIELDS = {
    *("scene", "group", "codec", "bundle", "step", "bytes", "bpppc", "psnr_db"),
    *("spectral_angle_deg", "ssim", "max_abs_error", "encode_seconds", "decode_seconds"),
}


def test_a_score_is_what_the_codec_does(split: Split) -> None:
    """Bytes are those of all frames; PSNR is that of the restored samples."""
    bundle, scene = klt_bundle(), split.validation[0]
    (score,) = evaluate(bundle, [scene], [24.0], codec="x", backend="torch-cpu")

    frames = Encoder(bundle, step=24.0, backend="torch-cpu").encode(scene.tile)
    restored = Decoder(bundle).decode(frames).samples
    before = scene.tile.samples
    assert score.bytes == sum(map(len, frames))
    assert score.side_bytes == len(frames[0])
    assert score.bpppc == 8 * score.bytes / before.size
    assert score.psnr_db == pytest.approx(
        psnr_db(before, restored, np.ones(before.shape, dtype=bool), 10_000)
    )
    assert (score.bundle, score.backend, score.precision) == (bundle.name, "torch-cpu", "float32")


def test_fill_is_not_counted() -> None:
    """The rate is per valid sample; a scene of nothing but fill has none and breaks nothing."""
    half = Scene(name="half", group="", tile=tile(nodata=-1, fill_bands=(0, 1, 2, 3, 4)))
    none = Scene(name="none", group="", tile=tile(nodata=-1, fill_pixels=1.0))
    scores = evaluate(klt_bundle(), [half, none], [24.0], codec="x", backend="torch-cpu")

    assert scores[0].bpppc == pytest.approx(8 * scores[0].bytes / (half.tile.samples.size / 2))
    assert scores[1].to_dict()["bpppc"] is None
    assert scores[1].to_dict()["psnr_db"] is None


def test_quality_is_averaged_over_patches() -> None:
    """A large tile's PSNR is the mean of its patches', not that of its mean error."""
    scene = Scene(name="wide", group="", tile=tile(rows=8, cols=136, noise_dn=50.0))
    (score,) = evaluate(klt_bundle(), [scene], [24.0], codec="x", backend="torch-cpu")
    restored = Decoder(klt_bundle()).decode(
        Encoder(klt_bundle(), step=24.0, backend="torch-cpu").encode(scene.tile)
    )

    parts = [
        psnr_db(
            scene.tile.samples[:, :, part],
            restored.samples[:, :, part],
            np.ones(scene.tile.samples[:, :, part].shape, dtype=bool),
            10_000,
        )
        for part in (slice(0, 128), slice(128, 136))
    ]
    assert score.psnr_db == pytest.approx(np.mean(parts))


def test_the_json_has_the_agreed_fields(split: Split) -> None:
    """Other programs read these names."""
    (score,) = evaluate(klt_bundle(), split.validation, [24.0], codec="x", backend="torch-cpu")

    assert score.to_dict().keys() >= FIELDS
    json.dumps(score.to_dict(), allow_nan=False)


def curve(scene: str, *points: tuple[int, float]) -> list[Score]:
    """Scores of one scene: (bytes, PSNR) at each step."""
    score = Score(
        scene=scene,
        group="g",
        codec="c",
        bundle="b",
        step=1.0,
        backend="k",
        precision="p",
        bytes=0,
        side_bytes=0,
        bpppc=0.0,
        psnr_db=0.0,
        spectral_angle_deg=0.0,
        ssim=0.0,
        max_abs_error=0.0,
        encode_seconds=0.0,
        decode_seconds=0.0,
    )
    return [replace(score, bytes=size, psnr_db=psnr) for size, psnr in points]


def test_a_codec_that_halves_the_bytes_is_found_to() -> None:
    """Half the bytes at each quality: −50 %, and on this curve +6 dB at equal bytes."""
    theirs = curve("s", (1000, 40.0), (2000, 46.0), (4000, 52.0))
    ours = curve("s", (500, 40.0), (1000, 46.0), (2000, 52.0))

    (found,) = compare(ours, theirs)

    assert found.rate_change == pytest.approx(-0.5)
    assert found.psnr_change_db == pytest.approx(6.0)


def test_the_order_of_steps_does_not_matter() -> None:
    """Scores may come from the finest step or from the coarsest."""
    theirs = curve("s", (1000, 40.0), (2000, 46.0))
    ours = curve("s", (900, 40.0), (1800, 46.0))

    assert compare(ours[::-1], theirs) == compare(ours, theirs[::-1]) == compare(ours, theirs)


def test_curves_that_do_not_meet_are_not_compared() -> None:
    """Nothing is extrapolated."""
    (found,) = compare(curve("s", (10, 30.0), (20, 31.0)), curve("s", (10, 40.0), (20, 41.0)))

    assert np.isnan(found.rate_change)
    assert compare(curve("s", (10, 30.0)), curve("t", (10, 30.0))) == []
