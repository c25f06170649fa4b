"""Threads for what is compiled, or a library's: it lets other threads of Python run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

Each = Callable[..., Iterable[Any]]
"""A `map`: calls a function with each item, and yields what it returns in their order."""


def each_of(count: int, name: str) -> Each:
    """Return a `map` that calls with so many items at a time.

    Args:
        count: How many.
        name: Of the threads.
    """
    return map if count == 1 else pool_of(count, name).map


def pool_of(count: int, name: str) -> ThreadPoolExecutor:
    """Return a pool of so many threads."""
    # OpenMP forgets PyTorch's number of threads in every thread that did not set it.
    return ThreadPoolExecutor(count, name, partial(torch.set_num_threads, torch.get_num_threads()))
