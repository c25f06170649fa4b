"""Socket in, tiles out: checks every message and counts what it refuses or misses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from daemon.clock import Clock
from daemon.errors import TileMessageError
from daemon.link.sequence import TileSequences
from daemon.metrics import FlightMetrics
from daemon.onboard.items import ReceivedTile
from daemon.tile_message import Part, TileLimits, TileMessage

log = logging.getLogger(__name__)

_WAIT_S: Final = 0.1
"""Longest wait for a message, so that a stop is noticed [s]."""

_LAST_MESSAGES: Final = 16
"""Most messages taken once intake has stopped: what libzmq took off the instrument's hands before.
More than it queues, and few enough that an instrument which goes on does not keep us."""


class Listener(Protocol):
    """The door to the instrument."""

    def recv(self, timeout_s: float) -> Sequence[Part] | None:
        """Return the parts of one message, or None if none came in time."""
        ...


class Ingest:
    """Takes tile messages off the socket.

    Args:
        listener: Where messages come from.
        limits: The largest tile to take.
        deliver: Takes each tile; counts what it refuses.
        shared: Whether others take tiles of the same instruments: gaps are not counted then.
        clock: Stamps tiles.
        metrics: Counts tiles, refusals by reason, and gaps in the instruments' sequences.
    """

    def __init__(
        self,
        listener: Listener,
        limits: TileLimits,
        deliver: Callable[[ReceivedTile], object],
        *,
        shared: bool = False,
        clock: Clock,
        metrics: FlightMetrics,
    ) -> None:
        self._shared = shared
        self._listener, self._limits, self._deliver = listener, limits, deliver
        self._clock, self._metrics = clock, metrics
        self._sequences = TileSequences(reorder=0)
        self._waiting, self._last_messages = False, _LAST_MESSAGES

    def poll(self) -> None:
        """Take one message, or wait a little; a bad one is a line and a count."""
        parts = self._listener.recv(_WAIT_S)
        self._waiting = parts is not None
        if parts is None:
            return
        self._metrics.bytes_in.inc(sum(len(part) for part in parts))
        try:
            tile = TileMessage.unpack(parts, self._limits)
        except TileMessageError as error:
            self._metrics.tile_messages_refused.labels(error.reason).inc()
            log.warning("tile message refused", extra={"reason": error.reason, "error": str(error)})
            return
        if not self._shared:
            gap = self._sequences.note(tile.info.sensor, tile.info.sequence)
            self._metrics.tile_sequence_gaps.inc(gap)
        received = ReceivedTile(tile=tile, received_s=self._clock.monotonic_s())
        self._metrics.tiles_received.inc()
        self._metrics.patches_received.inc(received.patches)
        self._deliver(received)

    def pending(self) -> bool:
        """Whether messages may still wait in the socket; asked once intake has stopped."""
        self._last_messages -= 1
        return self._waiting and self._last_messages >= 0
