"""Pruning: FasterAI decides which channels go; what stays is a plain spec with plain weights."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Final

import torch
from torch import nn

from codec.bundle import Bundle
from codec.network import Widths
from codec.restoration import FEATURES
from training.bundles import changed
from training.config import PruneSettings
from training.errors import CheckpointError
from training.fast import Pruner, large_final
from training.loop import Networks, RoundTrip

PRUNED_TYPES: Final = [nn.Conv2d, nn.ConvTranspose2d, nn.Linear]
TRACE_PX: Final = 32
"""Edge of the image torch-pruning traces the networks with; any multiple of eight does."""


def prune(bundle: Bundle, settings: PruneSettings) -> Bundle:
    """Take channels out of both branches, the latent and the output convolution untouched.

    Channels go in coupled groups (a convolution's outputs, their PReLU, the next one's inputs),
    the ones with the smallest weights first.

    Args:
        bundle: The trained model.
        settings: How much to take.

    Returns:
        A model of another spec, not yet fine-tuned.

    Raises:
        CheckpointError: If nothing was pruned. (Had a layer that must stay been, the weights would
            not fit the spec.)
    """
    model = RoundTrip(bundle)
    encoder, decoder = model.analysis.branch, model.synthesis.branch
    image = torch.zeros(1, bundle.network.components, TRACE_PX, TRACE_PX)
    if bundle.network.shortcut == "wavelet":
        _take(encoder, [encoder[-2]], image, settings, settings.round_to)
        row = torch.zeros(1, FEATURES)
        _take(decoder, [decoder[-1]], row, settings, settings.restorer_round_to)
    else:
        # A plain chain: its graph holds SSCNet alone, not the shortcut: it has nothing to prune.
        chain = nn.Sequential(encoder, decoder)
        _take(chain, [encoder[-2], decoder[-2]], image, settings, settings.round_to)
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
    network: nn.Sequential,
    kept: list[nn.Module],
    example: torch.Tensor,
    settings: PruneSettings,
    multiple: int,
) -> None:
    """Take channels out of a network, in place."""
    with contextlib.redirect_stdout(io.StringIO()):  # FasterAI prints what it ignores
        pruner = Pruner(
            network.eval(),
            settings.ratio,
            settings.context,
            large_final,
            ignored_layers=kept,
            example_inputs=example,
            root_module_types=PRUNED_TYPES,
            round_to=multiple,
        )
        pruner.prune_model()


def _widths(branch: nn.Sequential) -> Widths:
    first, second, third, fourth, _ = (
        int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
        for layer in branch
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    )
    return first, second, third, fourth
