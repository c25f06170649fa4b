"""Samples on their way to a device, and symbols on their way back.

A copy runs beside the host's work and the device's only from memory that stays where it is (page
locked), so samples go through a few such buffers, over and over, on a stream of copies of its own:
while one buffer's copy runs, the next one is filled. A buffer is not filled again before its copy
is done, and nothing is computed of samples before they are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BUFFERS: Final = 3
_BUFFER_BYTES: Final = 16 << 20
"""Half a millisecond each at the nominal rate of PCIe 4.0 × 16, long beside what starting a copy
takes; not measured."""


class Event(Protocol):
    """A place in a stream of work."""

    def synchronize(self) -> None:
        """Let the host wait until the device has come so far."""
        ...

    def wait(self) -> None:
        """Let the current stream wait for it, not the host."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """A function of one tensor, recorded once, for one shape.

    Attributes:
        source: What goes in is put here.
        replay: Starts it.
        result: What comes out is here until the next replay.
    """

    source: Tensor
    replay: Callable[[], object]
    result: Tensor


class Runtime(Protocol):
    """What a device needs for work to run beside other work; all that only CUDA has."""

    device: torch.device

    def computing(self) -> AbstractContextManager[Any]:
        """Whatever is started within is computed in this order, by all threads together."""
        ...

    def copying(self) -> AbstractContextManager[Any]:
        """Whatever is started within is copied in this order, beside what is computed."""
        ...

    def pinned(self, size_bytes: int) -> Tensor:
        """Memory of the host that copies may start from or end in, shape (size_bytes,), uint8."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Start a copy between host and device."""
        ...

    def mark(self) -> Event:
        """The end of what was started so far in the current stream."""
        ...

    def record(self, function: Callable[[Tensor], Tensor], source: Tensor) -> Recorded:
        """Record a function of `source`, which stays the place for what goes in."""
        ...


class Staging:
    """Copies arrays to a device and back; several threads may use it at a time.

    Args:
        runtime: Copies.
        buffers: Copies under way at a time, at most.
        buffer_bytes: Size of each; one row of an array is never cut.
    """

    def __init__(
        self, runtime: Runtime, buffers: int = _BUFFERS, buffer_bytes: int = _BUFFER_BYTES
    ) -> None:
        self._runtime, self._buffer_bytes = runtime, buffer_bytes
        self._filling = threading.Lock()
        self._slots = [_Slot() for _ in range(buffers)]
        self._turn = 0

    def upload(self, array: NDArray[Any]) -> Tensor:
        """Copy an array to the device; the current stream waits for it, the host only for buffers.

        What was computed of it has to be awaited before it is let go: its memory then serves the
        next copy at once.

        Args:
            array: Any strides; what lies together is copied together.

        Returns:
            The same shape and strides' order. uint16 comes as the int16 of the same bits: few
            operations know it.
        """
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        lying = array.transpose(order)
        native = lying.dtype.newbyteorder("=")
        row_bytes = lying[:1].nbytes
        rows = max(1, self._buffer_bytes // max(1, row_bytes))
        with self._filling, self._runtime.copying():
            target = torch.empty(lying.nbytes, dtype=torch.uint8, device=self._runtime.device)
            for start in range(0, len(lying), rows):
                part = lying[start : start + rows]
                staged = self._next_slot(part.nbytes)
                np.copyto(staged.numpy().view(native).reshape(part.shape), part)
                first = start * row_bytes
                self._runtime.copy(target[first : first + part.nbytes], staged)
                self._slots[self._turn].copied = self._runtime.mark()
            arrived = self._runtime.mark()
        arrived.wait()
        kind = np.dtype(np.int16) if native == np.uint16 else native
        typed = target.view(torch.from_numpy(np.empty(0, kind)).dtype)
        back = sorted(range(array.ndim), key=order.__getitem__)
        return typed.reshape(lying.shape).permute(back)

    def download(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        """Copy tensors to the host, and wait until they are there: all before is done then, too."""
        places = []
        for tensor in tensors:
            raw = self._runtime.pinned(tensor.numel() * tensor.itemsize)
            places.append(raw.view(tensor.dtype).reshape(tensor.shape))
            self._runtime.copy(places[-1], tensor)
        self._runtime.mark().synchronize()
        return [place.numpy() for place in places]

    def _next_slot(self, size_bytes: int) -> Tensor:
        """The buffer whose copy began first, once that is done."""
        self._turn = (self._turn + 1) % len(self._slots)
        slot = self._slots[self._turn]
        if slot.copied is not None:
            slot.copied.synchronize()
        if slot.memory is None or slot.memory.numel() < size_bytes:
            slot.memory = self._runtime.pinned(max(size_bytes, self._buffer_bytes))
        return slot.memory[:size_bytes]


@dataclass(slots=True)
class _Slot:
    """A buffer, and the end of the last copy from it."""

    memory: Tensor | None = None
    copied: Event | None = None
