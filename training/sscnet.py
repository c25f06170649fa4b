"""Training of the paper's network alone: no KLT, no shortcut, the mean squared error of its output.

Sensors differ in their bands and the network takes a fixed number of them, so every scene is
resampled to it along its bands. Quantization has no part in training, as in the paper.

Source: La Grassa et al., Remote Sensing 14(10):2472, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from codec.bundle import Bundle
from codec.tile import Tile, TileInfo
from training.config import FitSettings
from training.loop import Networks, Progress, Save, run
from training.scenes import Crops, Scene, Split


class Autoencoder(Networks):
    """Both networks, one after the other; reflectance in, reflectance out."""

    def forward(self, samples: Tensor, _present: Tensor) -> Tensor:
        """Restore crops of shape (n, bands, r, c); all bands are present."""
        device = samples.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.is_bfloat16):
            restored: Tensor = self.synthesis(self.analysis(samples))
        return restored.float()


class SquaredError(nn.Module):
    """Mean squared error."""

    def forward(self, restored: Tensor, samples: Tensor, _present: Tensor) -> Tensor:
        """Return it; all bands are present."""
        return (restored - samples).square().mean()


def train_sscnet(
    bundle: Bundle,
    split: Split,
    settings: FitSettings,
    *,
    seed: int,
    save: Save,
    done: Progress | None = None,
) -> None:
    """Train both networks of a bundle without a shortcut; arguments as of `training.loop.train`.

    Costs are mean squared errors, compared with the start's.
    """
    model = Autoencoder(bundle, settings.precision)
    crops = [
        Crops(
            [scene.tile.samples for scene in resampled(scenes, bundle.network.components)],
            components=bundle.network.components,
            crop_px=settings.crop_px,
            count=count,
            seed=seed + (done.epoch if done else 0),
            signed=False,
        )
        for scenes, count in (
            (split.training, settings.crops_per_epoch),
            (split.validation, None),
        )
    ]
    run(model, SquaredError(), crops[0], crops[1], settings, save=save, done=done)


def resampled(scenes: Sequence[Scene], bands: int) -> list[Scene]:
    """Spread the bands of scenes evenly over as many as asked for.

    Args:
        scenes: Any; what is not valid becomes 0.
        bands: How many.

    Returns:
        Scenes in reflectance, limited to [0, 1], float32.
    """
    return [replace(scene, tile=_resampled(scene.tile, bands)) for scene in scenes]


def _resampled(tile: Tile, bands: int) -> Tile:
    scale = np.float32(1 / tile.info.reflectance_scale)
    samples = np.where(tile.valid(), tile.samples, 0).astype(np.float32) * scale
    place = np.linspace(0, len(samples) - 1, bands, dtype=np.float32)
    below = np.minimum(place.astype(np.int64), max(0, len(samples) - 2))
    share = (place - below)[:, None, None]
    above = samples[np.minimum(below + 1, len(samples) - 1)]
    mixed = np.clip(samples[below] * (1 - share) + above * share, 0, 1).astype(np.float32)
    return Tile(samples=mixed, info=TileInfo(sensor=tile.info.sensor, reflectance_scale=1.0))
