"""Keys in files: read where they are needed, written by `prismlink keys`.

A CURVE key is a line of 40 characters, Z85 as libzmq has it; the seal's key one of 64 hexadecimal
digits; the token of the web page one of 32 printable characters or more. A file that everybody may
write, a secret that everybody may read, and a link to either are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.errors import OutputError
from daemon.guarded import read_guarded

_Z85: Final = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_Z85_CHARS: Final = 40
_SEAL_CHARS: Final = 64
_LEAST_TOKEN_CHARS: Final = 32
"""Of 16 random bytes in hexadecimal digits: not to be guessed."""
_MAX_FILE_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveKeys:
    """What a socket needs to know its peers, and to be known.

    Attributes:
        secret: This side's key, Z85; its public key follows from it.
        peers: Public keys, Z85. The side that binds admits these alone; the one that connects
            takes the first for the key of who is there.
    """

    secret: bytes = field(repr=False)
    peers: tuple[bytes, ...]


def curve_public(path: Path) -> bytes:
    """Read the public key of a peer.

    Raises:
        ValueError: If the file holds none; says what to do.
    """
    return _curve(_line(path))


def curve_secret(path: Path) -> bytes:
    """Read a secret key; see `curve_public`, and nobody else may read it."""
    return _curve(_line(path, secret=True))


def seal_key(path: Path) -> bytes:
    """Read the seal's key, 32 bytes; see `curve_secret`."""
    line = _line(path, secret=True)
    try:
        if len(line) == _SEAL_CHARS:
            return bytes.fromhex(line)
    except ValueError:
        pass
    raise ValueError("holds no key of 64 hexadecimal digits; make one with `prismlink keys`")


def web_token(path: Path) -> bytes:
    """Read the token that visitors of the web page need; see `curve_secret`."""
    line = _line(path, secret=True)
    printable = line.isascii() and line.isprintable() and " " not in line
    if len(line) < _LEAST_TOKEN_CHARS or not printable:
        raise ValueError(
            f"holds no token, a line of {_LEAST_TOKEN_CHARS} characters or more; make one with "
            "`openssl rand -hex 32`"
        )
    return line.encode()


def write_keys(files: Mapping[Path, bytes]) -> None:
    """Write files that only their owner may read; none is overwritten.

    Raises:
        OutputError: If one is there already, or cannot be written.
    """
    for path in files:
        if path.exists():
            raise OutputError(path, "is there already; move it away, or name another folder")
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "wb") as opened:
                opened.write(content + b"\n")
        except OSError as error:
            raise OutputError(path, str(error)) from None


def _line(path: Path, *, secret: bool = False) -> str:
    raw = read_guarded(path, max_bytes=_MAX_FILE_BYTES, secret=secret)
    return raw.decode("ascii", "replace").strip()


def _curve(line: str) -> bytes:
    values = [_Z85.find(character) for character in line]
    # Five digits are four bytes: some combinations are above them, and libzmq takes none of those.
    words = [values[i : i + 5] for i in range(0, len(values), 5)]
    sound = len(line) == _Z85_CHARS and min(values) >= 0
    if not sound or any(_number(word) >= 2**32 for word in words):
        raise ValueError("holds no CURVE key of 40 characters; make one with `prismlink keys`")
    return line.encode()


def _number(digits: list[int]) -> int:
    number = 0
    for digit in digits:
        number = 85 * number + digit
    return number
