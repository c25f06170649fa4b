"""What pip installs is what the operator needs, and on board nothing of the training."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fakes.wheels import PACKAGES, ROOT, alone, build_wheel, install_wheel

PYPROJECT: Final[dict[str, Any]] = tomllib.loads(
    (ROOT / "pyproject.toml").read_text(encoding="utf-8")
)
PROJECT: Final[dict[str, Any]] = PYPROJECT["project"]

TRAINING_ONLY: Final = {"fasterai", "fastai", "torchvision", "torch_pruning"}
GROUND_ONLY: Final = {
    *("rasterio", "scipy", "xarray", "zarr", "PIL", "matplotlib", "dask", "distributed"),
}

IMPORT_ALL: Final = """
import importlib, sys
forbidden, modules = (text.split(",") for text in sys.argv[1:])
# What the interpreter does for a package that is not installed, submodules included.
sys.modules.update(dict.fromkeys(forbidden))
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        print(f"{module}: {type(error).__name__}: {error}")
"""


def modules(root: Path, package: str) -> list[str]:
    """Every module of a package, by its dotted name."""
    return [
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((root / package).rglob("*.py"))
    ]


def not_importable(root: Path, names: Iterable[str], *, without: Iterable[str]) -> list[str]:
    """Import modules in a fresh interpreter that lacks `without`; return what went wrong."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(without), ",".join(names)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.splitlines() + (run.stderr.splitlines()[-1:] if run.returncode else [])


def brought_by(names: Iterable[str]) -> set[str]:
    """Distributions that installing `names` brings, as far as they are installed here."""
    found: set[str] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if name in found or (marker and not marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            todo += map(Requirement, requires(name) or [])
        except PackageNotFoundError:
            continue
    return found


def test_flight_brings_nothing_of_training() -> None:
    """Neither the flight dependencies nor what they bring is a training library."""
    brought = brought_by(PROJECT["dependencies"])

    assert "torch" in brought
    assert brought & {canonicalize_name(name) for name in TRAINING_ONLY} == set()


def test_training_libraries_would_be_found() -> None:
    """The search above follows a dependency's dependencies: fasterai brings fastai."""
    brought = brought_by(PROJECT["optional-dependencies"]["training"])

    assert {"fasterai", "fastai", "torchvision"} <= brought


def test_flight_imports_without_ground_or_training() -> None:
    """All the codec and all the daemon but the ground's half import on a flight installation."""
    names = [
        name
        for package in ["codec", "daemon"]
        for name in modules(ROOT, package)
        if not name.startswith("daemon.ground.")
    ]

    assert not_importable(ROOT, names, without=GROUND_ONLY | TRAINING_ONLY) == []


def test_ground_imports_without_training() -> None:
    """The ground's half of the daemon imports where nothing of the training is installed."""
    assert not_importable(ROOT, modules(ROOT, "daemon"), without=TRAINING_ONLY) == []


@pytest.mark.parametrize("line", ["import fastai", "from scipy.io import loadmat"])
def test_a_forbidden_import_is_reported(line: str, tmp_path: Path) -> None:
    """The interpreter of the two tests above really lacks what it is told to lack."""
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec/__init__.py").write_text(f"{line}\n", encoding="utf-8")
    (report,) = not_importable(tmp_path, ["codec"], without=["fastai", "scipy"])

    assert report.startswith("codec: ModuleNotFoundError")
    assert line.split()[1].partition(".")[0] in report


@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_a_console_script_answers(script: str, absent: Callable[[str], NoReturn]) -> None:
    """Each console script names a function that exists, is installed, and shows its help."""
    module, _, function = PROJECT["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), function))

    program = shutil.which(script, path=str(Path(sys.executable).parent))
    if program is None:
        absent(f"{script} is not installed beside this Python: make check installs it")
    assert subprocess.run([program, "--help"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_shipped(package: str) -> None:
    """A package says that it is typed, and the mark is among the files pip installs."""
    assert (ROOT / package / "py.typed").is_file()
    assert PYPROJECT["tool"]["setuptools"]["package-data"][package] == ["py.typed"]


def test_only_our_packages_are_installed() -> None:
    """Discovery would take `tests` and `deploy` along; the packages are listed instead."""
    include = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]

    assert sorted(include) == sorted(f"{package}*" for package in PACKAGES)


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment that has the wheel, and of this checkout nothing."""
    folder = tmp_path_factory.mktemp("wheel")
    return install_wheel(build_wheel(folder / "built"), folder / "environment")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def said(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that knows nothing of this checkout."""
    words = list(map(str, command))
    return subprocess.run(
        words, cwd=folder, env=alone(), capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_the_sources(installed: Path, elsewhere: Path) -> None:
    """Every module of the checkout is in it, and imported from there."""
    for package in PACKAGES:
        where = f"import {package}; print({package}.__file__)"
        home = Path(said(elsewhere, installed / "python", "-c", where).stdout.strip()).parents[1]
        assert home.is_relative_to(installed.parent)
        assert modules(home, package) == modules(ROOT, package)
        assert (home / package / "py.typed").is_file()
    assert (
        said(elsewhere, installed / "prismlink", "--version")
        .stdout.strip()
        .endswith(PROJECT["version"])
    )


@pytest.mark.parametrize(
    "words", [("--help",), ("demo", "--help"), ("flight", "run", "--help"), ("keys", "keys")]
)
def test_a_wheel_needs_no_checkout(installed: Path, elsewhere: Path, words: list[str]) -> None:
    """Its commands answer in a folder where there is nothing."""
    done = said(elsewhere, installed / "prismlink", *words)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_wheel_reads_the_settings_that_ship(
    installed: Path, elsewhere: Path, absent: Callable[[str], NoReturn]
) -> None:
    """A settings file and its bundle, copied to a machine that has the wheel, are accepted."""
    models = ROOT / "deploy" / "models"
    if not models.is_dir():
        absent("this test needs the models that ship")
    shutil.copy(ROOT / "deploy" / "flight.yaml", elsewhere)
    shutil.copytree(models, elsewhere / "models")
    done = said(elsewhere, installed / "prismlink", "flight", "check-config", "flight.yaml")

    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- what stands beside it


def test_the_license_is_there() -> None:
    """The license that pyproject.toml names is the text that ships."""
    (name,) = PROJECT["license-files"]
    text = (ROOT / name).read_text(encoding="utf-8")

    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_knows_this_version() -> None:
    """The newest released entry of the change log is the version that is packaged."""
    headings = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )

    assert headings[0] == PROJECT["version"]
