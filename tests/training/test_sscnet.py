"""Rules of `training.sscnet`: the paper's network learns from any sensor, and codes its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from fakes.bundles import minmax_bundle
from fakes.cubes import tile
from training.bundles import changed, size_of
from training.calibrate import calibrate
from training.checkpoint import Progress
from training.config import PruneSettings, Settings
from training.errors import CheckpointError, SettingsError
from training.loop import initialized
from training.prune import prune, ratio_of
from training.scenes import Crops, Scene, Split
from training.sscnet import (
    prune_sscnet,
    resampled,
    scene_cubes,
    sensitivity,
    train_sscnet,
)


@pytest.fixture
def start() -> Bundle:
    """The paper's layers in small, for five bands."""
    return initialized(minmax_bundle(5), 0)


def costs(start: Bundle, split: Split, settings: Settings) -> tuple[Bundle, list[Progress]]:
    """Train; return the last epoch's model and every epoch's progress."""
    fit = settings.fit.model_copy(update={"epochs": 12, "learning_rate": 0.02})
    seen: list[Progress] = []
    last = start

    def save(tensors: object, progress: Progress) -> None:
        nonlocal last
        assert isinstance(tensors, dict)
        last = changed(start, tensors=tensors)
        seen.append(progress)

    train_sscnet(start, scene_cubes(split, 5), fit, seed=0, save=save, keep=lambda _: None)
    return last, seen


def test_it_learns_from_any_sensor(start: Bundle, split: Split, settings: Settings) -> None:
    """Scenes of eight bands teach a network of five; held-back ones cost less."""
    trained, seen = costs(start, split, settings)
    assert [p.epoch for p in seen] == list(range(13))
    assert seen[0].relative == 1
    assert seen[-1].best_cost < 0.8 * seen[0].cost

    calibrated = calibrate(trained, resampled(split.training, 5), settings.calibrate)
    own = tile(bands=5, rows=24, cols=40, noise_dn=30.0)
    frames = Encoder(calibrated, backend="torch-cpu").encode(own)
    assert Decoder(calibrated).decode(frames).samples.shape == own.samples.shape


def test_it_starts_from_an_ordinary_reflectance(start: Bundle) -> None:
    """From the middle of the sigmoid it fell to 0 on dark scenes, and never got out again."""
    with torch.inference_mode():
        restored = start.synthesis()(0.01 * torch.randn(1, 20, 4, 4))
    assert 0.1 < float(restored.mean()) < 0.2


def test_it_can_be_pruned(start: Bundle) -> None:
    """Both networks lose hidden channels; bands and latents stay."""
    pruned = prune(start, PruneSettings(ratio=0.5, round_to=2)).network
    assert max(pruned.encoder_widths + pruned.decoder_widths) <= 4
    assert (pruned.components, pruned.latent_channels) == (5, 20)


@pytest.mark.parametrize(
    "how",
    [
        {"schedule": "agp"},
        {"schedule": "iterative", "context": "global", "criterion": "squared_final"},
        {"schedule": "agp", "context": "sensitivity", "distill": 0.5},
        {"schedule": "agp", "layers": {"encoder.0": 0.5, "decoder.6": 0.0}},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_it_shrinks_while_it_learns(
    start: Bundle, split: Split, settings: Settings, how: dict[str, object]
) -> None:
    """Whatever chooses the channels and when they go: targets are met, and it learns on."""
    tune = settings.fit.model_copy(update={"epochs": 6, "learning_rate": 0.01})
    given = PruneSettings.model_validate(
        {"ratio": 0.1, "fewer_params": 0.3, "fewer_macs": 0.4, "round_to": 2, "tune": tune, **how}
    )
    cubes, told = scene_cubes(split, 5), list[tuple[int, float, float]]()
    needs = sensitivity(start, cubes, given, seed=0) if given.context == "sensitivity" else None
    pruned = prune_sscnet(
        start,
        cubes,
        given,
        ratio_of(start, given, needs),
        seed=0,
        on_epoch=lambda *one: told.append(one),
    )
    before, after = size_of(start.network), size_of(pruned.network)
    assert after["params"] <= 0.7 * before["params"]
    macs = [size["macs_encoder"] + size["macs_decoder"] for size in (before, after)]
    assert macs[1] <= 0.6 * macs[0]
    assert (pruned.network.components, pruned.network.latent_channels) == (5, 20)
    assert [epoch for epoch, _, _ in told] == [1, 2, 3, 4, 5, 6]
    untuned = prune(start, given, ratio_of(start, given, needs))
    _, seen = costs(untuned, split, settings)
    assert min(cost for _, _, cost in told) < 0.9 * seen[0].cost


def test_each_epoch_of_tuning_has_crops_of_its_own(
    start: Bundle, split: Split, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones again and again are learned by heart."""
    drawn: list[tuple[int, float]] = []

    class Watched(Crops):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            found = super().__getitem__(index)
            if self._count is not None:
                drawn.append((index, float(found[0].sum())))
            return found

    monkeypatch.setattr("training.sscnet.Crops", Watched)
    tune = settings.fit.model_copy(update={"epochs": 3})
    given = PruneSettings(ratio=0.5, round_to=2, schedule="agp", tune=tune)
    cubes = scene_cubes(split, 5)
    prune_sscnet(start, cubes, given, 0.5, seed=0, on_epoch=lambda *_: None)
    assert len(drawn) >= 3 * tune.crops_per_epoch
    assert len(set(drawn)) > 2.5 * tune.crops_per_epoch


def test_layers_differ_in_what_they_bear(start: Bundle, split: Split, settings: Settings) -> None:
    """A layer that matters costs more when it is pruned, and so loses less than others."""
    given = PruneSettings(ratio=0.5, round_to=2, context="sensitivity", tune=settings.fit)
    trained, _ = costs(start, split, settings)
    found = sensitivity(trained, scene_cubes(split, 5), given, seed=0)
    assert len(found) == 8
    assert all(layer.startswith(("encoder.", "decoder.")) for layer in found)
    ratio = ratio_of(trained, given, found)
    assert isinstance(ratio, dict)
    assert ratio[max(found, key=found.__getitem__)] == min(ratio.values())
    assert ratio[min(found, key=found.__getitem__)] == max(ratio.values())


def test_time_is_a_target_too(monkeypatch: pytest.MonkeyPatch, start: Bundle) -> None:
    """The least ratio is taken under which the encoder is as fast as asked for."""

    def took_ms(bundle: Bundle) -> float:
        return 1.0 * sum(bundle.network.encoder_widths)

    monkeypatch.setattr("training.prune.encoder_ms", took_ms)
    given = PruneSettings(ratio=0.05, fewer_ms=0.3, round_to=1)
    ratio = ratio_of(start, given)
    assert isinstance(ratio, float)
    assert took_ms(prune(start, given, ratio)) <= 0.7 * took_ms(start)
    assert took_ms(prune(start, given, ratio - 1 / 64)) > 0.7 * took_ms(start)


def test_layers_may_be_given_their_own(start: Bundle) -> None:
    """The board's layers may lose more than the ground's; a target takes from the others."""
    given = PruneSettings(layers={"encoder.0": 0.75, "decoder.6": 0.0}, ratio=0.25, round_to=1)
    pruned = prune(start, given, ratio_of(start, given)).network
    wide = start.network
    assert pruned.encoder_widths[0] == wide.encoder_widths[0] // 4
    assert pruned.encoder_widths[1] == wide.encoder_widths[1] * 3 // 4
    assert pruned.decoder_widths[3] == wide.decoder_widths[3]

    met = ratio_of(start, given.model_copy(update={"fewer_macs": 0.6}))
    assert isinstance(met, dict)
    assert (met["encoder.0"], met["decoder.6"]) == (0.75, 0.0)
    assert met["encoder.2"] > 0.25

    with pytest.raises(SettingsError, match=r"prune\.layers encoder\.1: there are encoder\.0, "):
        ratio_of(start, PruneSettings(layers={"encoder.1": 0.5}))


def test_a_target_out_of_reach_is_refused(start: Bundle) -> None:
    """Latents and bands stay, and with them their weights."""
    with pytest.raises(CheckpointError, match=r"meets fewer_params 0\.99"):
        ratio_of(start, PruneSettings(fewer_params=0.99, round_to=2))


@pytest.mark.parametrize("bands", [1, 3, 8, 20])
def test_resampling_keeps_reflectance(bands: int) -> None:
    """As many bands as asked for, the first the first and the last the last, within [0, 1]."""
    scene = Scene(name="x", group="x", tile=tile(bands=8, rows=4, cols=5, seed=1))
    (found,) = resampled([scene], bands)
    samples = found.tile.samples
    assert samples.shape == (bands, 4, 5)
    assert found.tile.info.reflectance_scale == 1
    assert samples.min() >= 0
    assert samples.max() <= 1
    first = np.clip(scene.tile.samples[0] / scene.tile.info.reflectance_scale, 0, 1)
    assert np.allclose(samples[0], first, atol=1e-6)
    if bands > 1:
        last = np.clip(scene.tile.samples[-1] / scene.tile.info.reflectance_scale, 0, 1)
        assert np.allclose(samples[-1], last, atol=1e-6)


def test_what_is_not_valid_is_zero() -> None:
    """Fill teaches nothing but darkness."""
    holed = tile(bands=4, rows=6, cols=6, dtype="float32", fill_pixels=0.5)
    (found,) = resampled([Scene(name="x", group="x", tile=holed)], 4)
    assert not found.tile.samples[~holed.valid()].any()
