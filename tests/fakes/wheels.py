"""prismlink as pip installs it: a wheel, built and installed without a network."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("codec", "daemon", "training")
PACKED: Final = (*PACKAGES, "pyproject.toml", "README.md", "LICENSE")
"""What a wheel is made of."""

DEPENDENCIES: Final = Path(sysconfig.get_path("purelib"))
"""Where this environment keeps what others wrote."""

_PIP: Final = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def alone() -> dict[str, str]:
    """An environment without a word of where this checkout is."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, in a copy: the build writes beside the sources.

    Args:
        folder: For the copy and the wheel; made.
    """
    source = folder / "source"
    source.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source)
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    subprocess.run(
        [*_PIP, "wheel", *offline, "--wheel-dir", folder, source], check=True, env=alone()
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def rebuild_wheel(wheel: Path, folder: Path, name: str, content: bytes) -> Path:
    """Make another wheel of the same name and version, of which one file is another.

    Args:
        wheel: The wheel.
        folder: For the new one; made.
        name: The file in it.
        content: What that file has in the new one.
    """
    folder.mkdir()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    row = f"{name},sha256={digest},{len(content)}"
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(folder / wheel.name, "w") as new:
        for entry in old.infolist():
            data = content if entry.filename == name else old.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                rows = data.decode()
                data = re.sub(f"^{re.escape(name)},.*$", row, rows, flags=re.MULTILINE).encode()
            new.writestr(entry, data)
    return folder / wheel.name


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Install a wheel alone into a new environment, which sees what this one has beside it.

    Args:
        wheel: The file.
        folder: Becomes the environment.

    Returns:
        The folder of its programs.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    offline = ("--no-deps", "--no-index")
    subprocess.run([*_PIP, "--python", python, "install", *offline, wheel], check=True, env=alone())
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n", encoding="utf-8")
    return folder / "bin"
