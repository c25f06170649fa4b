"""Rules of `codec.bundle`: one file, one name, and every kind of damage its own error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from codec.bundle import (
    Bundle,
    load_bundle,
    make_bundle,
    parse_bundle,
    untrained_bundle,
)
from codec.bundle_file import promised_name
from codec.conditioning import ConditionerSpec
from codec.errors import (
    BundleDigestError,
    BundleError,
    BundleTensorError,
    BundleVersionError,
)
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle, shortcut_spec

BUNDLE = branch_bundle()
Change = Callable[[dict[str, Any], dict[str, NDArray[Any]]], None]


def rewritten(path: Path, change: Change) -> Path:
    """A bundle whose description or tensors were changed behind its back."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
        head = json.loads(file.metadata()["prismlink"])
    change(head, tensors)
    save_file(tensors, path, metadata={"prismlink": json.dumps(head)})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle on disk."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(BUNDLE.to_bytes())
    return file


# ---- round trip and name


@pytest.mark.parametrize("bundle", [BUNDLE, klt_bundle("dct"), minmax_bundle()])
def test_round_trip(bundle: Bundle, tmp_path: Path) -> None:
    """What is written is what is read, tensor by tensor, under the same name."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(bundle.to_bytes())
    again = load_bundle(file)
    assert again.name == bundle.name == bundle.model.hex()
    assert (again.network, again.conditioner) == (bundle.network, bundle.conditioner)
    assert again.tensors.keys() == bundle.tensors.keys()
    for name, array in bundle.tensors.items():
        assert np.array_equal(again.tensors[name], array), name
    assert again.to_bytes() == bundle.to_bytes()


def test_provenance_and_scores_are_kept_but_do_not_name() -> None:
    """Where a model came from may be corrected without giving it another name."""
    told = replace(BUNDLE, provenance={"data": "here"}, scores={"psnr_db": 50.0})
    assert told.name == BUNDLE.name


def test_the_same_model_has_the_same_bytes() -> None:
    """A seed decides the weights; equal bundles are equal files."""
    spec, conditioner = shortcut_spec(), ConditionerSpec(kind="klt", components=4)
    made = [untrained_bundle(spec, conditioner, default_step=8.0, seed=s) for s in (1, 1, 2)]
    assert made[0].to_bytes() == made[1].to_bytes()
    assert made[0].name != made[2].name


def test_a_seed_is_left_alone() -> None:
    """Making a bundle does not move the random numbers of who calls."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    untrained_bundle(
        shortcut_spec(), ConditionerSpec(kind="klt", components=4), default_step=8.0, seed=5
    )
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "tensor", ["analysis.branch.0.weight", "synthesis.branch.0.bias", "contexts.states"]
)
def test_every_tensor_names_the_model(tensor: str) -> None:
    """A bundle with one number changed is another model."""
    changed = BUNDLE.tensors[tensor].copy()
    changed.flat[0] += 1
    other = make_bundle(
        BUNDLE.network,
        BUNDLE.conditioner,
        default_step=BUNDLE.default_step,
        tensors={**BUNDLE.tensors, tensor: changed},
    )
    assert other.name != BUNDLE.name


def test_networks_hold_the_weights() -> None:
    """Built networks are frozen, in evaluation mode, and hold the bundle's numbers."""
    for network, prefix in ((BUNDLE.analysis(), "analysis."), (BUNDLE.synthesis(), "synthesis.")):
        assert not network.training
        for name, parameter in network.named_parameters():
            assert not parameter.requires_grad
            assert np.array_equal(parameter.numpy(), BUNDLE.tensors[prefix + name])


# ---- flight bundle


def test_a_flight_bundle_is_the_same_model(tmp_path: Path) -> None:
    """Without its synthesis network a bundle is smaller and bears the same name."""
    file = tmp_path / "flight.safetensors"
    file.write_bytes(BUNDLE.for_flight().to_bytes())
    flight = load_bundle(file)
    assert flight.name == BUNDLE.name
    assert not any(name.startswith("synthesis.") for name in flight.tensors)
    assert file.stat().st_size < len(BUNDLE.to_bytes())


def test_a_flight_bundle_cannot_decode() -> None:
    """It says so, and what to use instead."""
    with pytest.raises(BundleTensorError, match="use the full bundle"):
        BUNDLE.for_flight().synthesis()


# ---- damage


def set_head(**values: object) -> Change:
    """Change fields of the description."""
    return lambda head, _: head.update(values)


def drop(name: str) -> Change:
    """Leave a tensor out."""

    def change(_: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        del tensors[name]

    return change


def put(name: str, array: NDArray[Any]) -> Change:
    """Put a tensor in, or another in its place."""
    return lambda _, tensors: tensors.update({name: array})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(set_head(version=6), BundleVersionError, "version 6", id="later build"),
        pytest.param(set_head(version=2), BundleVersionError, "version 2", id="earlier build"),
        pytest.param(set_head(digest="00" * 32), BundleDigestError, "digest", id="digest"),
        pytest.param(set_head(default_step=5.0), BundleDigestError, "digest", id="step"),
        pytest.param(set_head(default_step=-1.0), BundleError, "default_step", id="no step"),
        pytest.param(set_head(default_step="x"), BundleError, "damaged", id="step of words"),
        pytest.param(set_head(conditioner=None), BundleError, "damaged", id="no conditioner"),
        pytest.param(set_head(network={}), BundleError, "network", id="no network"),
        pytest.param(set_head(tensors=3), BundleError, "damaged", id="no digests"),
        pytest.param(
            drop("analysis.branch.0.weight"), BundleTensorError, "missing", id="missing weight"
        ),
        pytest.param(drop("contexts.weights"), BundleTensorError, "missing", id="no contexts"),
        pytest.param(drop("tables.counts"), BundleTensorError, "missing", id="missing tables"),
        pytest.param(
            drop("synthesis.branch.0.bias"), BundleTensorError, "missing", id="half a decoder"
        ),
        pytest.param(
            put("surprise", np.zeros(3, np.float32)), BundleTensorError, "unknown", id="unknown"
        ),
        pytest.param(
            put("analysis.branch.0.bias", np.zeros(6, np.float32)),
            BundleDigestError,
            "analysis.branch.0.bias does not match",
            id="other bytes",
        ),
        pytest.param(
            put("analysis_ranges", np.ones(5, np.float32)),
            BundleDigestError,
            "no digest",
            id="a tensor too many",
        ),
    ],
)
def test_each_damage_has_its_error(
    path: Path, change: Change, error: type[BundleError], message: str
) -> None:
    """The error names the file and what is wrong with it."""
    with pytest.raises(error, match=message) as caught:
        load_bundle(rewritten(path, change))
    assert type(caught.value) is error
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("analysis.branch.0.bias", np.zeros(7, np.float32), "not float32"),
        ("analysis.branch.0.bias", np.zeros(6, np.float64), "not float32"),
        ("analysis_ranges", np.zeros(4, np.float32), "not float32"),
        ("contexts.weights", np.zeros((256, 6), np.int16), "not int32"),
        ("contexts.states", np.zeros(32, np.int32), "not int32"),
    ],
)
def test_a_tensor_of_another_shape_or_type(name: str, array: NDArray[Any], message: str) -> None:
    """Weights that do not fit the description are refused before a network is built."""
    with pytest.raises(BundleTensorError, match=message):
        make_bundle(
            BUNDLE.network,
            BUNDLE.conditioner,
            default_step=8.0,
            tensors={**BUNDLE.tensors, name: array},
        )


def test_tables_are_checked_with_the_bundle() -> None:
    """Tables that cannot decode are found when the bundle is loaded, not at the first tile."""
    counts = BUNDLE.tensors["tables.counts"].copy()
    counts[0, 0] = 0
    with pytest.raises(BundleError, match="table"):
        replace(BUNDLE, tensors={**BUNDLE.tensors, "tables.counts": counts})


def test_contexts_are_checked_with_the_bundle() -> None:
    """So are contexts that no coder can start from."""
    states = BUNDLE.tensors["contexts.states"].copy()
    states[7] = -1
    with pytest.raises(BundleError, match=r"contexts\.states"):
        replace(BUNDLE, tensors={**BUNDLE.tensors, "contexts.states": states})


def test_contexts_go_with_the_wavelet() -> None:
    """Only wavelet channels have contexts; those of a bundle without calibration know nothing."""
    contexts = klt_bundle().contexts
    assert contexts is not None
    assert (contexts.states == 1 << 30).all()
    for bundle in (klt_bundle("dct"), minmax_bundle()):
        assert bundle.contexts is None
        assert not any(name.startswith("contexts.") for name in bundle.tensors)
    tensors = {"contexts.states": BUNDLE.tensors["contexts.states"]}
    with pytest.raises(BundleTensorError, match="unknown"):
        replace(klt_bundle("dct"), tensors={**klt_bundle("dct").tensors, **tensors})


@pytest.mark.parametrize(
    ("shortcut", "kind"), [("none", "klt"), ("wavelet", "minmax"), ("dct", "minmax")]
)
def test_parts_fit_each_other(shortcut: str, kind: Any) -> None:
    """A free number of components needs a shortcut; one input per band must not have one."""
    with pytest.raises(BundleError, match="klt goes with a shortcut"):
        untrained_bundle(
            shortcut_spec(shortcut), ConditionerSpec(kind=kind, components=2), default_step=1.0
        )


def test_minmax_has_the_networks_bands() -> None:
    """The bands a tile must have are those the network takes."""
    bundle = minmax_bundle()
    with pytest.raises(BundleError, match="4 bands go into a network of 5"):
        replace(bundle, conditioner=ConditionerSpec(kind="minmax", components=4))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a bundle", id="text"),
        pytest.param(b"\xff" * 100, id="a length that is none"),
    ],
)
def test_no_bundle_at_all(tmp_path: Path, content: bytes) -> None:
    """Any other file is an error that names it."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.safetensors: no readable bundle"):
        load_bundle(file)


def headed(header: object, body: bytes = b"") -> bytes:
    """A file of this header, as JSON unless it is bytes already."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


NOTHING = {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(headed(b"[" * 100_000), id="nested header"),
        pytest.param(
            headed({"__metadata__": {"prismlink": "[" * 100_000}}), id="nested description"
        ),
        pytest.param(headed({"a": NOTHING}), id="a shape beyond memory, of no bytes"),
        pytest.param(
            headed({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
            id="terabytes promised",
        ),
        pytest.param(
            headed(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}'),
            id="infinitely long",
        ),
        pytest.param(b"\x80\x04cos\nsystem\n(S'false'\ntR.", id="a pickle"),
        pytest.param((1 << 63).to_bytes(8, "little"), id="a header beyond memory"),
    ],
)
def test_hostile_headers_are_errors_of_ours(content: bytes) -> None:
    """Whatever a header says, nothing is allocated for it, and no other error comes through."""
    with pytest.raises(BundleError):
        parse_bundle(content)
    assert promised_name(content) is None


def test_no_file_at_all(tmp_path: Path) -> None:
    """A missing file, or a folder, is an error that names it."""
    for missing in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(BundleError, match=str(missing)):
            load_bundle(missing)


def test_safetensors_without_a_description(tmp_path: Path) -> None:
    """Weights of somebody else are not a bundle."""
    file = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, file)
    with pytest.raises(BundleError, match="'prismlink' description"):
        load_bundle(file)


def test_any_cut_is_reported(path: Path) -> None:
    """A bundle cut at any of its sections is an error, never a model."""
    whole = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BundleError):
            load_bundle(path)


def test_no_flipped_bit_loads(path: Path) -> None:
    """One wrong bit among the weights is found by their digest."""
    whole = path.read_bytes()
    for position in range(len(whole) - 1, len(whole) // 2, -len(whole) // 20):
        broken = bytearray(whole)
        broken[position] ^= 1
        path.write_bytes(broken)
        with pytest.raises(BundleDigestError):
            load_bundle(path)
