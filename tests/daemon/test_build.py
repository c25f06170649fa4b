"""What runs is named."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version

from daemon.build import build_versions


def test_versions_are_those_installed() -> None:
    """Of the program first; they are what an operator has to name when something is wrong."""
    assert build_versions() == {
        "version": version("prismlink"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "openvino": version("openvino"),
    }


def test_what_is_not_installed_is_unknown() -> None:
    """A board without OpenVINO starts all the same; and nothing is loaded to be asked."""
    code = (
        "import sys, importlib.metadata as m\n"
        "from daemon import build\n"
        "def absent(name): raise m.PackageNotFoundError(name)\n"
        "build.version = absent\n"
        "assert build.build_versions()['openvino'] == 'unknown'\n"
        "assert not {'torch', 'openvino'} & sys.modules.keys()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
