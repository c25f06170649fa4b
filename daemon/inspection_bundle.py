"""`prismlink inspect` of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codec.bundle import load_bundle
from codec.network import count_macs


def describe(path: Path) -> dict[str, Any]:
    """Say what a model is, where it came from and what it reached; plain JSON values.

    Raises:
        BundleError: If the file is no bundle.
    """
    bundle = load_bundle(path)
    encoder_macs, decoder_macs = count_macs(bundle.network)
    return {
        "kind": "bundle",
        "model": bundle.name,
        "digest": bundle.digest.hex(),
        "flight_only": not bundle.has_synthesis,
        "network": bundle.network.to_dict(),
        "conditioner": {
            "kind": bundle.conditioner.kind,
            "components": bundle.conditioner.components,
        },
        "default_step": bundle.default_step,
        "parameters": sum(
            array.size
            for name, array in bundle.tensors.items()
            if name.startswith(("analysis.", "synthesis."))
        ),
        "encoder_macs_per_patch": encoder_macs,
        "decoder_macs_per_patch": decoder_macs,
        "provenance": dict(bundle.provenance),
        "scores": dict(bundle.scores),
    }
