"""The spectral transform that is best for coding: a tile's KLT, its components turned.

The KLT decorrelates pixels, and low spatial frequencies dominate those; but 98 % of what is coded
are details, correlated otherwise in every subband and wherever the scene changes. So the leading
components are turned among themselves until the bits that all their coefficients ask for, class by
class, are fewest: joint diagonalization of many covariances, as nearly as a rotation can. Only the
encoder knows; what travels is an orthonormal basis like any other.

A class is a subband's coefficients in places that are about equally busy; its bits are those of
Gaussian coefficients of its variance. What an entropy coder gains from contexts is in this model.

Sources: the criterion, Pham, SIAM J. Matrix Anal. Appl. 22(4), 2001, here for rotations only; all
planes are turned at once, by Newton angles with the curvature of diagonal matrices, as in Ablin,
Cardoso & Gramfort, arXiv 1811.11433; bits at a distortion by reverse water-filling, Cover & Thomas,
Elements of Information Theory, 10.3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from codec.lifting import compiled_wavelet
from codec.shortcut import CHANNELS, Wavelet, mirrored

BLOCK_PX: Final = 32
BLOCKS: Final = 4
"""Statistics are those of at most 4×4 blocks of 32×32 pixels: a whole tile of up to 128×128. Of 3×3
seven scenes took 0 to 4 % more bytes at equal PSNR."""

_CLASS_SIZE: Final = 128
_CLASS_SIZE_PER_COMPONENT: Final = 4
"""Coefficients of a class, at least. 256 instead of 128 cost 0.1 % more bytes (0.4 % in an estimate
of what contexts leave); 64 save 0.1 % (0.3 %), but take twice as long to turn. With many components
classes are larger, since the time grows with their cube."""
_HASTY_CLASSES: Final = 2
"""How much larger classes are where there is little time."""

_UNSEEN_WEIGHT: Final = 0.3
"""Weight of pixels outside of the sample, of which only the covariance is known, not the subbands.
At 0 what the sample lacks is neither kept nor kept apart, which cost a mosaic of four scenes 31 %
more bytes than the KLT; at 1 the rotation gains half of what it does at 0.3."""

_SUBBAND_CHANNELS: Final = tuple(
    (Wavelet.GROUPS.index(group), Wavelet.GROUPS.count(group))
    for group in sorted(set(Wavelet.GROUPS))
)
"""First channel of each subband, and how many; what lies below level 3 counts as one."""

_DEAD: Final = 1 / 12
"""Variance [step²] up to which a coefficient is best not sent: the error of one that is sent."""

_BITS_PER_ERROR: Final = 6 / math.log(2)
"""Bits a squared step of error is worth, the slope of a uniform quantizer; see `best_rounding`."""

_PREDICTED: Final = 1 / 4
"""Of the variance of an eigenvector's entries, what prediction along the bands leaves: a bit less
for each, as measured for components in doubt (σ of 0.2 to 0.8 steps in tiles of 100×100)."""

TURNS: Final = 12
"""Most turns; on land 6 to 12 are taken."""
_LARGEST_ANGLE: Final = 0.5
_LEAST_GAIN_BITS: Final = 4.0


def sample_blocks(rows: int, cols: int, most: int = BLOCKS) -> list[tuple[slice, slice]]:
    """Where a tile of rows × cols pixels is sampled: blocks of equal shape, evenly spread.

    Args:
        rows: Of the tile [px].
        cols: Likewise.
        most: Blocks along an axis, at most.
    """
    return [(r, c) for r in _spread(rows, most) for c in _spread(cols, most)]


def _spread(length: int, most: int) -> list[slice]:
    count, edge = min(most, -(-length // BLOCK_PX)), min(BLOCK_PX, length)
    starts = [i * (length - edge) // max(1, count - 1) for i in range(count)]
    return [slice(start, start + edge) for start in starts]


def coding_rotation(
    blocks: Tensor,
    variances: Tensor,
    pixels: int,
    bands: int,
    *,
    turns: int = TURNS,
    wavelet: Callable[[Tensor], Tensor] = compiled_wavelet,
) -> Tensor:
    """Choose the components to send; computed where the tensors are.

    Args:
        blocks: KLT components in steps where `sample_blocks` says, shape (blocks, k, rows, cols),
            float32.
        variances: Variance of each component in the tile [step²], shape (k,), float64.
        pixels: Pixels of the tile.
        bands: Coded bands, the entries of an eigenvector.
        turns: Most turns; below `TURNS` classes are larger, too.
        wavelet: As `codec.lifting.wavelet`, of tensors.

    Returns:
        Orthonormal rows, one for each component worth its eigenvector, by falling variance; shape
        (sent, k), float64. None is sent for an empty tile.
    """
    if not variances.numel():
        return variances.new_zeros(0, 0)
    classes = 1 if turns == TURNS else _HASTY_CLASSES
    covariances, counts = class_covariances(blocks, classes, wavelet)
    counts *= pixels / counts.sum()
    seen = blocks.shape[0] * blocks.shape[2] * blocks.shape[3]
    if seen < pixels:
        share = seen / pixels
        sampled = torch.einsum("c,cij->ij", counts / pixels, covariances.double())
        unseen = (torch.diag(variances) - share * sampled) / (1 - share)
        weight = _UNSEEN_WEIGHT * (1 - share)
        covariances = torch.cat((covariances, unseen[None].float()))
        counts = torch.cat((counts * (1 - weight), counts.new_tensor([weight * pixels])))
    # The entries of an eigenvector, in units of their own step, cost bits by the same law.
    entries = torch.diag(variances * (_PREDICTED * pixels / bands))
    covariances = torch.cat((covariances, entries[None].float()))
    counts = torch.cat((counts, counts.new_tensor([bands])))

    rotation, covariances = best_rotation(covariances, counts, turns)
    found = _variances(covariances)
    saved = _BITS_PER_ERROR * found[:-1] - cost_bits(found[:-1])
    worth = counts[:-1] @ saved > bands * cost_bits(found[-1])
    rotation = rotation[worth]
    return rotation[torch.argsort(found[-1][worth], descending=True, stable=True)]


def class_covariances(
    blocks: Tensor, times: int = 1, wavelet: Callable[[Tensor], Tensor] = compiled_wavelet
) -> tuple[Tensor, Tensor]:
    """Covariances of the components' coefficients, by subband and by how busy a place is.

    Args:
        blocks: As of `coding_rotation`.
        times: How much larger classes are than they could be.
        wavelet: As of `coding_rotation`.

    Returns:
        Covariances, shape (classes, k, k), float32, and how many coefficients of a component each
        stands for, shape (classes,), float64.
    """
    images = mirrored(blocks)
    latents = wavelet(images.flatten(0, 1))
    latents = latents.reshape(len(blocks), -1, CHANNELS, *latents.shape[1:])
    latents = latents.permute(1, 2, 0, 3, 4).flatten(2)
    components, _, places = latents.shape
    least = times * max(_CLASS_SIZE, _CLASS_SIZE_PER_COMPONENT * components)
    busy = latents[:, 1:].square().sum(dim=(0, 1))
    order = torch.argsort(busy, descending=True, stable=True)
    covariances, counts = [], []
    for first, channels in _SUBBAND_CHANNELS:
        classes = max(1, channels * places // least)
        size = -(-places // classes)
        # Where places do not divide into classes, a few of them count twice.
        spread = torch.arange(classes * size, device=order.device)
        chosen = order[spread * places // (classes * size)]
        inner = (
            latents[:, first : first + channels]
            .gather(2, chosen.expand(components, channels, -1))
            .reshape(-1, channels, classes, size)
        )
        members = inner.permute(2, 0, 1, 3).flatten(2)
        covariances.append(members @ members.mT / members.shape[2])
        counts.append(latents.new_full((classes,), channels * places / classes))
    return torch.cat(covariances), torch.cat(counts).double()


def cost_bits(variances: Tensor) -> Tensor:
    """Bits per coefficient of some variance [step²], the error that remains counted as bits."""
    alive = 0.5 * torch.log2(variances.clamp(min=_DEAD) / _DEAD)
    return alive + _BITS_PER_ERROR * variances.clamp(max=_DEAD)


def best_rotation(covariances: Tensor, counts: Tensor, turns: int = TURNS) -> tuple[Tensor, Tensor]:
    """Turn components until their coefficients ask for the fewest bits.

    Args:
        covariances: Of each class, shape (classes, k, k), float32.
        counts: Coefficients of each class, shape (classes,), float64.
        turns: Most turns.

    Returns:
        The rotation, shape (k, k), float64, and the covariances after it. Their cost is never
        higher.
    """
    size = covariances.shape[-1]
    identity = torch.eye(size, dtype=torch.float64, device=counts.device)
    rotation, least = identity, _total_bits(covariances, counts)
    for _ in range(turns):
        angles = _newton_angles(covariances, counts)
        for damping in (1.0, 0.5, 0.25, 0.125):
            half = angles * (damping / 2)
            turn = torch.linalg.solve(identity - half, identity + half)  # Cayley: a rotation
            turned = _congruent(turn.float(), covariances)
            bits = _total_bits(turned, counts)
            if bits < least:
                break
        else:
            break
        gain, least = least - bits, bits
        rotation, covariances = turn @ rotation, turned
        if gain < _LEAST_GAIN_BITS:
            break
    return rotation, covariances


def _newton_angles(covariances: Tensor, counts: Tensor) -> Tensor:
    """Angle of every pair's plane that is best for it alone, if nearly diagonal; antisymmetric."""
    variances = _variances(covariances)
    slopes = counts[:, None] / variances.clamp(min=_DEAD)
    pull = torch.einsum("ci,cij->ij", slopes.float(), covariances).double()
    cross = slopes.T @ variances
    own = cross.diagonal()
    # Σ (vⱼ - vᵢ)(slopeᵢ - slopeⱼ) ≥ 0, the larger the less alike two components' spectra are.
    curvature = cross + cross.T - own - own[:, None] + 1e-3 * counts.sum()
    return ((pull.T - pull) / curvature).clamp(-_LARGEST_ANGLE, _LARGEST_ANGLE)


def _congruent(turn: Tensor, covariances: Tensor) -> Tensor:
    """Q·C·Qᵀ of every symmetric C, as two plain products."""
    half = (covariances.flatten(0, 1) @ turn.T).view_as(covariances)
    return (half.mT.flatten(0, 1) @ turn.T).view_as(covariances)


def _total_bits(covariances: Tensor, counts: Tensor) -> float:
    return float((counts @ cost_bits(_variances(covariances))).sum())


def _variances(covariances: Tensor) -> Tensor:
    """Variance of each component in each class, float64."""
    return covariances.diagonal(dim1=1, dim2=2).double().clamp(min=0)
