"""Rules of `codec.shortcut`: exact inverses, nearly orthonormal, of SSCNet's bottleneck shape."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from codec.shortcut import CHANNELS, Dct, Wavelet, mirrored

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


@pytest.mark.parametrize("rows", range(1, 41))
def test_any_size_comes_back(rows: int) -> None:
    """From one pixel to forty each way, forward and inverse are exact and nothing is mirrored."""
    for transform, cols in itertools.product((Wavelet, Dct), range(1, 41)):
        x = images(rows, cols, components=1)[:1]
        latents = transform.forward(x)
        assert latents.shape == (1, CHANNELS, -(-rows // 8), -(-cols // 8))
        tolerance = 1e-11 if transform is Wavelet else 1e-5
        restored = transform.inverse(latents, (rows, cols))
        assert torch.allclose(restored, x, rtol=0, atol=tolerance), (transform, cols)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_wavelet_has_as_many_latents_as_pixels(rows: int, cols: int) -> None:
    """Noise fills exactly one latent per pixel; all others are zero, not merely small."""
    latents = Wavelet.forward(images(rows, cols))
    assert (latents != 0).sum() == 2 * 3 * rows * cols


def test_float32_is_enough() -> None:
    """At any size single precision loses no more than its own last bits."""
    for rows, cols in ((51, 56), (1, 1), (13, 128), (100, 100), (127, 9)):
        x = images(rows, cols).float() * 1e4
        restored = Wavelet.inverse(Wavelet.forward(x), (rows, cols))
        assert (restored - x).abs().max() < 1e-6 * x.abs().max()


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 5), (9, 17), (8, 16)])
def test_mirroring_reflects(rows: int, cols: int) -> None:
    """Pixels stay; beyond the far edges the edge pixel comes first, as often as it takes."""
    x = images(rows, cols)
    whole = mirrored(x)
    assert whole.shape == (2, 3, rows + -rows % 8, cols + -cols % 8)
    assert torch.equal(whole[..., :rows, :cols], x)
    for r, c in itertools.product(*map(range, whole.shape[2:])):
        inside = [min(i % (2 * n), 2 * n - 1 - i % (2 * n)) for i, n in ((r, rows), (c, cols))]
        assert torch.equal(whole[..., r, c], x[..., inside[0], inside[1]])


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
        latents = torch.zeros(CHANNELS, CHANNELS, 16, 16, dtype=torch.float64)
        # Far from the edge at every level: the plane of the first channel holds five of them.
        latents[1:, :, 7, 7], latents[0, 0, 1, 2] = identity[1:], 1
        atoms = transform.inverse(latents).flatten(1)
        gram = atoms @ atoms.T
        assert (gram.diagonal().sqrt() - 1).abs().max() < tolerance
        assert (gram - torch.diag(gram.diagonal())).abs().max() < tolerance


@pytest.mark.parametrize(
    "place", [(1, 1), (2, 2), (1, 5), (5, 1), (6, 5), (3, 12), (12, 3), (11, 12)]
)
def test_each_deeper_latent_is_too(place: tuple[int, int]) -> None:
    """LL5, HL5, LH5, HH5, HL4, LH4, HH4 in the plane of the first channel, off its edges."""
    latents = torch.zeros(1, CHANNELS, 16, 16, dtype=torch.float64)
    latents[0, 0, *place] = 1
    assert Wavelet.inverse(latents).square().sum().sqrt().item() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(("transform", "gain", "every"), [(Wavelet, 32, 4), (Dct, 8, 1)])
def test_a_constant_is_one_subband(transform: Transform, gain: int, every: int) -> None:
    """A flat component costs its lowest subband, LL5 or the mean of a block, and nothing else."""
    latents = transform.forward(torch.full((1, 1, 64, 96), 5.0, dtype=torch.float64))
    lowest = latents[:, 0, : 8 // every, : 12 // every].clone()
    latents[:, 0, : 8 // every, : 12 // every] = 0
    assert torch.allclose(lowest, torch.full_like(lowest, 5.0 * gain))
    assert latents.abs().max() < 1e-5


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


@pytest.mark.parametrize("shortcut", [Wavelet, Dct])
def test_only_latents_that_see_a_pixel_are_coded(shortcut: type[Wavelet] | type[Dct]) -> None:
    """A patch of 51×56 pixels has 7×7 latent positions, not 16×16."""
    assert shortcut.forward(torch.ones(1, 2, 51, 56)).shape == (1, 128, 7, 7)
