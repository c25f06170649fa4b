"""Tries what a unit's sandbox forbids, from within, and prints what became of each try as JSON.

Run before a daemon by the unit of it, so as its user and in its sandbox; with the standard library
alone, for it does not have to be the daemon's Python.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER: Final = 0x1000_0000


def checked(status: int) -> None:
    """Raise what a call of C failed with."""
    if status:
        raise OSError(ctypes.get_errno(), "")


def tries(state: Path) -> dict[str, Callable[[], object]]:
    """What is tried, by what it is called.

    Args:
        state: A folder that the daemon may write.
    """
    return {
        "write /usr": Path("/usr/probe").touch,
        "write /etc": Path("/etc/probe").touch,
        "write /opt": Path("/opt/prismlink/probe").touch,
        "write /var/lib": Path("/var/lib/probe").touch,
        "write the state": (state / "probe").touch,
        "remove from the state": (state / "probe").unlink,
        "write the cache": Path("/var/cache/prismlink/probe").touch,
        "remove from the cache": Path("/var/cache/prismlink/probe").unlink,
        "read the settings": Path("/etc/prismlink/flight.yaml").read_bytes,
        "list keys": lambda: os.listdir("/etc/prismlink/keys"),
        "list /root": lambda: os.listdir("/root"),
        "open a device": lambda: Path("/dev/probe").open("rb").close(),
        "see systemd": Path("/proc/1/status").read_bytes,
        "packets of any kind": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "namespace": lambda: checked(_LIBC.unshare(_CLONE_NEWUSER)),
        "mount": lambda: checked(_LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
        "become root": lambda: os.setuid(0),
        "set the host's name": lambda: socket.sethostname("probe"),
    }


def outcome(action: Callable[[], object]) -> str:
    """Try; return "done" or the name of the error."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


if __name__ == "__main__":
    print(json.dumps({name: outcome(action) for name, action in tries(Path(sys.argv[1])).items()}))
