"""Where jobs run on many machines: a dask.distributed cluster.

Frames go to workers inside the tasks, so that the scheduler can give those of a worker that is lost
to another; products they write themselves, into a folder that all of them see under one path, as
they do the bundles. A product gets its name only once it is whole, so a task that runs twice does
no harm.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from daemon.bulk.jobs import DecodeJob
from daemon.bulk.pools import AHEAD, Ended, failed, run
from daemon.errors import AddressError, OutputError

_CONNECT_S: Final = 15.0
"""Longest wait for the scheduler, and for its first worker [s]."""
_LARGE_TASK: Final = "10 GiB"
"""Below this dask does not advise to leave data on a worker: with that worker it would be lost."""


class Cluster:
    """The workers of a scheduler; a context manager.

    Args:
        address: Of the scheduler, as in tcp://10.0.0.1:8786.

    Raises:
        OutputError: If dask is not installed.
        AddressError: If there is no scheduler, or it has no worker.

    Attributes:
        threads: Of a task; dask runs as many tasks at a time as workers have threads.
    """

    threads = 1

    def __init__(self, address: str) -> None:
        self._address = address
        try:
            self._dask = importlib.import_module("dask")
            self._distributed = importlib.import_module("distributed")
        except ImportError as error:
            raise OutputError(
                "dask", "is not installed; remedy: pip install prismlink[ground]"
            ) from error
        try:
            # A client that fails takes half a minute and a traceback to end, or waits for good.
            asyncio.run(asyncio.wait_for(self._ask(address), _CONNECT_S))
            self._client = self._distributed.Client(
                address, timeout=_CONNECT_S, set_as_default=False
            )
        except Exception as error:  # whatever dask makes of an address, or of what answers there
            raise AddressError(
                address,
                f"no dask scheduler there: {_cause(error)}; remedy: its address, like "
                "tcp://10.0.0.1:8786",
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_S)
        except (OSError, TimeoutError) as error:
            self._client.close()
            raise AddressError(address, f"its scheduler has no workers: {error}") from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        # Of a scheduler that is gone it would tell with a traceback.
        with self._distributed.utils.silence_logging_cmgr(logging.CRITICAL):
            self._client.close()

    async def _ask(self, address: str) -> None:
        """Have whatever is at an address say what it is."""
        arguments = self._distributed.Security().get_connection_args("client")
        async with self._distributed.rpc(address, connection_args=arguments) as there:
            await there.identity()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Word what dask makes of a scheduler that is gone."""
        try:
            yield
        except Exception as error:  # of which class, depends on the moment and on dask's release
            raise AddressError(
                self._address,
                f"its scheduler is lost: {_cause(error)}; remedy: the same command again, which "
                "goes on where this one ended",
            ) from None

    def results(self, jobs: Iterable[DecodeJob]) -> Iterator[Ended]:
        """See `daemon.bulk.pools.Pool`.

        Raises:
            AddressError: If the scheduler is lost on the way.
        """
        waiting, under_way = iter(jobs), dict[Any, DecodeJob]()
        done = self._distributed.as_completed(loop=self._client.loop)

        def hand_out(count: int) -> None:
            for job in islice(waiting, count):
                with self._connected():
                    future = self._client.submit(run, job, pure=False)
                    done.add(future)
                under_way[future] = job

        with self._dask.config.set(
            {"distributed.admin.large-graph-warning-threshold": _LARGE_TASK}
        ):
            with self._connected():
                threads = sum(self._client.nthreads().values())
            hand_out(AHEAD * max(1, threads))
            while under_way:
                with self._connected():
                    future = next(done)
                    error = future.exception()
                    made = future.result() if error is None else failed(error)
                job = under_way.pop(future)
                hand_out(1)
                yield job, made


def _cause(error: Exception) -> str:
    """What dask says, in one line."""
    return " ".join(str(error).split()) or "no answer"
