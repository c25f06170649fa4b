"""Uplink in: reports for the spool, and orders for the downlink."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from daemon.errors import PacketError, PacketFieldError
from daemon.link.commands import (
    MAX_KBIT_PER_S,
    MAX_OCTAVES,
    Command,
    Kind,
    Report,
    unpack_model,
    unpack_value,
)
from daemon.link.states import PassEvent
from daemon.metrics import FlightMetrics
from daemon.onboard.downlink import Orders
from daemon.onboard.spool import Spool

log = logging.getLogger(__name__)

_WAIT_S: Final = 0.1
"""Longest wait for the uplink, so that a stop is noticed [s]."""
_AT_ONCE: Final = 64

_EVENTS: Final = {
    Kind.OPEN: PassEvent.OPEN,
    Kind.CLOSE: PassEvent.CLOSE,
    Kind.SUSPEND: PassEvent.SUSPEND,
    Kind.RESUME: PassEvent.RESUME,
}


class Listener(Protocol):
    """The door to the uplink."""

    def recv_many(self, max_items: int, timeout_s: float) -> list[bytes]:
        """Return what arrived; empty if nothing did in time."""
        ...


class Store(Protocol):
    """Where models come from."""

    def load(self, model: bytes) -> bool:
        """Order a model; False if it takes no order."""
        ...

    def roll_back(self) -> bool:
        """Order the model that was at work before; likewise."""
        ...


class CommandReceiver:
    """Takes commands off the uplink, and does what they say.

    Args:
        listener: The uplink.
        apid: Application process that commands are for.
        spool: Told the reports.
        orders: Told the others.
        unseal: Opens each; None: they are not sealed.
        on_loss: Told the share of packets that the ground misses, with each report.
        packet_bits: Bits of the longest packet: no rate can be as low.
        max_octaves: Most that tiles can be made coarser; 0 where their steps have another aim.
        models: Told which model to load; whether it could be, its own metrics tell.
        metrics: Counts them.
    """

    def __init__(
        self,
        listener: Listener,
        spool: Spool,
        orders: Orders,
        *,
        unseal: Callable[[bytes], bytes] | None,
        on_loss: Callable[[float], object],
        apid: int,
        packet_bits: int,
        max_octaves: float = MAX_OCTAVES,
        models: Store,
        metrics: FlightMetrics,
    ) -> None:
        self._listener, self._spool, self._orders = listener, spool, orders
        self._unseal, self._on_loss = unseal, on_loss
        self._max_octaves, self._models = max_octaves, models
        self._apid, self._packet_bits, self._metrics = apid, packet_bits, metrics

    def poll(self) -> None:
        """Take what has arrived, or wait a little; a bad command is a line and a count."""
        for raw in self._listener.recv_many(_AT_ONCE, _WAIT_S):
            self._metrics.command_bytes.inc(len(raw))
            try:
                command = Command.unpack(raw if self._unseal is None else self._unseal(raw))
                self._do(command)
            except PacketError as error:
                self._metrics.commands_refused.labels(error.reason).inc()
                log.warning("command refused", extra={"reason": error.reason, "error": str(error)})
            else:
                self._metrics.commands.labels(command.kind.name.lower()).inc()

    def _do(self, command: Command) -> None:
        if command.apid != self._apid:
            raise PacketFieldError(f"command for APID {command.apid}, this is {self._apid}")
        kind, orders = command.kind, self._orders
        if kind is Kind.REPORT:
            report = Report.unpack(command.body)
            self._spool.hear(command.session, command.number, report)
            self._on_loss(report.loss)
            return
        if kind is Kind.RATE:
            least = 1.001 * self._packet_bits / 1000
            kbit = unpack_value(command.body, least, MAX_KBIT_PER_S, "rate [kbit/s]")
            orders.bits_per_s = None if kbit is None else 1000 * kbit
            told: object = kbit
        elif kind is Kind.STEP:
            most = self._max_octaves
            octaves = unpack_value(command.body, 0.0, most, "step [octaves coarser]")
            told = orders.octaves = octaves or 0.0
        elif kind is Kind.MODEL:
            model = unpack_model(command.body)
            told = model.hex()
            self._order(self._models.load(model))
        elif command.body:
            raise PacketFieldError(f"a command to {kind.name.lower()} carries nothing")
        elif kind is Kind.ROLLBACK:
            told = "the one before"
            self._order(self._models.roll_back())
        else:
            told = orders.switch.command(_EVENTS[kind]).value
        log.info("command", extra={"kind": kind.name.lower(), "now": told})

    def _order(self, taken: bool) -> None:
        if not taken:
            raise PacketFieldError("no model can be loaded: no model.store, or too many orders")
