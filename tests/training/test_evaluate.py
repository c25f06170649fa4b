"""Every byte is counted, quality is per patch, and comparisons are at equal rate or quality."""

from __future__ import annotations

import json

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


def test_a_scene_leaves_at_the_highest_rate(split: Split) -> None:
    """A scene is scored up to the first step that takes more, and no further."""
    given = [*split.validation, *split.training[:1]]
    every = evaluate(klt_bundle(), given, [256.0, 64.0, 16.0], codec="x", backend="torch-cpu")
    rates = [score.bpppc for score in every if score.step == 64.0]

    found = evaluate(
        klt_bundle(),
        given,
        [256.0, 64.0, 16.0],
        codec="x",
        backend="torch-cpu",
        max_bpppc=sum(rates) / 2,
    )

    fine = [score.scene for score in found if score.step == 16.0]
    assert len([score for score in found if score.step == 64.0]) == 2
    assert fine == [
        scene.name for scene, rate in zip(given, rates, strict=True) if rate < max(rates)
    ]


def test_a_score_comes_back_from_json(split: Split) -> None:
    """What a file holds is the score it was made of."""
    (score,) = evaluate(klt_bundle(), split.validation, [24.0], codec="x", backend="torch-cpu")

    assert Score.from_dict(json.loads(json.dumps(score.to_dict()))) == score


def test_a_codec_that_halves_the_bytes_is_found_to() -> None:
    """Half the bytes at each quality: −50 %, and on this curve +6 dB at equal bytes."""
    theirs = {"s": [(0.1, 40.0), (0.2, 46.0), (0.4, 52.0)]}
    ours = {"s": [(0.05, 40.0), (0.1, 46.0), (0.2, 52.0)]}

    found = compare(ours, theirs)["s"]

    assert found.rate_change == pytest.approx(-0.5)
    assert found.psnr_change_db == pytest.approx(6.0)


def test_only_the_rates_asked_for_count() -> None:
    """A codec that is better at high rates alone is not better below."""
    theirs = {"s": [(0.1, 40.0), (0.2, 46.0), (0.4, 52.0), (0.8, 58.0)]}
    ours = {"s": [(0.1, 40.0), (0.2, 46.0), (0.4, 54.0), (0.8, 62.0)]}

    assert compare(ours, theirs, (0.1, 0.2))["s"].psnr_change_db == pytest.approx(0, abs=0.2)
    assert compare(ours, theirs, (0.4, 0.8))["s"].psnr_change_db > 2


def test_scenes_of_one_codec_are_not_compared() -> None:
    """Nothing is said of a scene that only one of them has coded."""
    assert compare({"s": [(0.1, 30.0)]}, {"t": [(0.1, 30.0)], "s": []}) == {}
