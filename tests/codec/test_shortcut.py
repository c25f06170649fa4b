"""Rules of `codec.shortcut`: exact inverses, nearly orthonormal, of SSCNet's bottleneck shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.shortcut import CHANNELS, Dct, Wavelet

Transform = type[Wavelet] | type[Dct]
BOTH = pytest.mark.parametrize("transform", [Wavelet, Dct])


def images(rows: int, cols: int, components: int = 3) -> Tensor:
    """Two images of noise in double precision, the hardest thing to invert."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, components, rows, cols, generator=generator, dtype=torch.float64)


@BOTH
@pytest.mark.parametrize(("rows", "cols"), [(8, 8), (8, 24), (40, 16), (128, 128)])
def test_the_inverse_is_exact(transform: Transform, rows: int, cols: int) -> None:
    """Forward then inverse gives the image back, to rounding (the DCT's basis is float32)."""
    x = images(rows, cols)
    latents = transform.forward(x)
    assert latents.shape == (2, 3 * CHANNELS, rows // 8, cols // 8)
    tolerance = 1e-11 if transform is Wavelet else 1e-6
    assert torch.allclose(transform.inverse(latents), x, rtol=0, atol=tolerance)


@BOTH
def test_the_forward_undoes_the_inverse(transform: Transform) -> None:
    """No latent is redundant: inverse then forward gives the latents back."""
    latents = transform.forward(images(16, 24)) * 1.5 + 1
    tolerance = 1e-10 if transform is Wavelet else 1e-5
    again = transform.forward(transform.inverse(latents))
    assert torch.allclose(again, latents, rtol=0, atol=tolerance)


@BOTH
def test_rounding_errors_keep_their_size(transform: Transform) -> None:
    """White noise on the latents is as strong in the image: one step serves every channel."""
    noise = torch.randn(
        1, CHANNELS, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    gain = transform.inverse(noise).square().mean() / noise.square().mean()
    assert gain.item() == pytest.approx(1.0, abs=0.01 if transform is Dct else 0.08)


def test_each_latent_is_nearly_a_unit_vector() -> None:
    """Orthonormal: exactly for the DCT, within a fifth for the wavelet's best-known defect."""
    identity = torch.eye(CHANNELS, dtype=torch.float64)
    for transform, tolerance in ((Dct, 1e-6), (Wavelet, 0.3)):
        latents = torch.zeros(CHANNELS, CHANNELS, 9, 9, dtype=torch.float64)
        latents[:, :, 4, 4] = identity
        atoms = transform.inverse(latents).flatten(1)
        gram = atoms @ atoms.T
        assert (gram.diagonal().sqrt() - 1).abs().max() < tolerance
        assert (gram - torch.diag(gram.diagonal())).abs().max() < tolerance


@BOTH
def test_a_constant_is_one_channel(transform: Transform) -> None:
    """A flat component costs its first channel, at eight times its value, and nothing else."""
    latents = transform.forward(torch.full((1, 1, 16, 24), 5.0, dtype=torch.float64))
    assert torch.allclose(latents[:, 0], torch.full((1, 2, 3), 40.0, dtype=torch.float64))
    assert latents[:, 1:].abs().max() < 1e-5


@BOTH
def test_every_channel_has_a_group(transform: Transform) -> None:
    """Groups cover the 64 channels, numbered from 0 without a gap."""
    assert len(transform.GROUPS) == CHANNELS
    assert sorted(set(transform.GROUPS)) == list(range(max(transform.GROUPS) + 1))


@BOTH
def test_components_do_not_mix(transform: Transform) -> None:
    """Channels 64·k to 64·k + 63 belong to component k: components transform alone."""
    x = images(16, 16)
    together = transform.forward(x)
    for k in range(3):
        alone = transform.forward(x[:, k : k + 1])
        assert torch.allclose(together[:, k * CHANNELS : (k + 1) * CHANNELS], alone)


@BOTH
def test_no_component_at_all(transform: Transform) -> None:
    """A tile that is all mean has no components; that is no special case."""
    latents = transform.forward(torch.zeros(1, 0, 16, 8))
    assert latents.shape == (1, 0, 2, 1)
    assert transform.inverse(latents).shape == (1, 0, 16, 8)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_groups_are_subbands(level: int) -> None:
    """Stripes across, stripes along and a chessboard of one scale are each one group."""
    # Level 1 takes the upper half of all frequencies, level 2 the upper half of the rest.
    wave = torch.cos(0.75 * torch.pi / 2 ** (level - 1) * torch.arange(64))
    flat = torch.ones(64)
    first = {3: 1, 2: 4, 1: 7}[level]
    patterns = [(flat, wave), (wave, flat), (wave, wave)]
    for group, (down, across) in enumerate(patterns, start=first):
        latents = Wavelet.forward((down[:, None] * across)[None, None])
        energy = latents.square().sum(dim=(0, 2, 3))
        inside = energy[[g == group for g in Wavelet.GROUPS]].sum()
        assert inside > 0.65 * energy.sum()
