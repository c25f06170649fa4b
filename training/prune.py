"""Pruning: FasterAI decides which channels go; what stays is a plain spec with plain weights.

Layers of SSCNet alone are named as in `Chain`. FasterAI 0.4.1 leaves the analysis of sensitivity to
another package, so it is here: how much dearer held-back crops become when one layer alone loses
channels.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from codec.bundle import Bundle
from codec.expectation import FEATURES
from codec.network import Widths
from training.bundles import changed, size_of
from training.config import PruneSettings
from training.errors import CheckpointError, SettingsError
from training.fast import Pruner, criterion_of
from training.loop import Networks, RoundTrip
from training.timing import encoder_ms

PRUNED_TYPES: Final = [nn.Conv2d, nn.ConvTranspose2d, nn.Linear]
TRACE_PX: Final = 32
"""Edge of the image torch-pruning traces the networks with; any multiple of eight does."""
_LEAST_COST: Final = 0.01
"""A layer whose pruning makes crops dearer by less counts as if it were this much."""
_MOST: Final = 0.85
_STEP: Final = 1 / 64
"""Between two ratios tried in search of a target."""

Ratio = float | Mapping[str, float]
"""Share of the channels to take: of every layer, or by the name of the layer."""


class Chain(nn.Module):
    """SSCNet's encoder and decoder in the plain form that can be traced."""

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, samples: Tensor) -> Tensor:
        """Restore."""
        restored: Tensor = self.decoder(self.encoder(samples))
        return restored

    @property
    def kept(self) -> list[nn.Module]:
        """Layers whose outputs stay as many: latents and bands."""
        return [self.encoder[-2], self.decoder[-2]]

    def names(self) -> list[str]:
        """Names of the layers that may lose channels."""
        kept = self.kept
        return [
            name
            for name, layer in self.named_modules()
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
            and not any(layer is one for one in kept)
        ]


def ratio_of(
    bundle: Bundle, settings: PruneSettings, sensitivity: Mapping[str, float] | None = None
) -> Ratio:
    """How much to take, such that targets are met.

    Args:
        bundle: The trained model.
        settings: Say how much, of what, and the targets.
        sensitivity: By layer, see `training.sscnet.sensitivity`; None where layers are alike.

    Raises:
        CheckpointError: If no ratio meets a target.
        SettingsError: If the network has no layer of a name that the settings give.
    """
    names = _layer_names(bundle)
    if unknown := ", ".join(sorted(settings.layers.keys() - names)):
        raise SettingsError(f"prune.layers {unknown}: there are {', '.join(names) or 'none'}")

    def spread_over(ratio: float) -> Ratio:
        spread = _spread(ratio, sensitivity)
        if not settings.layers:
            return spread
        every = spread if isinstance(spread, Mapping) else dict.fromkeys(names, spread)
        return {**every, **settings.layers}

    if settings.fewer_params is settings.fewer_macs is settings.fewer_ms is None:
        return spread_over(settings.ratio)
    # Widths are rounded, and a layer rounded to nothing is left whole: more is not always less.
    for ratio in np.arange(settings.ratio, _MOST, _STEP):
        spread = spread_over(float(ratio))
        if _is_met(bundle, settings, spread):
            return spread
    raise CheckpointError(
        f"no ratio from {settings.ratio} to {_MOST} meets fewer_params {settings.fewer_params}, "
        f"fewer_macs {settings.fewer_macs} and fewer_ms {settings.fewer_ms}; remedy: smaller ones"
    )


def _layer_names(bundle: Bundle) -> list[str]:
    """Layers that may be given a ratio of their own."""
    if bundle.network.shortcut != "none":
        return []
    return Chain(bundle.analysis().branch, bundle.synthesis().branch).names()


def _spread(ratio: float, sensitivity: Mapping[str, float] | None) -> Ratio:
    """Spread a ratio over layers: the dearer one is to prune, the less it loses."""
    if sensitivity is None:
        return ratio
    costs = {name: max(cost, _LEAST_COST) for name, cost in sensitivity.items()}
    middle = float(np.median(list(costs.values())))
    return {name: min(_MOST, ratio * (middle / cost) ** 0.5) for name, cost in costs.items()}


def _is_met(bundle: Bundle, settings: PruneSettings, ratio: Ratio) -> bool:
    before = size_of(bundle.network)
    try:
        pruned = prune(bundle, settings, ratio)
    except CheckpointError:  # too little to take a channel
        return False
    after = size_of(pruned.network)
    macs = [size["macs_encoder"] + size["macs_decoder"] for size in (before, after)]
    is_small = bool(
        after["params"] <= (1 - (settings.fewer_params or 0)) * before["params"]
        and macs[1] <= (1 - (settings.fewer_macs or 0)) * macs[0]
    )
    return is_small and (
        settings.fewer_ms is None
        or encoder_ms(pruned) <= (1 - settings.fewer_ms) * encoder_ms(bundle)
    )


def prune(bundle: Bundle, settings: PruneSettings, ratio: Ratio | None = None) -> Bundle:
    """Take channels out of both branches, the latent and the output convolution untouched.

    Channels go in coupled groups (a convolution's outputs, their PReLU, the next one's inputs),
    the ones with the smallest weights first.

    Args:
        bundle: The trained model.
        settings: How to choose, and how much to take.
        ratio: How much, in place of the settings' own.

    Returns:
        A model of another spec, not yet fine-tuned.

    Raises:
        CheckpointError: If nothing was pruned. (Had a layer that must stay been, the weights would
            not fit the spec.)
    """
    model = RoundTrip(bundle)
    encoder, decoder = model.analysis.branch, model.synthesis.branch
    image = torch.zeros(1, bundle.network.components, TRACE_PX, TRACE_PX)
    if ratio is None:
        ratio = settings.ratio
    if bundle.network.shortcut == "wavelet":
        rounded = {"round_to": settings.restorer_round_to}
        _take(encoder, [encoder[-2]], image, settings, ratio)
        row = torch.zeros(1, FEATURES)
        _take(decoder, [decoder[-1]], row, settings.model_copy(update=rounded), ratio)
    else:
        chain = Chain(encoder, decoder)
        _take(chain, chain.kept, image, settings, ratio)
    return as_pruned(bundle, model, settings)


def as_pruned(bundle: Bundle, model: Networks, settings: PruneSettings) -> Bundle:
    """Make a bundle of pruned networks.

    Raises:
        CheckpointError: If nothing was pruned.
    """
    network = replace(
        bundle.network,
        encoder_widths=_widths(model.analysis.branch),
        decoder_widths=_widths(model.synthesis.branch),
    )
    if network == bundle.network:
        raise CheckpointError(
            f"a ratio of {settings.ratio} takes nothing from widths {network.encoder_widths} and "
            f"{network.decoder_widths} in multiples of {settings.round_to}; remedy: prune.ratio"
        )
    return changed(bundle, network=network, tensors=model.tensors())


def _take(
    network: nn.Module,
    kept: list[nn.Module],
    example: Tensor,
    settings: PruneSettings,
    ratio: Ratio,
) -> None:
    """Take channels out of a network, in place."""
    with contextlib.redirect_stdout(io.StringIO()):  # FasterAI prints what it ignores
        pruner = Pruner(
            network.eval(),
            ratio,
            "global" if settings.context == "global" else "local",
            criterion_of(settings.criterion),
            ignored_layers=kept,
            example_inputs=example,
            root_module_types=PRUNED_TYPES,
            round_to=settings.round_to,
        )
        pruner.prune_model()


def _widths(branch: nn.Sequential) -> Widths:
    first, second, third, fourth, _ = (
        int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
        for layer in branch
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    )
    return first, second, third, fourth
