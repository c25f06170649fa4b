"""What runs: versions of the program, of Python, and of what runs networks."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_UNKNOWN: Final = "unknown"


def build_versions() -> dict[str, str]:
    """Version by name, "unknown" of what is not installed; nothing of it is imported."""
    names = {"version": "prismlink", "torch": "torch", "openvino": "openvino"}
    found = {key: _version(name) for key, name in names.items()}
    return {"version": found.pop("version"), "python": platform.python_version(), **found}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _UNKNOWN
