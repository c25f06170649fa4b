"""Freed memory stays with a process that asks for it."""

from __future__ import annotations

import subprocess
import sys

FAULTS_OF_ANOTHER_ARRAY = """
import resource, sys
import numpy as np
from codec.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the third array of 64 MB enters, each as large as the two freed before it."""
    command = [sys.executable, "-c", FAULTS_OF_ANOTHER_ARRAY, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_the_next_array_finds_it() -> None:
    """Every page of an array is entered anew without it, none with it."""
    assert faults("kept") < 8 < faults("returned")
