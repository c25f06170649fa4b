"""What every end-to-end test gets: a desk to start processes on, scenes, and models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from fakes.bundles import branch_bundle, klt_bundle
from fakes.processes import DEPLOY, ROOT, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Processes that find each other; all are ended, and their logs shown if the test fails."""
    with tempfile.TemporaryDirectory(prefix="prismlink-") as sockets:
        made = Desk(Path(sockets), tmp_path)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="session")
def enmap() -> Path:
    """The HySpecNet-11k patch that ships: one tile, one patch, with its place on the ground."""
    (path,) = (ROOT / "tests" / "data" / "hyspecnet-11k").rglob("*-SPECTRAL_IMAGE.TIF")
    return path


@pytest.fixture(scope="session")
def aviris() -> Path:
    """The AVIRIS scene that ships: one tile, less than a patch."""
    return ROOT / "tests" / "data" / "aviris_salton_sea.npz"


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The linear codec with six components: fast, and exact enough to tell tiles apart."""
    path = tmp_path_factory.mktemp("bundles") / "small.safetensors"
    path.write_bytes(klt_bundle().to_bytes())
    return path


@pytest.fixture(scope="session")
def branch_bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec whose network does something, with the ranges that int8 needs."""
    path = tmp_path_factory.mktemp("bundles") / "branch.safetensors"
    path.write_bytes(branch_bundle(calibrated=True).to_bytes())
    return path


@pytest.fixture
def shipped_bundle(absent: Callable[[str], NoReturn]) -> Path:
    """The model that ships."""
    path = DEPLOY / "models" / "default.safetensors"
    if not path.is_file():
        absent(f"this test needs the model that ships, {path.relative_to(ROOT)}")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the clone last: what it shows is worth little where the rest has failed."""
    items.sort(key=lambda item: item.path.name == "test_fresh_clone.py")
