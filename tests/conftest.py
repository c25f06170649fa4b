"""What every test gets: hypothesis profiles, a guard against stray threads, tools by name."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from hypothesis import settings

IN_CI = bool(os.environ.get("CI"))

# No deadline anywhere: two cores are shared by several workers, so a slow example says
# nothing about the code. CI draws the same examples every time; a desk draws new ones.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))

STAY_FOR_EVER = (
    "zarr_io",  # zarr's event loop, one per process, started by the first array
    "zarr_pool",  # and its workers
    "asyncio_",  # that loop's default executor
)
ZMQ_GARBAGE = "zmq.utils.garbage"  # its thread, one per process, frees messages that are not copied
JOIN_S = 20.0  # a thread that was told to stop may need a moment to be gone, or many


@pytest.fixture(autouse=True)
def no_stray_threads() -> Iterator[None]:
    """Fail a test that leaves a thread running: the next test would share it."""
    before = set(threading.enumerate())
    yield
    new = [
        thread
        for thread in set(threading.enumerate()) - before
        if type(thread).__module__ != ZMQ_GARBAGE and not thread.name.startswith(STAY_FOR_EVER)
    ]
    if new:
        gc.collect()  # a pool in a cycle that nobody holds ends here, not whenever it happens to
    give_up_s = time.monotonic() + JOIN_S
    for thread in new:
        thread.join(max(0.0, give_up_s - time.monotonic()))
    if stray := sorted(thread.name for thread in new if thread.is_alive()):
        pytest.fail(f"left running: {', '.join(stray)}")


@pytest.fixture(scope="session")
def absent() -> Callable[[str], NoReturn]:
    """Give up on a test for want of something: a failure in CI, a skip elsewhere."""

    def give_up(what: str) -> NoReturn:
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)

    return give_up


@pytest.fixture(scope="session")
def requires_tool(absent: Callable[[str], NoReturn]) -> Callable[[str], str]:
    """Find a program this test needs.

    `requires_tool("make")` returns its path. Where the machine lacks it, the test fails in
    CI and is skipped elsewhere, in both cases by the program's name.
    """

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            absent(f"this test needs the program {program!r}, which is not installed")
        return path

    return find
