"""CUDA's streams, events, page-locked memory and graphs: all of the GPU path that needs a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor

from codec.backends.staging import Event, Recorded

_WARM_UPS: Final = 3
"""Calls before a function is recorded: libraries choose their kernels and take memory in these."""
_one_recording: Final = threading.Lock()
"""A process may record one function at a time: before it begins, the whole device is waited for,
and that is an error while another model, made beside the one at work, is recording."""


class CudaRuntime:
    """The current CUDA device, see `codec.backends.staging.Runtime`."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._computing = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # Of its own: what other threads start meanwhile would be recorded, too, and not be done.
        self._recording = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # Of all recordings together: they never run at a time, and what one leaves is read at once.
        self._pool = torch.cuda.graph_pool_handle()

    def computing(self) -> AbstractContextManager[Any]:
        """See `Runtime`."""
        return torch.cuda.stream(self._computing)

    def copying(self) -> AbstractContextManager[Any]:
        """See `Runtime`."""
        return torch.cuda.stream(self._copying)

    def pinned(self, size_bytes: int) -> Tensor:
        """See `Runtime`."""
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """See `Runtime`."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> Event:
        """See `Runtime`."""
        # Whoever waits for it leaves the core to an entropy coder.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def record(self, function: Callable[[Tensor], Tensor], source: Tensor) -> Recorded:
        """See `Runtime`."""
        for _ in range(_WARM_UPS):
            function(source)
        graph = torch.cuda.CUDAGraph()
        with (
            _one_recording,
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._recording, capture_error_mode="thread_local"
            ),
        ):
            result = function(source)
        return Recorded(source, graph.replay, result)
