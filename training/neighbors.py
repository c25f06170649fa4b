"""Training of the contexts: which neighbors tell how much about a symbol.

The weights of `NeighborModel` and a small network over both sums and the group's scale are trained
together for the bits of the symbols; then the network is written down as the model's map, once and
for all, and is gone. The law it predicts has three parameters: zero or not, one or more, and the
ratio of a geometric tail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from codec.contexts import TABLES_PER_SCALE, ScaleModel
from codec.neighborhood import (
    GROUP_SCALES,
    NEIGHBORS,
    PASSES,
    SUM_LEVELS,
    SUM_SHIFT,
    WITHIN,
    NeighborModel,
    before,
    loudness,
    own,
    pass_shape,
    shifted_components,
    within,
)
from codec.subbands import SUBBANDS, to_images
from codec.tables import SMALLEST_OCTAVE, TABLES_PER_OCTAVE
from training.coded import CodedPatch
from training.config import NeighborSettings

_HIDDEN: Final = 32
_PLACES: Final = len(SUBBANDS) * len(PASSES)


class _Samples:
    """Symbols drawn from patches.

    Attributes:
        magnitude: Shape (n,).
        neighbors: Loudness, shape (n, neighbors).
        scale: Scale of the group, shape (n,).
        place: Subband and pass, shape (n,).
    """

    def __init__(
        self, scales: ScaleModel, patches: Iterable[CodedPatch], settings: NeighborSettings
    ) -> None:
        rng = np.random.default_rng(settings.seed)
        parts: list[list[NDArray[np.int64]]] = []
        for patch in patches:
            drawn = [np.concatenate(x) for x in zip(*_symbols(scales, patch), strict=True)]
            count = len(drawn[0])
            chosen = rng.choice(count, min(count, settings.patch_symbols), replace=False)
            parts.append([x[chosen] for x in drawn])
        whole = [torch.from_numpy(np.concatenate(x)) for x in zip(*parts, strict=True)]
        self.magnitude, self.scale, self.place = whole[0].float(), whole[1], whole[2]
        self.neighbors = whole[3].to(torch.int16)


def _symbols(scales: ScaleModel, patch: CodedPatch) -> Iterable[tuple[NDArray[np.int64], ...]]:
    """Magnitudes, scales, places and neighbors of each subband and pass; no groups of zeros."""
    images = to_images(patch.symbols, patch.rows, patch.cols)
    loud = [loudness(image) for image in images]
    scales_of = scales.scales(patch.symbols)
    for band, image in enumerate(images):
        group = scales_of[:, scales.groups[SUBBANDS[band].first]]
        heard = loud[band]
        far = within(band, loud) | before(
            shifted_components(heard, 1), shifted_components(heard, 2)
        )
        for number, (row, col) in enumerate(PASSES):
            shape = pass_shape(image.shape, number)
            parts = {k: x[:, row::2, col::2] for k, x in far.items()} | own(number, heard)
            scale = np.broadcast_to(group[:, None, None], shape)
            coded = scale > 0
            neighbors = np.zeros((int(coded.sum()), len(NEIGHBORS)), dtype=np.int64)
            for neighbor, part in parts.items():
                neighbors[:, neighbor] = part[coded]
            magnitude = np.abs(image[:, row::2, col::2][coded]).astype(np.int64)
            place = np.full(magnitude.shape, band * len(PASSES) + number)
            yield magnitude, scale[coded].astype(np.int64), place, neighbors


class _Law(nn.Module):
    """Both sums, then three logits: beyond zero, beyond one, and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Embedding(_PLACES, len(NEIGHBORS))
        nn.init.uniform_(self.weights.weight, 0, 0.1)
        self.biases = nn.Embedding(_PLACES, 2)
        nn.init.zeros_(self.biases.weight)
        self.map = nn.Sequential(
            *(nn.Linear(3 + len(SUBBANDS), _HIDDEN), nn.ReLU()),
            *(nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()),
            nn.Linear(_HIDDEN, 3),
        )

    def forward(self, neighbors: Tensor, scale: Tensor, place: Tensor) -> Tensor:
        products = self.weights(place) * neighbors
        sums = torch.stack((products[:, :WITHIN].sum(1), products[:, WITHIN:].sum(1)), dim=1)
        sums = (sums + self.biases(place)).clamp(0, SUM_LEVELS)
        return self.logits(sums, scale, place // len(PASSES))

    def logits(self, sums: Tensor, scale: Tensor, band: Tensor) -> Tensor:
        """From sums of shape (n, 2), group scales and subbands of shape (n,)."""
        one_hot = functional.one_hot(band, len(SUBBANDS)).float()
        known = torch.cat((sums / 8, scale[:, None] / 4, one_hot), dim=1)
        logits: Tensor = self.map(known)
        return logits


def _bits(logits: Tensor, magnitude: Tensor) -> Tensor:
    """Bits of each symbol, its sign included."""
    beyond_zero, beyond_one, more = logits.unbind(1)
    some, several = magnitude > 0, magnitude > 1
    nats = functional.softplus(torch.where(some, -beyond_zero, beyond_zero))
    nats = nats + some * functional.softplus(torch.where(several, -beyond_one, beyond_one))
    tail = (magnitude - 2).clamp(min=0) * functional.softplus(-more) + functional.softplus(more)
    return (nats + several * tail) / math.log(2) + some


def fit_neighbors(
    scales: ScaleModel, patches: Iterable[CodedPatch], settings: NeighborSettings
) -> NeighborModel:
    """Train contexts on coded patches."""
    samples = _Samples(scales, patches, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        law = _Law()
        optimizer = torch.optim.Adam(law.parameters(), settings.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.batches
        )
        for _ in range(settings.batches):
            drawn = torch.randint(len(samples.magnitude), (settings.batch_symbols,))
            logits = law(
                samples.neighbors[drawn].float(), samples.scale[drawn], samples.place[drawn]
            )
            loss = _bits(logits, samples.magnitude[drawn]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
            optimizer.step()
            schedule.step()
    return _written_down(law)


@torch.inference_mode()
def _written_down(law: _Law) -> NeighborModel:
    """Round the weights and tabulate the map at the middle of each cell."""
    unit, shape = float(1 << SUM_SHIFT), (len(SUBBANDS), len(PASSES), -1)
    weights = (law.weights.weight * unit).round().clamp(-32767, 32767)
    biases = (law.biases.weight * unit).round()
    middle = torch.arange(SUM_LEVELS) + 0.5
    shifts = np.zeros((len(SUBBANDS), GROUP_SCALES, SUM_LEVELS, SUM_LEVELS), dtype=np.int8)
    for band in range(len(SUBBANDS)):
        scale, first, second = torch.meshgrid(
            torch.arange(GROUP_SCALES).float(), middle, middle, indexing="ij"
        )
        sums = torch.stack((first.flatten(), second.flatten()), dim=1)
        at = torch.full((len(sums),), band)
        mean = _mean_magnitude(law.logits(sums, scale.flatten(), at))
        index = (torch.log2(mean) - SMALLEST_OCTAVE) * TABLES_PER_OCTAVE + 1
        shift = (index - (scale.flatten() * TABLES_PER_SCALE - 1)).round().clamp(-127, 127)
        shifts[band] = shift.reshape(shifts[band].shape).numpy().astype(np.int8)
    return NeighborModel(
        weights=weights.reshape(shape).numpy().astype(np.int16),
        biases=biases.reshape(shape).numpy().astype(np.int32),
        shifts=shifts,
    )


def _mean_magnitude(logits: Tensor) -> Tensor:
    some, several, more = logits.sigmoid().unbind(1)
    return some * (1 + several / (1 - more).clamp(min=1e-4))
