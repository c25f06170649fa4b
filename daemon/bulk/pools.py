"""Where jobs run: in this process, or on all of its cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Final, Protocol, TypeAlias

from daemon.bulk import server
from daemon.bulk.jobs import DecodedTile, DecodeJob
from daemon.errors import DaemonError

Ended: TypeAlias = tuple[DecodeJob, DecodedTile]

AHEAD: Final = 2
"""Jobs handed out for each that runs: their frames are in memory."""
_TRIES: Final = 3
"""Of a job whose process dies: of those that were under way nobody knows which one it was."""


class Pool(Protocol):
    """Runs jobs."""

    @property
    def threads(self) -> int:
        """Patches of a tile decoded at a time."""
        ...

    def results(self, jobs: Iterable[DecodeJob]) -> Iterator[Ended]:
        """Run jobs, of which few are taken ahead; yield each as it ends."""
        ...


class ThisProcess:
    """One job at a time, the patches of a tile on threads.

    Args:
        threads: How many; None: as many as cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))

    def results(self, jobs: Iterable[DecodeJob]) -> Iterator[Ended]:
        """See `Pool`."""
        for job in jobs:
            try:
                made = run(job)
            except Exception as error:  # as in `daemon.stage`: a bug costs one item
                made = failed(error)
            yield job, made


class Processes:
    """A job on every core.

    A process that dies, for want of memory for instance, is replaced. All jobs that were under way
    are begun anew, each alone: so one that ends its process whenever it runs is the only one lost.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._count, self.threads = count, 1

    def results(self, jobs: Iterable[DecodeJob]) -> Iterator[Ended]:
        """See `Pool`."""
        waiting, tries = iter(jobs), dict[DecodeJob, int]()
        under_way = dict[Future[DecodedTile], DecodeJob]()
        again = list[DecodeJob]()
        executor = self._executor()
        try:
            while True:
                most = 1 if again else AHEAD * self._count
                while len(under_way) < most:
                    job = again.pop() if again else next(waiting, None)
                    if job is None:
                        break
                    tries[job] = tries.get(job, 0) + 1
                    try:
                        under_way[executor.submit(run, job)] = job
                    except BrokenProcessPool:
                        executor.shutdown()
                        executor = self._executor()
                        under_way[executor.submit(run, job)] = job
                if not under_way:
                    return
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    job = under_way.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool) and tries[job] < _TRIES:
                        again.append(job)
                        continue
                    del tries[job]
                    yield job, (future.result() if error is None else failed(error))
        finally:
            executor.shutdown(cancel_futures=True)

    def _executor(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._count, server.begin(), initializer=_end_with_parent)


def run(job: DecodeJob) -> DecodedTile:
    """Decode a tile and write it; the same frames give the same bytes in any process.

    PyTorch is imported where a job runs, and only there: the command does not wait for it.
    """
    from daemon.bulk.work import decode  # noqa: PLC0415

    return decode(job)


def pool_of(workers: int | None, tiles: int) -> Pool:
    """Choose a pool for so many tiles: starting a process takes as long as decoding a few."""
    cores = len(os.sched_getaffinity(0))
    if workers is None:
        workers = cores if tiles >= AHEAD * cores else 1
        return Processes(workers) if workers > 1 else ThisProcess()
    return Processes(workers) if workers > 1 else ThisProcess(threads=1)


def failed(error: BaseException) -> DecodedTile:
    """What becomes of a job that ends in a bug, or whose process dies again and again."""
    if isinstance(error, (BrokenProcessPool, DaemonError)):
        return DecodedTile(file=None, problems=(f"its process died: {error}",))
    return DecodedTile(file=None, problems=(f"internal error: {type(error).__name__}: {error}",))


def _end_with_parent() -> None:
    """Leave the keyboard's interrupt to the parent, and end when it does, however that is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # what it writes has its name only once it is whole

    threading.Thread(target=watch, name="parent", daemon=True).start()
