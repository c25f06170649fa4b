"""Rules of `training.restore`: it learns from what is really coded, and never makes it worse."""

from __future__ import annotations

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.targets import mean_psnr_db
from fakes.bundles import minmax_bundle
from training.calibrate import calibrate
from training.config import Settings
from training.errors import CheckpointError
from training.restore import Restoration, train_restorer
from training.scenes import Split
from training.steps import linear_codec


@pytest.fixture
def calibrated(split: Split, settings: Settings) -> Bundle:
    """A linear codec that knows its scenes."""
    return calibrate(linear_codec(settings), split.training, settings.calibrate)


def test_held_back_scenes_gain(calibrated: Bundle, split: Split, settings: Settings) -> None:
    """What is trained decodes held-back scenes from the same frames' payloads, and better."""
    epochs: list[Restoration] = []
    trained, best = train_restorer(
        calibrated, split, settings.restore, seed=0, on_epoch=epochs.append
    )

    assert [now.epoch for now in epochs] == [1, 2, 3]
    assert best.error == min(now.error for now in epochs) < best.start_error
    (tile,) = (scene.tile for scene in split.validation)
    before, after = (Encoder(b, backend="torch-cpu").encode(tile) for b in (calibrated, trained))
    assert [len(frame) for frame in before] == [len(frame) for frame in after]
    old, new = (
        mean_psnr_db(tile, Decoder(bundle).decode(frames))
        for bundle, frames in ((calibrated, before), (trained, after))
    )
    assert new > old


def test_only_the_ground_changes(calibrated: Bundle, split: Split, settings: Settings) -> None:
    """Contexts, tables and the network on board are what they were."""
    trained, _ = train_restorer(calibrated, split, settings.restore, seed=0)
    flown = calibrated.for_flight().tensors
    assert all(np.array_equal(trained.tensors[name], array) for name, array in flown.items())
    assert trained.for_flight().tensors.keys() == flown.keys()


def test_what_does_not_help_is_not_kept(
    calibrated: Bundle, split: Split, settings: Settings
) -> None:
    """If every epoch is worse than the start, the start it is."""
    wild = settings.restore.model_copy(update={"learning_rate": 1e3})
    trained, best = train_restorer(calibrated, split, wild, seed=0)
    assert best.error <= best.start_error
    if best.epoch == 0:
        assert trained.digests == calibrated.digests


def test_equal_seeds_give_equal_weights(
    calibrated: Bundle, split: Split, settings: Settings
) -> None:
    """A training can be repeated."""
    first, second = (
        train_restorer(calibrated, split, settings.restore, seed=3)[0] for _ in range(2)
    )
    assert first.digests == second.digests


def test_a_network_alone_is_refused(split: Split, settings: Settings) -> None:
    """Without a wavelet there are no coefficients to restore."""
    with pytest.raises(CheckpointError, match="no wavelet"):
        train_restorer(minmax_bundle(8), split, settings.restore, seed=0)
