"""The door to Numba: functions over arrays, compiled to machine code at their first call.

Entropy coding decides symbol by symbol, each on the ones before it: no array operation does that,
and a Python loop takes microseconds for what takes nanoseconds. Numba is not in the design's list
of libraries; a C extension would need a compiler on board.

Compiled code is kept beside the source, or where `NUMBA_CACHE_DIR` says; where neither can be
written each process compiles anew, which takes seconds. A compiled function and all it calls stand
in one file: the kept code is renewed when that file changes, and no other is looked at. So are the
constants it uses, wherever they come from: who changes one of another module deletes `__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import numba
from llvmlite.binding import get_host_cpu_features

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a function; while it runs, other threads of Python do too."""
    return _compiled(function)


def kernel(function: F) -> F:
    """Compile a function that makes no arrays, but works on those it is given.

    Numba then counts no references. Where it does, at every assignment of an array and for every
    array of a tuple that is passed on, the entropy coder takes three times as long. The flag is one
    that Numba does not document; a test sees that it still holds.
    """
    return _compiled(function, _nrt=False)


def approximate(function: F) -> F:
    """Compile a kernel whose last bits do not matter: products are added without being rounded."""
    return _compiled(function, _nrt=False, fastmath={"contract"})


def _compiled(function: F, **options: Any) -> F:
    try:
        return cast(F, numba.njit(function, nogil=True, cache=True, **options))
    except RuntimeError:  # no place to keep compiled code in
        return cast(F, numba.njit(function, nogil=True, **options))


def sums_bytes_exactly() -> bool:
    """Whether this machine adds products of bytes in 32 bits.

    x86 cores before VNNI add pairs of them in 16, where two large ones saturate.
    """
    return multiplies_bytes_fast() or not get_host_cpu_features().get("ssse3")


@cache
def multiplies_bytes_fast() -> bool:
    """Whether this is an x86 machine with VNNI."""
    features = get_host_cpu_features()
    return any(features.get(name) for name in ("avx512vnni", "avxvnni"))
