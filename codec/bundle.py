"""The model bundle: one `.safetensors` file that holds all a codec needs, and names itself.

The name of a model is the SHA-256 over its description and the digests of its tensors. A flight
bundle leaves out the synthesis network but keeps every digest, so it bears the same name. Tables
and offsets are integers. Provenance and scores tell where it came from, a known answer what it made
of a known tile; they are not part of the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bundle_file import (
    MODEL_BYTES,
    Tensors,
    check_name,
    damaged,
    digest_of,
    has_synthesis,
    pack,
    read,
    tensor_digest,
    unpack,
)
from codec.conditioning import ConditionerSpec
from codec.context_coder import CONTEXT_TENSORS, ContextCoder, untrained_contexts
from codec.contexts import ScaleModel, shortcut_groups
from codec.errors import (
    BundleDigestError,
    BundleError,
    BundleTensorError,
)
from codec.network import SHORTCUTS, Analysis, SscnetSpec, Synthesis
from codec.tables import ENTRIES, TABLE_COUNT, FrequencyTables, laplace_tables

CONVOLUTIONS: Final = 5
"""Convolutions of the encoder's branch."""

_LATENTS_PER_GROUP: Final = 16
"""Without a shortcut neighboring latent channels share a delta in groups of this many."""

_RANGES: Final = "analysis_ranges"
"""The one tensor a bundle may lack; without it the encoder runs in floating point."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """A model, checked.

    Attributes:
        network: Both networks' description.
        conditioner: How tiles are conditioned.
        default_step: Quantizer step where none is asked for (units as in `SideFrame.step`).
        tensors: Weights "analysis.…" and "synthesis.…" (float32); "tables.counts" (uint32);
            "contexts.…" as in `ContextCoder`, beside
            the wavelet; "analysis_ranges" (float32, shape (5,),
            largest magnitude at the input of each encoder convolution), if calibrated for int8.
        digests: SHA-256 of every tensor, the absent synthesis of a flight bundle included.
        provenance: Where it came from: data, settings, versions.
        scores: What it reached where it was made.
        known_answer: What it made of a known tile, see `codec.known_answer`; empty if unknown.

    Raises:
        BundleTensorError: If a tensor is missing, unknown or has another type or shape.
        BundleError: If the parts do not fit each other.
    """

    network: SscnetSpec
    conditioner: ConditionerSpec
    default_step: float
    tensors: Tensors
    digests: Mapping[str, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    known_answer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.default_step < 1e9:
            raise BundleError(f"default_step must be positive, got {self.default_step}")
        adapted = self.conditioner.kind == "klt"
        if adapted == (self.network.shortcut == "none"):
            raise BundleError("klt goes with a shortcut, minmax goes without one")
        if not adapted and self.conditioner.components != self.network.components:
            raise BundleError(
                f"{self.conditioner.components} bands go into a network of "
                f"{self.network.components}"
            )
        self._check_tensors()
        # Made here once, so that a bundle that exists can be used.
        _ = self.tables, self.contexts

    def _check_tensors(self) -> None:
        expected = _expected_tensors(self.network)
        absent = expected.keys() - self.tensors.keys() - {_RANGES}
        if not self.has_synthesis:
            absent = {name for name in absent if not name.startswith("synthesis.")}
        if absent:
            raise BundleTensorError(f"tensor {min(absent)} is missing")
        if unknown := self.tensors.keys() - expected.keys():
            raise BundleTensorError(f"tensor {min(unknown)} is unknown")
        for name, array in self.tensors.items():
            dtype, shape = expected[name]
            if array.dtype.name != dtype or array.shape != (shape or array.shape):
                raise BundleTensorError(
                    f"tensor {name} is {array.dtype} {array.shape}, not {dtype} {shape}"
                )

    @property
    def has_synthesis(self) -> bool:
        """Whether the bundle can decode; a flight bundle cannot."""
        return has_synthesis(self.tensors)

    @property
    def digest(self) -> bytes:
        """SHA-256 over description and tensor digests: the model's full name."""
        return digest_of(self._description(), self.digests)

    @property
    def model(self) -> bytes:
        """First eight bytes of the digest, as frames carry it."""
        return self.digest[:MODEL_BYTES]

    @property
    def name(self) -> str:
        """`model` as sixteen hexadecimal digits."""
        return self.model.hex()

    @property
    def tables(self) -> FrequencyTables:
        """Frequency tables of the range coder."""
        return FrequencyTables(self.tensors["tables.counts"])

    @property
    def scales(self) -> ScaleModel:
        """The groups of latent channels whose scales travel."""
        if self.network.shortcut != "none":
            return ScaleModel(groups=shortcut_groups(SHORTCUTS[self.network.shortcut].GROUPS))
        groups = np.arange(self.network.latent_channels) // _LATENTS_PER_GROUP
        return ScaleModel(groups=groups.astype(np.int16))

    @property
    def contexts(self) -> ContextCoder | None:
        """Codes symbols; None unless the shortcut is the wavelet."""
        if self.network.shortcut != "wavelet":
            return None
        return ContextCoder(**{name: self.tensors[f"contexts.{name}"] for name in CONTEXT_TENSORS})

    def analysis(self) -> Analysis:
        """Build the encoder network, in evaluation mode; a branch that adds nothing rests."""
        network = Analysis(self.network)
        network.load_state_dict(self._weights("analysis."))
        network.rest_idle_branch()
        return network.eval().requires_grad_(False)

    def synthesis(self) -> Synthesis:
        """Build the decoder network, in evaluation mode.

        Raises:
            BundleTensorError: If this is a flight bundle.
        """
        if not self.has_synthesis:
            raise BundleTensorError(
                f"model {self.name} is a flight bundle and cannot decode; use the full bundle"
            )
        network = Synthesis(self.network)
        network.load_state_dict(self._weights("synthesis."))
        return network.eval().requires_grad_(False)

    def for_flight(self) -> Bundle:
        """The same model without what only the ground needs."""
        kept = {k: v for k, v in self.tensors.items() if not k.startswith("synthesis.")}
        return replace(self, tensors=kept)

    def to_bytes(self) -> bytes:
        """Return the file's bytes; the same bundle always gives the same bytes."""
        head = {
            "digest": self.digest.hex(),
            **self._description(),
            "tensors": dict(sorted(self.digests.items())),
            "provenance": dict(self.provenance),
            "scores": dict(self.scores),
            "known_answer": dict(self.known_answer),
        }
        return pack(head, self.tensors)

    def _description(self) -> dict[str, Any]:
        return {
            "network": self.network.to_dict(),
            "conditioner": asdict(self.conditioner),
            "default_step": self.default_step,
        }

    def _weights(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(prefix): torch.from_numpy(np.array(array))
            for name, array in self.tensors.items()
            if name.startswith(prefix)
        }


def make_bundle(
    network: SscnetSpec,
    conditioner: ConditionerSpec,
    *,
    default_step: float,
    tensors: Tensors,
    provenance: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Bundle:
    """Make a bundle of tensors that are new: compute their digests.

    Absent tables and scales are filled with the uncalibrated ones.

    Raises:
        BundleError: If the parts do not fit.
    """
    whole = {**_uncalibrated(network), **tensors}
    return Bundle(
        network=network,
        conditioner=conditioner,
        default_step=default_step,
        tensors=whole,
        digests={name: tensor_digest(array) for name, array in whole.items()},
        provenance=provenance or {},
        scores=scores or {},
    )


def untrained_bundle(
    network: SscnetSpec, conditioner: ConditionerSpec, *, default_step: float, seed: int = 0
) -> Bundle:
    """Make a bundle of freshly initialized networks; with a shortcut, the linear codec."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {"analysis": Analysis(network), "synthesis": Synthesis(network)}
    tensors = {
        f"{part}.{name}": tensor.numpy()
        for part, module in networks.items()
        for name, tensor in module.state_dict().items()
    }
    return make_bundle(network, conditioner, default_step=default_step, tensors=tensors)


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle's file; see `parse_bundle`.

    Raises:
        BundleError: As there, with the path; or if there is no such file.
    """
    return read(path, parse_bundle)


def parse_bundle(raw: bytes) -> Bundle:
    """Read and check what a bundle's file holds.

    Raises:
        BundleTruncatedError: If bytes lack at its end.
        BundleVersionError: If a later build wrote it.
        BundleDigestError: If its bytes are not the ones its name promises.
        BundleTensorError: If a tensor is missing or has another shape.
        BundleError: If it is no bundle at all.
    """
    file = unpack(raw)
    head = file.description
    try:
        bundle = Bundle(
            network=SscnetSpec.from_dict(head["network"]),
            conditioner=ConditionerSpec(**head["conditioner"]),
            default_step=head["default_step"],
            tensors=file.tensors,
            digests=file.digests,
            provenance=head["provenance"],
            scores=head["scores"],
            known_answer=dict(head.get("known_answer", {})),
        )
        promised = file.promised
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(error) from None
    check_name(bundle.digest, promised)
    if unnamed := bundle.tensors.keys() - bundle.digests.keys():
        raise BundleDigestError(f"tensor {min(unnamed)} has no digest")
    return bundle


def _expected_tensors(network: SscnetSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor a bundle may hold; () is for any shape."""
    with torch.device("meta"):
        parts = {"analysis": Analysis(network), "synthesis": Synthesis(network)}
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "tables.counts": ("uint32", (TABLE_COUNT, ENTRIES)),
        _RANGES: ("float32", (CONVOLUTIONS,)),
    }
    if network.shortcut == "wavelet":
        expected |= {f"contexts.{name}": kind for name, kind in CONTEXT_TENSORS.items()}
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            expected[f"{part}.{name}"] = ("float32", tuple(tensor.shape))
    return expected


def _uncalibrated(network: SscnetSpec) -> dict[str, NDArray[Any]]:
    """Analytic tables, and contexts that know nothing."""
    contexts = untrained_contexts() if network.shortcut == "wavelet" else {}
    return {
        **{f"contexts.{name}": array for name, array in contexts.items()},
        "tables.counts": laplace_tables().counts,
    }
