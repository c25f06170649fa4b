"""Rules of `codec.compiled`: what it compiles runs, and runs where nothing can be kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from codec.compiled import kernel

SCRIPT = """
import shutil, sys
from pathlib import Path
shutil.copytree(Path(sys.argv[1]) / "codec", "codec", ignore=shutil.ignore_patterns("__pycache__"))
Path("codec").chmod(0o555)
sys.path.insert(0, ".")
import numba.core.caching
for locator in numba.core.caching.CacheImpl._locator_classes:
    locator.ensure_cache_path = lambda self: (_ for _ in ()).throw(OSError("read-only"))
from codec.compiled import compiled
def double(x: int) -> int:
    return 2 * x
print(compiled(double)(21))
"""


def test_without_a_place_to_keep_it_code_is_compiled_anew(tmp_path: Path) -> None:
    """On a read-only system without a home the coder still runs; Numba alone would refuse."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[2])],
        cwd=tmp_path,
        env={**os.environ, "HOME": "/nonexistent", "NUMBA_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == "42", done.stderr


def test_a_kernel_makes_no_arrays() -> None:
    """So no references are counted in it: with that the entropy coder takes thrice as long."""

    @kernel
    def grow(sums: NDArray[np.int64]) -> None:
        sums += sums >> 1

    with pytest.raises(NumbaError, match="NRT required but not enabled"):
        grow(np.ones(3, np.int64))
