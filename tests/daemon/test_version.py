"""The build says its version, installed or not."""

from __future__ import annotations

import importlib.metadata

import pytest

from daemon.version import installed_version


def test_it_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from a tree that is not installed, it is unknown, and nothing fails for that."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 1.2.3")
    assert installed_version() == "prismlink 1.2.3"

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert installed_version() == "unknown"
