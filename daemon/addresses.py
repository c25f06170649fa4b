"""What a ZeroMQ address must look like: one rule, for settings and for sockets."""

from __future__ import annotations

import ipaddress
from typing import Final

MAX_IPC_PATH_BYTES: Final = 107
"""Longest path of a Unix socket. Source: unix(7), `sun_path`."""


def problem(address: str, *, bind: bool) -> str | None:
    """Tell what is wrong with an address, or None.

    Whether it can be had is for the system to say: a host may be unknown, a port taken.

    Args:
        address: `tcp://host:port` or `ipc://path`; to bind, `*` may stand for a host or a port.
        bind: Whether it is bound; otherwise it is connected to.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in ("tcp", "ipc") or not rest:
        return "should be like tcp://127.0.0.1:5555 or ipc:///run/prismlink/link"
    host, _, port = rest.rpartition(":")
    if "*" in ((host, port) if scheme == "tcp" else (rest,)) and not bind:
        return "should name one place to connect to; * is for an address that is bound"
    if scheme == "ipc":
        too_long = len(rest.encode()) > MAX_IPC_PATH_BYTES
        return f"should have a path of at most {MAX_IPC_PATH_BYTES} bytes" if too_long else None
    # Libzmq takes the lowest 16 bits of any number: port 70000 would be port 4464.
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16
    if not host or not (port == "*" or is_port):
        return "should end in a host and a port from 1 to 65535, like tcp://127.0.0.1:5555"
    return None


def is_local(address: str) -> bool:
    """Whether nobody outside this machine can be at the other end: a path, or loopback."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if scheme == "ipc" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
