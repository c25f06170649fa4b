"""A device that copies as late as it may, for those who must wait and do not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.backends.staging import Recorded


class LateRuntime:
    """A `Runtime` on the processor: what is computed is computed at once, a copy when awaited.

    Until then its target holds garbage, and what its source comes to hold is what is copied.

    Attributes:
        pinned_bytes: Sizes of all page-locked memory [bytes].
        recorded: Shapes that a function was recorded for.
        streams: Where each copy was started: "computing" or "copying".
        fail: Called before whatever is started; raises.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.pinned_bytes: list[int] = []
        self.recorded: list[tuple[int, ...]] = []
        self.streams: list[str] = []
        self.fail: Callable[[], object] = lambda: None
        self._here = threading.local()
        self._late: list[Callable[[], object]] = []
        self._made, self._making = 0, threading.Lock()

    @contextmanager
    def _within(self, stream: str) -> Iterator[None]:
        outer, self._here.stream = getattr(self._here, "stream", None), stream
        try:
            yield
        finally:
            self._here.stream = outer

    def computing(self) -> AbstractContextManager[None]:
        """What is computed within is computed at once."""
        return self._within("computing")

    def copying(self) -> AbstractContextManager[None]:
        """Only copies are started within."""
        return self._within("copying")

    def pinned(self, size_bytes: int) -> Tensor:
        """Any memory."""
        self.pinned_bytes.append(size_bytes)
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Put it off."""
        self.fail()
        assert self._here.stream is not None
        self.streams.append(self._here.stream)
        target.fill_(77)
        self._late.append(lambda: target.copy_(source))

    def mark(self) -> Mark:
        """All that is put off by now."""
        return Mark(self, len(self._late))

    def record(self, function: Callable[[Tensor], Tensor], source: Tensor) -> Recorded:
        """Run it anew each time, into the same place."""
        self.recorded.append(tuple(source.shape))
        result = function(source)
        return Recorded(source, lambda: result.copy_(function(source)), result)

    def catch_up(self, copies: int) -> None:
        """Make the first so many copies, unless they are made."""
        with self._making, torch.inference_mode():
            while self._made < copies:
                self._late[self._made]()
                self._late[self._made] = lambda: None  # nor kept in memory
                self._made += 1


@dataclass(frozen=True)
class Mark:
    """A place among the copies of a runtime."""

    runtime: LateRuntime
    copies: int

    def synchronize(self) -> None:
        """Make those before it."""
        self.runtime.catch_up(self.copies)

    def wait(self) -> None:
        """Likewise: what is computed next is computed at once."""
        self.synchronize()
