"""A bundle on disk for tests of the processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.bundles import klt_bundle


@pytest.fixture(scope="session")
def bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained linear codec, as a bundle file."""
    path = tmp_path_factory.mktemp("bundles") / "linear.safetensors"
    path.write_bytes(klt_bundle().to_bytes())
    return path
