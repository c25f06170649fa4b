"""Baselines are scored as ours is: real bytes, a real decoding, and none weaker than it need be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codec.quality import psnr_db
from fakes.bundles import klt_bundle
from fakes.cubes import tile
from training.baselines import j2k_bands, jxl_bands, klt_j2k, lossless
from training.bjontegaard import delta, envelope
from training.errors import ScenesError
from training.evaluate import Score
from training.klt_j2k import KltJ2k, decode
from training.scenes import Scene

TABLES = klt_bundle().tables
COUNTS = (1, 2, 4, 6, 8, 16)
SCENE = Scene(name="fake", group="g", tile=tile(bands=16, rows=48, cols=56, noise_dn=20.0))
FILLED = Scene(
    name="filled",
    group="g",
    tile=tile(rows=40, nodata=-1, fill_bands=(0,), fill_samples=0.01, fill_pixels=0.1),
)


def curve(scores: list[Score]) -> list[tuple[float, float]]:
    """Return rate and PSNR."""
    return [(score.bpppc, score.psnr_db) for score in scores]


def test_a_score_is_what_the_codec_does() -> None:
    """Bytes and PSNR are those of the setting's own bytes and of what they decode to."""
    (score,) = klt_j2k(SCENE, TABLES, components=[4], steps=[64.0], reversible_steps=[])
    tried = [
        KltJ2k(components=4, step=64.0, side_step=64.0 * ratio, resolutions=resolutions)
        for ratio in (1.0, 2**0.5)
        for resolutions in (1, 2, 3)
    ]
    before = SCENE.tile
    found = set()
    for setting in tried:
        raw, _ = setting.encode(before, TABLES)
        after = decode(raw, before, TABLES).samples
        psnr = psnr_db(before.samples, after, before.valid(), 10_000)
        found.add((len(raw), round(psnr, 6)))

    assert (score.codec, score.scene, score.group, score.step) == ("klt4-j2k", "fake", "g", 64.0)
    assert (score.bytes, round(score.psnr_db, 6)) in found
    assert score.bpppc == 8 * score.bytes / before.samples.size
    assert 0 < score.side_bytes < score.bytes
    assert min(score.encode_seconds, score.decode_seconds) > 0


def test_counts_that_send_the_same_are_scored_once() -> None:
    """A count beyond what the step leaves of the tile repeats a smaller one and is left out."""
    scores = klt_j2k(SCENE, TABLES, components=[2, 12, 16], steps=[64.0], reversible_steps=[])

    assert [score.codec for score in scores] == ["klt2-j2k", "klt12-j2k"]


def test_the_search_leaves_the_envelope_as_it_is() -> None:
    """Counts are sought around the last step's best: none is missed that the envelope has."""
    steps = [512.0, 128.0, 64.0, 32.0]
    found = klt_j2k(SCENE, TABLES, components=COUNTS, steps=steps, reversible_steps=[])
    every = [
        score
        for step in steps
        for count in COUNTS
        for score in klt_j2k(SCENE, TABLES, components=[count], steps=[step], reversible_steps=[])
    ]

    assert len(found) < len({(s.bytes, s.psnr_db) for s in every})
    assert delta(envelope(curve(found)), envelope(curve(every)), 0.05, 2).rate_change < 0.001


def test_a_klt_takes_a_fraction_of_the_bytes() -> None:
    """Bands are alike: a KLT that did not halve the bytes would be no strong baseline."""
    steps = [1024.0, 512.0, 256.0, 128.0]
    klt = klt_j2k(SCENE, TABLES, components=[2, 4], steps=steps, reversible_steps=[])
    band = j2k_bands(SCENE, steps=[512.0, 256.0, 128.0, 64.0])
    found = delta(envelope(curve(klt)), envelope(curve(band)), 0.05, 2.0)

    assert found.rate_change < -0.5


def test_the_ladder_ends_where_nobody_looks() -> None:
    """Steps that spend more than the highest rate of interest are neither tried nor scored."""
    scores = klt_j2k(
        SCENE, TABLES, components=[16], steps=[64.0, 1.0, 0.5], reversible_steps=[64.0]
    )

    assert [(s.codec, s.step) for s in scores] == [("klt16-j2k", 64.0), ("klt16-j2k-5/3", 64.0)]


@pytest.mark.parametrize("scene", [SCENE, FILLED], ids=["whole", "filled"])
def test_more_bytes_are_less_error(scene: Scene) -> None:
    """Band by band, each rung of a ladder costs more and is better, with fill or without."""
    for scores in (
        j2k_bands(scene, steps=[512.0, 128.0, 64.0]),
        jxl_bands(scene, distances=[15.0, 5.0, 1.0]),
    ):
        assert len(scores) > 1
        assert (np.diff(curve(scores), axis=0) > 0).all()


@pytest.mark.parametrize("scene", [SCENE, FILLED], ids=["whole", "filled"])
def test_lossless_is_lossless(scene: Scene) -> None:
    """Every valid sample comes back, in fewer bytes than it has."""
    scores = lossless(scene)

    assert [s.codec for s in scores] == ["jxl-lossless", "j2k-lossless", "jls-lossless"]
    for score in scores:
        assert score.max_abs_error == 0
        assert math.isinf(score.psnr_db)
        assert score.side_bytes < score.bytes < scene.tile.samples.nbytes


def test_a_scene_of_fill_breaks_nothing() -> None:
    """A scene without a valid sample has no rate and no quality, as with our codec."""
    scene = Scene(name="none", group="", tile=tile(nodata=-1, fill_pixels=1.0))

    assert all(math.isnan(score.bpppc) for score in lossless(scene))
    assert all(score.to_dict()["psnr_db"] is None for score in lossless(scene))


def test_image_codecs_refuse_floats() -> None:
    """What image codecs cannot take is named with its remedy."""
    scene = Scene(name="float", group="", tile=tile(dtype="float32"))

    with pytest.raises(ScenesError, match="float: image codecs take integer samples"):
        lossless(scene)
