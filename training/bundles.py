"""Bundles on disk: written whole or not at all, with a record of how they came to be."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from codec.bundle import Bundle, load_bundle, make_bundle
from codec.errors import BundleError
from codec.network import Analysis, SscnetSpec, Synthesis, count_macs
from training.config import Settings
from training.errors import CheckpointError
from training.files import write_whole
from training.scenes import Split

VERSIONS_OF: Final = ("prismlink", "torch", "numpy", "fastai", "fasterai", "openvino")
"""Distributions whose versions are recorded."""


def read_bundle(path: Path) -> Bundle:
    """Read a bundle.

    Raises:
        CheckpointError: If there is none, or it cannot be trusted.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such bundle; remedy: run the step that writes it")
    try:
        return load_bundle(path)
    except BundleError as error:
        raise CheckpointError(str(error)) from None


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write a bundle, whole or not at all.

    Raises:
        TrainingError: If it cannot be written.
    """
    write_whole(path, bundle.to_bytes())


def changed(
    bundle: Bundle,
    *,
    network: SscnetSpec | None = None,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    stage: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Bundle:
    """Return a new model made of an old one.

    Args:
        bundle: The old one.
        network: Another description; then `tensors` must hold all weights.
        tensors: What replaces tensors of the same name.
        stage: A line for the record, in place of the last one if that is of the same stage.
        scores: Scores of the new model; the old one's are not true of it.
        provenance: Where it comes from, in place of the old one's.
    """
    told = dict(bundle.provenance if provenance is None else provenance)
    if stage is not None:
        stages = list(told.get("stages", []))
        if stages and stages[-1]["stage"] == stage["stage"]:
            stages.pop()
        told["stages"] = [*stages, dict(stage)]
    return make_bundle(
        network or bundle.network,
        bundle.conditioner,
        default_step=bundle.default_step,
        tensors={**bundle.tensors, **(tensors or {})},
        provenance=told,
        scores=scores or {},
    )


def stage_of(bundle: Bundle, name: str) -> Mapping[str, Any] | None:
    """Return what a stage recorded last, or None if it has not been."""
    stages: Sequence[Mapping[str, Any]] = bundle.provenance.get("stages", [])
    return next((entry for entry in reversed(stages) if entry["stage"] == name), None)


def names_of(split: Split) -> dict[str, list[str]]:
    """Names of the scenes on either side."""
    return {
        "training": sorted(scene.name for scene in split.training),
        "validation": sorted(scene.name for scene in split.validation),
    }


def checksums_of(split: Split) -> dict[str, str]:
    """CRC32C of the samples of every scene, by its name."""
    return {
        scene.name: f"{google_crc32c.value(np.ascontiguousarray(scene.tile.samples).tobytes()):08x}"
        for scene in (*split.training, *split.validation)
    }


def origin(
    settings: Settings, scenes: Mapping[str, Sequence[str]], checksums: Mapping[str, str]
) -> dict[str, Any]:
    """Describe where a model comes from: scenes, settings, versions, commit, date."""
    return {
        "made_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(VERSIONS_OF),
        "settings": settings.model_dump(mode="json", exclude={"report"}),
        "scenes": {part: list(names) for part, names in scenes.items()},
        "checksums": dict(checksums),
    }


def size_of(network: SscnetSpec) -> dict[str, Any]:
    """Count parameters and multiply-accumulates of both branches."""
    parts = (Analysis(network), Synthesis(network))
    encoder, decoder = count_macs(network)
    return {
        "params": sum(p.numel() for part in parts for p in part.parameters()),
        "macs_encoder": encoder,
        "macs_decoder": decoder,
        "encoder_widths": list(network.encoder_widths),
        "decoder_widths": list(network.decoder_widths),
    }


def as_record(stage: str, values: Any) -> dict[str, Any]:
    """Turn a dataclass into a line of the record."""
    return {"stage": stage, **asdict(values)}


def commit() -> str:
    """Commit of the tree this code runs from, "+" if it was changed since; empty if unknown."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(  # noqa: S603  # fixed arguments
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return run.stdout.strip()


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of distributions; empty where one is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
