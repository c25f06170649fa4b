"""Where worker processes come from: a process that has imported what they need forks them.

To import it takes each of them one or two seconds. Begun with the command, the server does so while
the command itself still reads, on another core. It computes nothing: of PyTorch's threads, which a
fork would lose, there are none.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_IMPORTED = ["daemon.bulk.work"]


def begin() -> ForkServerContext:
    """Begin the server, if it does not run yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    forkserver.ensure_running()
    return context
