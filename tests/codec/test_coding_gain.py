"""Rules of `codec.coding_gain`: what turning the components may do, and what it must never do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.coding_gain import (
    BLOCK_PX,
    best_rotation,
    class_covariances,
    coding_rotation,
    cost_bits,
    sample_blocks,
)


def random(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_classes(size: int) -> tuple[Tensor, Tensor]:
    """Covariances that no rotation makes diagonal, from far below a step to far above."""
    spread = torch.logspace(-2, 3, size)
    factors = random(7, size, 2 * size) * spread[:, None]
    return factors @ factors.mT / size, torch.arange(100.0, 800.0, 100.0, dtype=torch.float64)


def bits(covariances: Tensor, counts: Tensor) -> float:
    """What all coefficients cost."""
    return float((counts @ cost_bits(covariances.double().diagonal(dim1=1, dim2=2))).sum())


def sources(count: int = 4) -> Tensor:
    """Independent components of equal variance, each with a spectrum of its own."""
    noise = random(count, 3, BLOCK_PX, BLOCK_PX)
    noise[:, 1] = noise[:, 1].cumsum(dim=1)
    noise[:, 2] = noise[:, 2].cumsum(dim=2)
    return 10 * noise / noise.std(dim=(0, 2, 3), keepdim=True)


@pytest.mark.parametrize("size", [2, 5, 12])
def test_cost_falls_under_a_rotation(size: int) -> None:
    """What comes back is a rotation, what it makes of the covariances, and cheaper."""
    covariances, counts = some_classes(size)
    rotation, turned = best_rotation(covariances, counts)
    assert torch.allclose(rotation @ rotation.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    expected = rotation @ covariances.double() @ rotation.T
    assert torch.allclose(turned.double(), expected, rtol=1e-3, atol=1e-2)
    assert bits(turned, counts) < bits(covariances, counts)


def test_what_is_best_is_left_alone() -> None:
    """Diagonal covariances stay as they are; so does a single component."""
    for size in (1, 4):
        diagonal = torch.diag_embed(random(6, size).exp())
        rotation, turned = best_rotation(diagonal, torch.ones(6, dtype=torch.float64))
        assert torch.equal(rotation, torch.eye(size, dtype=torch.float64))
        assert torch.equal(turned, diagonal)


def test_independent_sources_are_found_again() -> None:
    """Mixed sources of one variance, where a KLT sees nothing to choose, are told by spectrum."""
    mixing = torch.linalg.qr(random(3, 3, seed=2)).Q
    mixed = torch.einsum("ij,bjrc->birc", mixing, sources())
    rotation, _ = best_rotation(*class_covariances(mixed))
    found = (rotation.float() @ mixing).abs()
    assert (found.max(dim=1).values > 0.99).all()
    assert sorted(found.argmax(dim=1).tolist()) == [0, 1, 2]


def test_classes_stand_for_every_coefficient() -> None:
    """Coefficients of all classes are as many as pixels, and hold their energy, nearly."""
    blocks = sources(3)
    covariances, counts = class_covariances(blocks)
    assert counts.sum() == blocks[:, 0].numel()
    energy = torch.einsum("c,cii->i", counts, covariances.double())
    assert torch.allclose(energy, blocks.double().square().sum(dim=(0, 2, 3)), rtol=0.1)


def test_equal_tiles_give_equal_rotations() -> None:
    """The same blocks give the same bits of the rotation."""
    variances = torch.full((3,), 100.0, dtype=torch.float64)
    first, second = (coding_rotation(sources(), variances, 4096, 50) for _ in range(2))
    assert torch.equal(first, second)


def test_components_come_by_falling_variance() -> None:
    """What is sent is orthonormal, the strongest first."""
    blocks = sources() * torch.tensor([1.0, 3.0, 2.0])[:, None, None]
    variances = blocks.double().square().mean(dim=(0, 2, 3))
    rotation = coding_rotation(blocks, variances, 4096, 50)
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert (torch.diff(rotation.square() @ variances) < 0).all()


@pytest.mark.parametrize("components", [0, 1, 3])
def test_nothing_is_sent_of_nothing(components: int) -> None:
    """A tile without variance has no component worth its eigenvector."""
    blocks = torch.zeros(1, components, 5, 3)
    rotation = coding_rotation(blocks, torch.zeros(components, dtype=torch.float64), 15, 200)
    assert rotation.shape == (0, components)


def test_a_component_must_save_what_its_eigenvector_costs() -> None:
    """The same weak component is sent for few bands and not for many."""
    blocks = 0.4 * random(1, 1, BLOCK_PX, BLOCK_PX)
    variances = torch.tensor([0.16], dtype=torch.float64)
    sent = [len(coding_rotation(blocks, variances, BLOCK_PX**2, bands)) for bands in (10, 1000)]
    assert sent == [1, 0]


def test_what_the_sample_lacks_is_kept() -> None:
    """A component that is quiet wherever a large tile was sampled is sent, and hardly turned."""
    blocks = sources()
    blocks[:, 2] = 0
    variances = torch.tensor([100.0, 100.0, 50.0], dtype=torch.float64)
    rotation = coding_rotation(blocks, variances, 10 * BLOCK_PX**2, 200)
    assert len(rotation) == 3
    assert rotation[:, 2].abs().max() > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (33, 64), (100, 100), (128, 128), (999, 31)])
def test_samples_are_equal_blocks_within_the_tile(shape: tuple[int, int]) -> None:
    """Blocks have one shape and lie in the tile; they cover it up to 128×128 pixels."""
    seen = torch.zeros(shape)
    blocks = sample_blocks(*shape)
    for block in blocks:
        seen[block] += 1
    assert len({seen[block].shape for block in blocks}) == 1
    assert len(blocks) <= 16
    if max(shape) <= 128:
        assert seen.all()
