"""Rules of `codec.network`: SSCNet as published, any widths, a branch that starts at nothing."""

from __future__ import annotations

import json

import pytest
import torch

from codec.errors import BundleError
from codec.network import (
    SHORTCUTS,
    Analysis,
    SscnetSpec,
    Synthesis,
    add_channels,
    branch_input,
    count_macs,
)
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle, shortcut_spec

PAPER = SscnetSpec(components=202, latent_channels=1024)
PRUNED = SscnetSpec(
    components=9,
    latent_channels=12,
    encoder_widths=(5, 3, 4, 6),
    decoder_widths=(7, 2, 3, 4),
)


def parameters(spec: SscnetSpec) -> int:
    """Parameters of both networks, without allocating them."""
    with torch.device("meta"):
        networks = (Analysis(spec), Synthesis(spec))
    return sum(p.numel() for network in networks for p in network.parameters())


def test_the_papers_network_has_its_size() -> None:
    """SSCNet at 202 bands and 1024 latents has the 13,783,242 parameters the paper's prints."""
    assert parameters(PAPER) == 13_783_242


@pytest.mark.parametrize(
    ("bands", "encoder", "decoder"), [(202, 22.1e9, 10.3e9), (224, 22.95e9, 11.1e9)]
)
def test_the_papers_network_has_its_cost(bands: int, encoder: float, decoder: float) -> None:
    """Multiply-accumulates per patch are those of the published layers."""
    macs = count_macs(SscnetSpec(components=bands, latent_channels=1024))
    assert list(macs) == pytest.approx([encoder, decoder], rel=0.005)


@pytest.mark.parametrize(
    "spec", [PAPER, PRUNED, shortcut_spec("dct")], ids=["paper", "pruned", "dct"]
)
def test_counted_macs_are_those_of_the_layers(spec: SscnetSpec) -> None:
    """`count_macs` agrees with a count over the layers as they run."""
    found = []
    for network, channels, scale in (
        (Analysis(spec).to("meta"), spec.components, 1),
        (Synthesis(spec).to("meta"), spec.latent_channels, 8),
    ):
        total, x = 0, torch.zeros(1, channels, 32 // scale, 32 // scale, device="meta")
        for layer in network.branch:
            before, x = x, layer(x)
            if isinstance(layer, torch.nn.Conv2d):
                total += layer.weight.numel() * x.shape[2] * x.shape[3]
            elif isinstance(layer, torch.nn.ConvTranspose2d):
                total += layer.weight.numel() * before.shape[2] * before.shape[3]
        found.append(total)
    assert tuple(found) == count_macs(spec, 32, 32)


def test_a_branch_that_adds_nothing_is_not_run() -> None:
    """On board it would only take time; in training it must learn."""
    spec, ran = shortcut_spec(), list[int]()
    analysis = Analysis(spec)
    analysis.branch[0].register_forward_pre_hook(lambda *_: ran.append(1))
    x = torch.zeros(1, 3, 16, 16)
    analysis(x)
    assert ran == [1]
    before = analysis(x)
    analysis.rest_idle_branch()
    assert torch.equal(analysis(x), before)
    assert not analysis.runs_branch
    assert ran == [1, 1]
    torch.nn.init.ones_(analysis.branch[-2].bias)
    analysis.rest_idle_branch()
    analysis(x)
    assert analysis.runs_branch
    assert ran == [1, 1, 1]


def test_only_the_bundles_network_rests_its_branch() -> None:
    """What flies saves the time; what is trained from it learns."""
    assert not klt_bundle().analysis().runs_branch
    assert branch_bundle().analysis().runs_branch
    assert minmax_bundle().analysis().runs_branch
    assert Analysis(shortcut_spec()).runs_branch


def test_counted_macs_of_restoring_are_those_of_all_coefficients() -> None:
    """Beside the wavelet the decoder's count is the network's for each coefficient."""
    spec = shortcut_spec()
    layers = [layer for layer in Synthesis(spec).branch if isinstance(layer, torch.nn.Linear)]
    per_coefficient = sum(layer.weight.numel() for layer in layers)
    assert count_macs(spec, 32, 40)[1] == 32 * 40 * spec.components * per_coefficient


def test_layer_shapes_are_the_papers() -> None:
    """Each layer gives the channels and resolution of SSCNet, table 1."""
    with torch.device("meta"):
        analysis, synthesis = Analysis(PAPER), Synthesis(PAPER)
        x = torch.zeros(1, 202, 128, 128)
    kinds = (torch.nn.PReLU, torch.nn.Sigmoid)
    shapes = []
    for layer in [*analysis.branch, *synthesis.branch]:
        x = layer(x)
        if isinstance(layer, kinds):
            shapes.append((x.shape[1], x.shape[2]))
    encoder = [(256, 128), (256, 128), (256, 64), (512, 32), (1024, 16)]
    decoder = [(512, 16), (256, 32), (256, 64), (256, 128), (202, 128)]
    assert shapes == encoder + decoder


def test_pruned_widths_build_and_run() -> None:
    """Any widths are a network: what pruning leaves is just another description."""
    with torch.inference_mode():
        latents = Analysis(PRUNED)(torch.rand(2, 9, 16, 24))
        restored = Synthesis(PRUNED)(latents)
    assert latents.shape == (2, 12, 2, 3)
    assert restored.shape == (2, 9, 16, 24)
    assert 0 < restored.min() < restored.max() < 1


@pytest.mark.parametrize("shortcut", ["wavelet", "dct"])
@pytest.mark.parametrize("components", [0, 1, 2, 5])
def test_an_untrained_codec_is_its_shortcut(shortcut: str, components: int) -> None:
    """Before training the branch adds exactly zero, for fewer or more components than it sees."""
    spec = shortcut_spec(shortcut)
    x = torch.randn(1, components, 16, 8) * 100
    with torch.inference_mode():
        latents = Analysis(spec)(x)
        restored = Synthesis(spec)(latents)
    assert torch.equal(latents, SHORTCUTS[shortcut].forward(x))
    assert torch.equal(restored, SHORTCUTS[shortcut].inverse(latents))


def test_training_can_leave_the_start() -> None:
    """The zero start has a gradient: it is a start, not a dead end."""
    network = Analysis(shortcut_spec())
    network(torch.randn(1, 2, 8, 8)).square().sum().backward()
    gradient = network.branch.get_parameter(f"{len(network.branch) - 2}.weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("shortcut", ["wavelet", "dct"])
def test_the_shortcut_stays_in_float32(shortcut: str) -> None:
    """Under autocast the branch runs in bfloat16, the shortcut does not."""
    network = Analysis(shortcut_spec(shortcut)).eval()
    x = torch.randn(1, 2, 16, 16) * 10_000
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        latents = network(x)
    assert torch.equal(latents, SHORTCUTS[shortcut].forward(x))


def test_squash_is_its_formula() -> None:
    """Squashing halves the stated magnitude, keeps the sign, and leaves small values alone."""
    x = torch.tensor([-8.0, 0.0, 8.0, 8000.0]).reshape(1, 1, 2, 2)
    squashed = branch_input(x, 1, squash=8.0).flatten()
    assert squashed.tolist() == pytest.approx([-4.0, 0.0, 4.0, 7.992], rel=1e-4)


def test_the_branch_sees_its_channels() -> None:
    """Channels beyond the branch's are cut, those it lacks are zero."""
    x = torch.ones(1, 2, 8, 8)
    assert branch_input(x, 1, 0).shape == (1, 1, 8, 8)
    assert branch_input(x, 4, 0).sum(dim=(0, 2, 3)).tolist() == [64, 64, 0, 0]
    assert add_channels(x, torch.ones(1, 1, 8, 8))[0, :, 0, 0].tolist() == [2, 1]
    assert add_channels(x, torch.ones(1, 5, 8, 8)).shape == x.shape


def test_the_description_survives_json() -> None:
    """What a bundle writes of its network is what it reads."""
    for spec in (PAPER, PRUNED, shortcut_spec()):
        assert SscnetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"components": 0}, "positive integers"),
        ({"components": 2.5}, "positive integers"),
        ({"encoder_widths": [1, 2, 3]}, "positive integers"),
        ({"shortcut": "fourier"}, "unknown shortcut"),
        ({"output": "relu"}, "unknown shortcut"),
        ({"latent_channels": 100}, "64 latent channels per component"),
        ({"squash": -1.0}, "squash"),
        ({"squash": "much"}, "network description"),
        ({"surprise": 1}, "network description"),
    ],
)
def test_a_damaged_description_is_refused(change: dict[str, object], message: str) -> None:
    """A description that builds no network is a bundle error, never a TypeError."""
    fields = shortcut_spec().to_dict() | change
    with pytest.raises(BundleError, match=message):
        SscnetSpec.from_dict(fields)
