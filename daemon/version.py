"""Which build this is."""

from __future__ import annotations

import importlib.metadata


def installed_version() -> str:
    """The version of prismlink, "unknown" where it runs without being installed."""
    try:
        return importlib.metadata.version("prismlink")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
