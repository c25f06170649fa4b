"""SSCNet, with free widths and an optional linear shortcut; a pruned network is another spec.

             ┌─ squash ─ conv·PReLU ×4, pool ×3 ─ conv ─┐                  (the branch: SSCNet)
components ──┤                                          + ──► latents
             └─ wavelet or DCT ─────────────────────────┘                  (the shortcut)

The synthesis network mirrors it. Beside the wavelet its branch works on coefficients, before the
inverse: see `codec.restoration`. With a shortcut the last layer of either branch starts at
zero, so an untrained codec is the linear transform codec and training can only improve on it.

Sources: SSCNet, La Grassa et al., Remote Sensing 14(10):2472, 2022, figure 2, as implemented by
TU Berlin (github.com/MartinHermannPaul/hsi-compression); zero start, as in ReZero (Bachlechner et
al., UAI 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.errors import BundleError
from codec.expectation import FEATURES
from codec.restoration import restorer
from codec.shortcut import CHANNELS, Dct, Wavelet, mirrored

SHORTCUTS: Final[Mapping[str, type[Wavelet] | type[Dct]]] = {"wavelet": Wavelet, "dct": Dct}

Widths = tuple[int, int, int, int]
Shortcut = Literal["none", "wavelet", "dct"]
Output = Literal["sigmoid", "linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SscnetSpec:
    """What it takes to build both networks.

    Attributes:
        components: Channels the branch sees: bands, or leading KLT components.
        latent_channels: Channels of the bottleneck, at one eighth of the resolution.
        encoder_widths: Channels after encoder layers 1 to 4.
        decoder_widths: Channels after decoder layers 1 to 4; beside the wavelet, of the network
            that restores coefficients.
        shortcut: Linear transform beside the branch; needs 64 latent channels per component.
        output: Last activation of the synthesis branch: sigmoid in the paper, for samples in
            [0, 1]; linear beside a shortcut.
        squash: Magnitude at which the branch's input is halved: x/(1 + |x|/squash). Components
            span four orders of magnitude in units of the quantizer step; the branch works on the
            few units where rounding matters. 0: no squashing.

    Raises:
        BundleError: If a width is not positive or the parts do not fit.
    """

    components: int
    latent_channels: int
    encoder_widths: Widths = (256, 256, 256, 512)
    decoder_widths: Widths = (512, 256, 256, 256)
    shortcut: Shortcut = "none"
    output: Output = "sigmoid"
    squash: float = 0.0

    def __post_init__(self) -> None:
        widths = (self.components, self.latent_channels, *self.encoder_widths, *self.decoder_widths)
        if [type(width) for width in widths] != [int] * 10 or min(widths) <= 0:
            raise BundleError(f"widths must be ten positive integers, got {widths}")
        choices: tuple[tuple[str, tuple[str, ...]], ...] = (
            (self.shortcut, get_args(Shortcut)),
            (self.output, get_args(Output)),
        )
        if any(choice not in allowed for choice, allowed in choices):
            raise BundleError(f"unknown shortcut {self.shortcut!r} or output {self.output!r}")
        if self.shortcut != "none" and self.latent_channels != CHANNELS * self.components:
            raise BundleError(
                f"a shortcut needs {CHANNELS} latent channels per component: "
                f"{CHANNELS * self.components}, got {self.latent_channels}"
            )
        if not self.squash >= 0:
            raise BundleError(f"squash must not be negative, got {self.squash}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SscnetSpec:
        """Build from JSON values.

        Raises:
            BundleError: If a field is missing, unknown or out of range.
        """
        try:
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
            }
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise BundleError(f"network description: {error}") from None


def branch_input(x: Tensor, channels: int, squash: float) -> Tensor:
    """Cut or zero-fill axis 1 to `channels`, and squash.

    Tiles may have fewer or more components than the branch sees.
    """
    have = x.shape[1]
    x = x[:, :channels] if have >= channels else functional.pad(x, (0,) * 5 + (channels - have,))
    return x / (1 + x.abs() / squash) if squash else x


def add_channels(x: Tensor, branch: Tensor) -> Tensor:
    """Add the branch to the leading channels of `x`, whichever has fewer."""
    shared = min(x.shape[1], branch.shape[1])
    return torch.cat((x[:, :shared] + branch[:, :shared], x[:, shared:]), dim=1)


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def encoder_branch(spec: SscnetSpec) -> nn.Sequential:
    """SSCNet's encoder, layers 1 to 5."""
    w1, w2, w3, w4 = spec.encoder_widths
    return nn.Sequential(
        *(_conv(spec.components, w1), nn.PReLU(w1)),
        *(_conv(w1, w2), nn.PReLU(w2), nn.MaxPool2d(2)),
        *(_conv(w2, w3), nn.PReLU(w3), nn.MaxPool2d(2)),
        *(_conv(w3, w4), nn.PReLU(w4), nn.MaxPool2d(2)),
        *(_conv(w4, spec.latent_channels), nn.PReLU(spec.latent_channels)),
    )


def decoder_branch(spec: SscnetSpec) -> nn.Sequential:
    """SSCNet's decoder, layers 1 to 5; beside the wavelet, what restores coefficients."""
    if spec.shortcut == "wavelet":
        return restorer(spec.decoder_widths)
    w1, w2, w3, w4 = spec.decoder_widths
    return nn.Sequential(
        *(nn.ConvTranspose2d(spec.latent_channels, w1, 3, padding=1), nn.PReLU(w1)),
        *(nn.ConvTranspose2d(w1, w2, 2, stride=2), nn.PReLU(w2)),
        *(nn.ConvTranspose2d(w2, w3, 2, stride=2), nn.PReLU(w3)),
        *(nn.ConvTranspose2d(w3, w4, 2, stride=2), nn.PReLU(w4)),
        nn.ConvTranspose2d(w4, spec.components, 3, padding=1),
        nn.Sigmoid() if spec.output == "sigmoid" else nn.Identity(),
    )


def _zero(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or layer.bias is None:
        raise BundleError(f"the branch does not end in a convolution but in {layer}")
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class Analysis(nn.Module):
    """Components of shape (n, k, r, c) to latents of shape (n, channels, ⌈r/8⌉, ⌈c/8⌉).

    Without a shortcut k is `spec.components` and channels `spec.latent_channels`; with one, k is
    free and channels are 64·k: components beyond the branch's go through the shortcut alone.
    """

    def __init__(self, spec: SscnetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.runs_branch = True
        self.branch = encoder_branch(spec)
        if spec.shortcut != "none":
            _zero(self.branch[-2])

    def rest_idle_branch(self) -> None:
        """From now on leave out a branch whose last convolution still stands at its zero start."""
        last = self.branch[-2].parameters()
        self.runs_branch = self.spec.shortcut == "none" or any(bool(p.any()) for p in last)

    def forward(self, components: Tensor) -> Tensor:
        """Run the network."""
        spec = self.spec
        if spec.shortcut != "none":
            # The branch may run in bfloat16; eight bits of mantissa are too few for the shortcut.
            with torch.autocast(components.device.type, enabled=False):
                direct = SHORTCUTS[spec.shortcut].forward(components)
            if not self.runs_branch:
                return direct
        seen = mirrored(branch_input(components, spec.components, spec.squash))
        branch: Tensor = self.branch(seen)
        return branch if spec.shortcut == "none" else add_channels(direct, branch)


class Synthesis(nn.Module):
    """Latents of shape (n, channels, r/8, c/8) to components of shape (n, k, r, c)."""

    def __init__(self, spec: SscnetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.branch = decoder_branch(spec)
        if spec.shortcut == "dct":
            _zero(self.branch[-2])

    def forward(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Run the network backwards.

        Args:
            latents: What `Analysis` returns; beside the wavelet, what `restore` makes of symbols.
            size: (r, c) of what went in; multiples of eight if None.
        """
        spec = self.spec
        if spec.shortcut == "wavelet":
            with torch.autocast(latents.device.type, enabled=False):
                return Wavelet.inverse(latents, size)
        seen = branch_input(latents, spec.latent_channels, spec.squash)
        branch: Tensor = self.branch(seen)
        if size is not None:
            branch = branch[:, :, : size[0], : size[1]]
        if spec.shortcut == "none":
            return branch
        with torch.autocast(latents.device.type, enabled=False):
            direct = SHORTCUTS[spec.shortcut].inverse(latents, size)
        return add_channels(direct, branch)


def count_macs(spec: SscnetSpec, rows: int = 128, cols: int = 128) -> tuple[int, int]:
    """Multiply-accumulates of both branches for one patch: (encoder, decoder).

    Convolutions only; activations, pooling and the shortcut are below one percent. Beside the
    wavelet the decoder's are those for every coefficient of as many components as the branch on
    board sees; coefficients with nothing to go by take none.
    """
    w, v, px = spec.encoder_widths, spec.decoder_widths, rows * cols
    encoder = 9 * px * (spec.components * w[0] + w[0] * w[1])
    encoder += 9 * px * w[1] * w[2] // 4 + 9 * px * w[2] * w[3] // 16
    encoder += 9 * px * w[3] * spec.latent_channels // 64
    if spec.shortcut == "wavelet":
        layers = pairwise((FEATURES, *v, 1))
        return encoder, px * spec.components * sum(before * after for before, after in layers)
    decoder = 9 * px * spec.latent_channels * v[0] // 64 + px * v[0] * v[1] // 16
    decoder += px * v[1] * v[2] // 4 + px * v[2] * v[3] + 9 * px * v[3] * spec.components
    return encoder, decoder
