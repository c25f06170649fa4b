"""The seal at work: at the door to the link, with its counters on the disk."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from daemon.clock import Clock
from daemon.disk import Disk
from daemon.link.seal import OPERATOR_SPI, SALT_BYTES, Opener, Sealer, derived_key
from daemon.reserved_counter import HighestHeard, ReservedCounter

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0
"""Time between two tries of a disk that failed [s]."""


class Sender(Protocol):
    """The door to the link."""

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Send one packet; False if the link did not take it in time."""
        ...


class SealedSender:
    """Seals each packet as it leaves, so what waits is plain and a repeat has an IV of its own.

    While the disk takes no reservation nothing is sealed, and nothing leaves.

    Args:
        sender: The link.
        key: What the key's file holds.
        state: The file of counters.
        spi: The direction.
        clock: Tells when to try a disk again.
        degraded: Told 1 when the disk fails, 0 when it works again.
        disk: The door to it.

    Raises:
        ConfigError: If the file of counters cannot be used.
    """

    def __init__(
        self,
        sender: Sender,
        key: bytes,
        state: Path,
        *,
        spi: int,
        clock: Clock,
        degraded: Callable[[float], None],
        disk: Disk | None = None,
    ) -> None:
        self._sender, self._clock, self._degraded = sender, clock, degraded
        self._counter = ReservedCounter(state, disk=disk)
        salt = secrets.token_bytes(SALT_BYTES)
        self._sealer = Sealer(derived_key(key, spi), spi, self._counter.next, salt=salt)
        self._again_s: float | None = None

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Seal and send one packet; False if it could not be sealed, or was not taken in time."""
        if self._again_s is not None and self._clock.monotonic_s() < self._again_s:
            self._clock.sleep(timeout_s)
            return False
        try:
            sealed = self._sealer.seal(raw)
        except OSError as error:
            if self._again_s is None:
                log.error("nothing is sealed or sent: no counter", extra={"error": str(error)})
            self._again_s = self._clock.monotonic_s() + RETRY_S
            self._degraded(1)
            return False
        if self._again_s is not None:
            log.info("packets are sealed again")
            self._again_s = None
            self._degraded(0)
        return self._sender.send(sealed, timeout_s)

    def close(self) -> None:
        """Let the file of counters go; the link is its maker's."""
        self._counter.close()


class SealedOpener:
    """Opens packets, and keeps on the disk how far it came, so that a restart opens none twice.

    Where the disk fails, packets are opened all the same: this process still refuses replays.

    Args:
        key: What the key's file holds.
        state: The file of counters.
        spis: What may come; each has counters of its own.
        clock: Tells when to sync.
        degraded: Told 1 when the disk fails, 0 when it works again.
        disk: The door to it.

    Raises:
        ConfigError: If the file of counters cannot be used.
    """

    def __init__(
        self,
        key: bytes,
        state: Path,
        *,
        spis: Iterable[int],
        clock: Clock,
        degraded: Callable[[float], None],
        disk: Disk | None = None,
    ) -> None:
        self._degraded = degraded
        self._heard = HighestHeard(state, clock=clock, disk=disk)
        self._noted = {spi: self._heard.of(spi) for spi in spis}
        self._opener = Opener(
            {spi: derived_key(key, spi) for spi in self._noted}, heard=self._noted
        )
        self._failed = False

    def open(self, raw: bytes) -> bytes:
        """Return the packet that was sealed; see `daemon.link.seal.Opener.open`."""
        packet = self._opener.open(raw)
        for spi, noted in self._noted.items():
            if (highest := self._opener.highest(spi)) > noted:
                self._note(spi, highest)
        return packet

    def close(self) -> None:
        """Let the file of counters go."""
        self._heard.close()

    def _note(self, spi: int, highest: int) -> None:
        try:
            # Commands are few, and each does something.
            self._heard.note(spi, highest, at_once=spi == OPERATOR_SPI)
        except OSError as error:
            self._tell(str(error))
        else:
            self._noted[spi] = highest
            self._tell(None)

    def _tell(self, error: str | None) -> None:
        if (error is not None) != self._failed:
            self._failed = error is not None
            self._degraded(float(self._failed))
            if self._failed:
                log.error("replays could pass after a restart", extra={"error": error})
            else:
                log.info("replays are refused after a restart, too")


def heard_beside(state: Path) -> Path:
    """The file of what was opened, beside that of what was sealed."""
    return state.with_name(f"{state.name}.heard")


def operator_beside(state: Path) -> Path:
    """The file of what commands sealed, beside that of what their ground process sealed."""
    return state.with_name(f"{state.name}.operator")
