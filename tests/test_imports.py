"""Who may import whom. Every checker takes the root of a tree, so each is also shown to fail.

The rules, from the design: the codec knows nobody, the daemon and the training know only the
codec, flight and ground never meet, nothing goes in a ring, each outside thing has one door,
protocol modules touch no socket, clock or file, light modules do not load torch.
Imports inside functions, under TYPE_CHECKING and through importlib count like any other.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

Checker = Callable[[Path], list[str]]
"""From the root of a tree to its offences."""

ROOT: Final = Path(__file__).resolve().parents[1]

PACKAGES: Final = {"codec": set[str](), "training": {"codec"}, "daemon": {"codec"}}
"""A package and the others it may import."""

STRANGERS: Final = [("daemon.onboard", "daemon.ground"), ("daemon.ground", "daemon.onboard")]
"""What the first must never import: half of it is in orbit."""

DOORS: Final = {
    "zmq": {"daemon.link.sockets"},
    "prometheus_client": {"daemon.metrics"},
    "openvino": {"codec.backends.openvino_backend"},
    "pynvml": {"daemon.gpu"},
    "cryptography": {"daemon.link.seal", "daemon.signatures", "training"},
    "dask": {"daemon.bulk.cluster"},
    "distributed": {"daemon.bulk.cluster"},
    # Training may not import the daemon's clock, and reports how long it took.
    "time": {"daemon.clock", "training"},
    "starlette": {"daemon.ground.web"},
    "uvicorn": {"daemon.ground.web"},
    "fasterai": {"training"},
    "fastai": {"training"},
    "torch_pruning": {"training"},
    "torchvision": {"training"},
}
"""An outside thing and the modules, or packages, that may import it."""

PROTOCOL: Final = "daemon.link"
NOT_IN_PROTOCOL: Final = {
    *("asyncio", "mmap", "os", "pathlib", "selectors", "shutil", "socket", "sqlite3"),
    *("subprocess", "tempfile", "time", "zmq"),
}
"""What brings a socket, a clock or a file into a module that only maps values."""

LIGHT: Final = [
    *("codec.errors", "codec.tile", "codec.frame", "codec.patch_grid", "codec.quality"),
    *("codec.backend_names", "codec.bundle_file", "daemon.bulk.decode", "daemon.inspection"),
]
"""Modules, beside all of `daemon.link`, that tools load without wanting torch."""


# ---------------------------------------------------------------- reading a tree


def sources(root: Path) -> dict[str, Path]:
    """Return the dotted name of every module of our packages and where it is."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def trees(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Parse every module of our packages."""
    for module, path in sources(root).items():
        yield module, ast.parse(path.read_text(encoding="utf-8"), str(path))


def names_in(tree: ast.Module) -> set[str]:
    """Every dotted name a module imports, with each thing taken `from` it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module), level=0):
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="__import__" | "import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def imports(root: Path) -> dict[str, set[str]]:
    """Every module with all it imports."""
    return {module: names_in(tree) for module, tree in trees(root)}


def within(name: str, packages: Iterable[str]) -> bool:
    """Tell whether a dotted name is one of `packages` or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


# ---------------------------------------------------------------- the checkers


def wrong_arrows(root: Path) -> list[str]:
    """Imports of a package that the importing one must not know."""
    return [
        f"{module} imports {name}"
        for module, names in imports(root).items()
        for home in [module.partition(".")[0]]
        for name in sorted(names)
        if within(name, PACKAGES.keys() - PACKAGES[home] - {home})
        or any(within(module, [one]) and within(name, [other]) for one, other in STRANGERS)
    ]


def rings(root: Path) -> list[str]:
    """The first ring of imports, if there is one."""
    found = imports(root)
    arrows = {module: names & found.keys() - {module} for module, names in found.items()}
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        ring = error.args[1][:0:-1]  # it comes last to first, with the first named twice
        first = ring.index(min(ring))
        return [" → ".join([*ring[first:], *ring[: first + 1]])]
    return []


def outside_doors(root: Path) -> list[str]:
    """Imports of an outside thing beside its door, and reads of the clock through datetime."""
    offences = [
        f"{module} imports {name}"
        for module, names in imports(root).items()
        for name in sorted({name.partition(".")[0] for name in names} & DOORS.keys())
        if not within(module, DOORS[name])
    ]
    for module, tree in trees(root):
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="now" | "utcnow" | "today" as call)):
                    if not within(module, DOORS["time"]):
                        offences.append(f"{module} reads the clock: .{call}()")
    return offences


def impure_protocols(root: Path) -> list[str]:
    """Sockets, clocks and files in protocol modules."""
    offences: list[str] = []
    for module, tree in trees(root):
        if not within(module, [PROTOCOL]) or within(module, DOORS["zmq"]):
            continue
        heads = {name.partition(".")[0] for name in names_in(tree)}
        offences += [f"{module} imports {name}" for name in sorted(heads & NOT_IN_PROTOCOL)]
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="open")):
                    offences.append(f"{module} opens a file")
    return offences


def relative_imports(root: Path) -> list[str]:
    """Imports that begin with a dot."""
    return [
        f"{module}, line {node.lineno}"
        for module, tree in trees(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def busy_inits(root: Path) -> list[str]:
    """`__init__.py` files that hold anything but a docstring."""
    return [
        module
        for module, path in sources(root).items()
        if path.name == "__init__.py"
        for tree in [ast.parse(path.read_text(encoding="utf-8"))]
        if len(tree.body) != 1 or ast.get_docstring(tree) is None
    ]


def light(root: Path) -> list[str]:
    """The light modules of a tree: those listed, and all of the link's."""
    return LIGHT + [module for module in sources(root) if within(module, [PROTOCOL])]


def heavy(root: Path) -> list[str]:
    """Light modules that load torch, or do not load, in a fresh interpreter."""
    offences: list[str] = []
    for module in light(root):
        code = f"import sys, {module}; sys.exit('torch' in sys.modules and 'loads torch')"
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
        )
        if run.returncode:
            offences.append(f"{module}: {run.stderr.strip().splitlines()[-1]}")
    return offences


CHECKERS: Final[list[Checker]] = [
    wrong_arrows,
    rings,
    outside_doors,
    impure_protocols,
    relative_imports,
    busy_inits,
    heavy,
]

# ---------------------------------------------------------------- our tree


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_our_tree_keeps_the_rule(checker: Checker) -> None:
    """The checker finds nothing in the packages we ship."""
    assert checker(ROOT) == []


def test_the_rules_name_what_exists() -> None:
    """A rule about a module that was renamed would hold for ever and protect nothing."""
    doors = set().union(*DOORS.values())
    named = {*PACKAGES, *doors, *LIGHT, PROTOCOL, *(name for pair in STRANGERS for name in pair)}

    assert named - sources(ROOT).keys() == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_are_the_ones_imported(package: str) -> None:
    """No other distribution (python-daemon is one) and no test folder hides a package of ours."""
    assert importlib.import_module(package).__file__ == str(ROOT / package / "__init__.py")


def test_the_tests_are_no_packages() -> None:
    """An `__init__.py` under tests/ could make `tests/codec` hide `codec`."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


# ---------------------------------------------------------------- each rule can fail

SOUND: Final = {
    "torch.py": "",  # a stand-in, found first by an interpreter started in the tree
    "codec/__init__.py": '"""Codec."""\n',
    "codec/errors.py": "import math\nX = math.pi\n",
    "codec/tile.py": "from codec.errors import X\n",
    "codec/frame.py": "from codec import tile\n",
    "codec/patch_grid.py": "",
    "codec/quality.py": "",
    "codec/bundle_file.py": "",
    "daemon/bulk/decode.py": "",
    "daemon/inspection.py": "",
    "codec/network.py": "import torch\n",
    "codec/backends/openvino_backend.py": "import openvino\n",
    "training/__init__.py": '"""Training."""\n',
    "training/prune.py": "import fasterai, fastai.vision.all, time\nfrom codec import network\n",
    "daemon/__init__.py": '"""Daemon."""\n',
    "daemon/clock.py": "import time, datetime\nNOW = datetime.datetime.now()\n",
    "daemon/metrics.py": "from prometheus_client import Counter\n",
    "daemon/link/packet.py": "import struct\nfrom codec.errors import X\n",
    "daemon/link/sockets.py": "import socket\n",
    "daemon/onboard/encode.py": "from daemon.link import packet\nfrom daemon import metrics\n",
    "daemon/ground/decode.py": "import daemon.link.packet\n",
}
HIDDEN: Final = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "

BROKEN: Final = [
    (wrong_arrows, "codec/tile.py", "import daemon", "codec.tile imports daemon"),
    (wrong_arrows, "codec/tile.py", "def f():\n import training", "codec.tile imports training"),
    (wrong_arrows, "daemon/clock.py", "from training import x", "daemon.clock imports training"),
    (
        wrong_arrows,
        "training/prune.py",
        "import importlib\nimportlib.import_module('daemon.clock')",
        "training.prune imports daemon.clock",
    ),
    (
        wrong_arrows,
        "daemon/onboard/encode.py",
        "from daemon.ground import decode",
        "daemon.onboard.encode imports daemon.ground",
    ),
    (
        wrong_arrows,
        "daemon/ground/decode.py",
        HIDDEN + "from daemon.onboard.encode import E",
        "daemon.ground.decode imports daemon.onboard.encode",
    ),
    (rings, "codec/errors.py", "import codec.tile", "codec.errors → codec.tile → codec.errors"),
    (
        rings,
        "codec/errors.py",
        "def f():\n    from codec.frame import F",
        "codec.errors → codec.frame → codec.tile → codec.errors",
    ),
    (outside_doors, "daemon/link/packet.py", "import zmq.green", "daemon.link.packet imports zmq"),
    (
        outside_doors,
        "daemon/clock.py",
        "from prometheus_client import Counter",
        "daemon.clock imports prometheus_client",
    ),
    (outside_doors, "codec/network.py", "import openvino", "codec.network imports openvino"),
    (
        outside_doors,
        "daemon/metrics.py",
        "import importlib\nimportlib.import_module('pynvml')",
        "daemon.metrics imports pynvml",
    ),
    (outside_doors, "codec/tile.py", "from time import sleep", "codec.tile imports time"),
    (outside_doors, "daemon/metrics.py", "import time", "daemon.metrics imports time"),
    (
        outside_doors,
        "daemon/metrics.py",
        "import datetime\nNOW = datetime.datetime.now()",
        "daemon.metrics reads the clock: .now()",
    ),
    (
        outside_doors,
        "codec/network.py",
        "def f():\n import torchvision",
        "codec.network imports torchvision",
    ),
    (outside_doors, "codec/tile.py", "import fastai.vision.all", "codec.tile imports fastai"),
    (outside_doors, "codec/tile.py", "__import__('fasterai')", "codec.tile imports fasterai"),
    (
        impure_protocols,
        "daemon/link/packet.py",
        "import socket",
        "daemon.link.packet imports socket",
    ),
    (
        impure_protocols,
        "daemon/link/packet.py",
        "from pathlib import Path",
        "daemon.link.packet imports pathlib",
    ),
    (
        impure_protocols,
        "daemon/link/packet.py",
        "def f():\n open('x')",
        "daemon.link.packet opens a file",
    ),
    (relative_imports, "codec/tile.py", "from . import errors", "codec.tile, line 1"),
    (relative_imports, "codec/tile.py", "\nfrom .errors import X", "codec.tile, line 2"),
    (busy_inits, "codec/__init__.py", "", "codec"),
    (busy_inits, "daemon/__init__.py", '"""D."""\nfrom codec import tile', "daemon"),
    (heavy, "codec/errors.py", "import torch\nX = 1", "codec.errors: loads torch"),
    (
        heavy,
        "daemon/link/packet.py",
        "import codec.network",
        "daemon.link.packet: loads torch",
    ),
    (heavy, "codec/quality.py", "1 / 0", "codec.quality: ZeroDivisionError: division by zero"),
]


def plant(root: Path, changes: dict[str, str]) -> Path:
    """Write a small tree that keeps every rule, but for `changes`."""
    for name, text in (SOUND | changes).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_a_sound_tree_passes(checker: Checker, tmp_path: Path) -> None:
    """What the design allows is not reported."""
    assert checker(plant(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("checker", "file", "text", "offence"),
    [pytest.param(*case, id=f"{case[0].__name__}: {case[3]}") for case in BROKEN],
)
def test_a_broken_rule_is_reported(
    checker: Checker, file: str, text: str, offence: str, tmp_path: Path
) -> None:
    """Each rule, broken in a tree that is sound otherwise, names the module that broke it."""
    assert offence in checker(plant(tmp_path, {file: text}))
