"""A backend that may fail: what it was at work on, and all after it, runs on the CPU instead."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from codec.encoder import AnalysisBackend
from codec.errors import BackendError
from codec.jobs import PatchJob, Rounded, TileDevice
from codec.klt_side import KltSide

log = logging.getLogger(__name__)

T = TypeVar("T")
_FAILURES: Final = (RuntimeError, BackendError)


class Fallback:
    """An `AnalysisBackend` of two: the first until it fails, then the second for good.

    A GPU runs out of memory or falls off its bus, a runtime refuses a shape: all of them raise
    RuntimeError, or BackendError. Patches are then analyzed again; nothing of the tile is lost, for
    the host still has it.

    Args:
        first: The backend that was chosen.
        make_second: Makes the other one; raises what it cannot be made for.
        on_failure: Told once, with the names of both.
    """

    def __init__(
        self,
        first: AnalysisBackend,
        make_second: Callable[[], AnalysisBackend],
        on_failure: Callable[[str, str], object],
    ) -> None:
        self._first, self._make_second, self._on_failure = first, make_second, on_failure
        self._backend = first
        self._switching = threading.Lock()

    @property
    def name(self) -> str:
        """Of the one at work."""
        return self._backend.name

    @property
    def precision(self) -> str:
        """Likewise."""
        return self._backend.precision

    @property
    def weights(self) -> Sequence[NDArray[Any]]:
        """Likewise; a device that they cannot be read from has failed."""
        backend = self._backend
        try:
            return backend.weights
        except _FAILURES as error:
            if backend is not self._first:
                raise
            self._switch(error)
        return self._backend.weights

    @property
    def device(self) -> TileDevice | None:
        """That of the one at work, with what happens where it fails."""
        return None if self._backend.device is None else self

    def fit(self, *tile: Any, **how: Any) -> KltSide | None:
        """As `TileDevice.fit`."""
        return self._on_device(lambda device: device.fit(*tile, **how))

    def symbols(self, patches: Sequence[PatchJob]) -> list[Rounded] | None:
        """As `TileDevice.symbols`."""
        return self._on_device(lambda device: device.symbols(patches))

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """As `AnalysisBackend.analyze`.

        Raises:
            RuntimeError, BackendError: If both fail.
        """
        backend = self._backend
        try:
            return backend.analyze(patches)
        except _FAILURES as error:
            if backend is not self._first:
                raise
            self._switch(error)
        return self._backend.analyze(patches)

    def _on_device(self, work: Callable[[TileDevice], T | None]) -> T | None:
        """Work on the device; None where it fails, or another thread saw it fail."""
        if (device := self._backend.device) is None:
            return None
        try:
            return work(device)
        except _FAILURES as error:
            self._switch(error)
            return None

    def _switch(self, error: Exception) -> None:
        """Go on with the other one, whichever thread saw the first fail before."""
        with self._switching:
            if self._backend is not self._first:
                return
            failed, self._backend = self.name, self._make_second()
            log.error(  # one line; the runtime's own trace tells no operator more
                "backend failed; going on without it until a restart; "
                "if it lacked memory, remedy: a smaller batch.max_patches",
                extra={"backend": failed, "now": self.name, "why": str(error).split("\n")[0]},
            )
            self._on_failure(failed, self.name)
