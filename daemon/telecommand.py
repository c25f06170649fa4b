"""An operator's command to the board: read from words, sealed where there is a key, sent once.

It goes its own way beside the ground's process: a connection, an SPI and a file of counters of its
own. Nothing comes back; the board's `prismlink_commands_total` tells that it was obeyed.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from daemon.config import GroundSettings
from daemon.errors import ConfigError, LinkError, OutputError
from daemon.link.commands import (
    MAX_KBIT_PER_S,
    MAX_OCTAVES,
    MIN_KBIT_PER_S,
    MODEL_BYTES,
    Command,
    Kind,
    pack_model,
    pack_value,
)
from daemon.link.seal import OPERATOR_SPI, SALT_BYTES, Sealer, derived_key
from daemon.link.sockets import Endpoint, PacketSender
from daemon.reserved_counter import ReservedCounter
from daemon.sealed_link import operator_beside

PLAN: Final = "plan"
"""In place of a rate: the contact plan's."""

_VALUES: Final = {
    Kind.RATE: (MIN_KBIT_PER_S, MAX_KBIT_PER_S, f"kbit/s, or `{PLAN}`"),
    Kind.STEP: (0.0, MAX_OCTAVES, "octaves"),
}
"""Kinds that take a value: the least, the most, and what it is."""


def body_of(kind: Kind, value: str | None) -> bytes:
    """Return what a command carries, from the word an operator gave with it, if any.

    Raises:
        ValueError: If the kind takes no such value; says what it takes.
    """
    name = kind.name.lower()
    if kind not in (*_VALUES, Kind.MODEL):
        if value is not None:
            raise ValueError(f"{name} takes no value, got {value}")
        return b""
    if kind is Kind.RATE and value == PLAN:
        return pack_value(None)
    if kind is Kind.MODEL:
        return pack_model(_model(value))
    low, high, what = _VALUES[kind]
    try:
        number = float(value or "")
    except ValueError:
        number = -1.0
    if not low <= number <= high:
        raise ValueError(f"{name} takes {low:g} to {high:g} {what}; got {value or 'nothing'}")
    return pack_value(number)


def _model(value: str | None) -> bytes:
    with suppress(ValueError):
        if len(model := bytes.fromhex(value or "")) == MODEL_BYTES:
            return model
    digits = f"{2 * MODEL_BYTES} hexadecimal digits"
    raise ValueError(f"model takes the name of one, {digits}; got {value or 'nothing'}")


def send(settings: GroundSettings, path: Path, kind: Kind, body: bytes, *, timeout_s: float) -> str:
    """Send one command to the board's uplink.

    Args:
        settings: The ground's: uplink and keys.
        path: Their file, for errors to name.
        kind: What it asks for.
        body: What it carries, see `body_of`.
        timeout_s: Longest wait for the board [s].

    Returns:
        The address it went to.

    Raises:
        ConfigError: If there is no uplink, it is not the board that owns its address, or the file
            of counters cannot be used.
        OutputError: If the disk does not take the seal's counter.
        LinkError: If nobody took it in time.
    """
    up, security = settings.link.uplink, settings.security
    if up is None:
        problem = "link.uplink: null; set it to where the board takes commands, as on the board"
        raise ConfigError(path, (problem,))
    if up.bind:
        problem = "link.uplink.bind: true leaves its address to the ground's process; let the board"
        raise ConfigError(path, (f"{problem} bind, and set it to false here",))
    raw = Command(apid=up.apid, kind=kind, session=secrets.randbits(32), number=0, body=body).pack()
    with ExitStack() as stack:
        if security.seal is not None:
            key, state = security.seal
            # Held until it has left: of two that wait at once the later one would void the other.
            counter = ReservedCounter(operator_beside(state))
            stack.callback(counter.close)
            raw = _sealed(raw, key, counter, state)
        endpoint = Endpoint(address=up.address, bind=False, curve=security.curve("uplink"))
        if not stack.enter_context(PacketSender(endpoint)).send(raw, timeout_s):
            raise LinkError(
                f"{up.address}: nobody took the command within {timeout_s:g} s; see that the board "
                "runs with link.uplink there, and security.curve_peers.uplink fits on both sides"
            )
    return up.address


def _sealed(raw: bytes, key: bytes, counter: ReservedCounter, state: Path) -> bytes:
    salt = secrets.token_bytes(SALT_BYTES)
    try:
        return Sealer(derived_key(key, OPERATOR_SPI), OPERATOR_SPI, counter.next, salt=salt).seal(
            raw
        )
    except OSError as error:
        raise OutputError(operator_beside(state), str(error)) from None
