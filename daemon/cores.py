"""How a process takes the cores and the memory of a machine."""

from __future__ import annotations

import os
from typing import Final

import torch

from codec.memory import keep_freed_memory

WORKERS_PER_THREAD: Final = 2
"""Patches entropy-coded at a time on board, or decoded on the ground, for each core of one
computation: together they may use all. These are the slowest stages."""


def claim(threads: int | None) -> int:
    """Set how many cores one computation of this process may use, and return it; keep its memory.

    Two stages compute at a time, on board the conditioning of one tile and the network on another.
    Each with a pool of all cores they wait for each other: on two cores the demo's flight side
    then took four times as long as with one thread each. Offline commands claim the same, so that
    their sums have the same order, and their results are the daemons' to the last bit.

    Args:
        threads: What the settings say; None: half of the cores this process may use.
    """
    share = threads or max(1, len(os.sched_getaffinity(0)) // 2)
    torch.set_num_threads(share)
    keep_freed_memory()
    return share
