"""The seal: AES-256-GCM over a whole Space Packet, in the manner of CCSDS SDLS (355.0-B-2).

    primary header 6 │ SPI u16 │ IV: salt 4, counter u64 │ ciphertext │ MAC 16

A sealed packet is a Space Packet again, of the same type, APID and sequence, without a secondary
header. What is encrypted is one byte, the secondary header flag it had, and all that followed its
primary header; what goes in plain is authenticated too. Byte by byte in docs/wire-format.md.

Two packets under one key and IV would give away both and the authentication key, so the counter of
the IV never comes twice: `daemon.reserved_counter` sees to that. The salt, new with each process,
is for the day a file of counters is lost or brought back from a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from daemon.errors import PacketFieldError, ReplayError, SealError, TruncatedPacketError
from daemon.link.packet import MAX_PACKET_BYTES
from daemon.link.sequence import WINDOW, Arrival, Window

DOWNLINK_SPI: Final = 1
UPLINK_SPI: Final = 2
OPERATOR_SPI: Final = 3
"""Ground to board as well, with counters of its own: a command beside the ground's process."""
KEY_BYTES: Final = 32
SALT_BYTES: Final = 4
MAX_COUNTER: Final = 2**64 - 1

_PRIMARY: Final = Struct(">HHH")
_SECURITY: Final = Struct(">H4sQ")
_MAC_BYTES: Final = 16
_HEADERS_BYTES: Final = _PRIMARY.size + _SECURITY.size
_VERSION: Final = 0b111 << 13
_SECONDARY: Final = 1 << 11
_LENGTH_OFFSET: Final = _PRIMARY.size + 1
"""A Space Packet's length field is its length less this (CCSDS 133.0-B-2, 4.1.3.5.3)."""

OVERHEAD_BYTES: Final = _SECURITY.size + 1 + _MAC_BYTES
"""By so many bytes a packet is longer once it is sealed."""


def derived_key(key: bytes, spi: int) -> bytes:
    """The key of one direction or use: with HKDF-SHA256, so that a file holds one for all.

    Args:
        key: What the file holds, 32 bytes.
        spi: Which.
    """
    info = b"prismlink seal" + spi.to_bytes(2)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


class Sealer:
    """Seals packets under one key.

    Args:
        key: 32 bytes.
        spi: Names the key to the one who opens (security parameter index), 16 bits.
        next_iv: Gives a counter from 1 to 2⁶⁴ − 1 that it never gave before, under this key, in
            any process; what it raises comes out of `seal`.
        salt: 4 bytes for every IV.
    """

    def __init__(self, key: bytes, spi: int, next_iv: Callable[[], int], *, salt: bytes) -> None:
        self._aes, self._spi, self._next_iv, self._salt = AESGCM(key), spi, next_iv, salt

    def seal(self, raw: bytes) -> bytes:
        """Seal one Space Packet that fills `raw`; twice the same is sealed under different IVs.

        Raises:
            TruncatedPacketError: If it is shorter than a Space Packet.
            PacketFieldError: If its length is wrong, or too great once it is sealed.
        """
        if len(raw) < _LENGTH_OFFSET:
            raise TruncatedPacketError(_LENGTH_OFFSET, len(raw))
        identification, sequence, length = _PRIMARY.unpack_from(raw)
        if length + _LENGTH_OFFSET != len(raw) or len(raw) + OVERHEAD_BYTES > MAX_PACKET_BYTES:
            raise PacketFieldError(f"a packet of {len(raw)} bytes, or its length, cannot be sealed")
        primary = _PRIMARY.pack(identification & ~_SECONDARY, sequence, length + OVERHEAD_BYTES)
        security = _SECURITY.pack(self._spi, self._salt, self._next_iv())
        inside = bytes([identification & _SECONDARY != 0]) + raw[_PRIMARY.size :]
        headers = primary + security
        return headers + self._aes.encrypt(security[2:], inside, headers)


class Opener:
    """Opens what was sealed, each once; `read` alone takes no note.

    Args:
        keys: 32 bytes each, by SPI.
        heard: Highest counters that an earlier process opened, by SPI; it and all below are taken
            for replays. 0, or left out: none.
        window: Counters back from the highest in which late packets are told from replays.
    """

    def __init__(
        self, keys: Mapping[int, bytes], *, heard: Mapping[int, int], window: int = WINDOW
    ) -> None:
        self._keys = {
            spi: (AESGCM(key), Window(heard.get(spi, 0), window, all_seen=True))
            for spi, key in keys.items()
        }

    def highest(self, spi: int) -> int:
        """The highest counter opened so far; 0: none."""
        return self._keys[spi][1].highest

    def open(self, raw: bytes) -> bytes:
        """Return the packet that was sealed.

        Nothing is kept of a packet whose MAC does not hold: only those who have the key move the
        window.

        Raises:
            SealError: If it is not sealed, damaged, or sealed with another key.
            ReplayError: If its counter came before, or is too old to tell.
        """
        packet, spi, counter = self._opened(raw)
        if self._keys[spi][1].note(counter) not in (Arrival.NEW, Arrival.LATE):
            raise ReplayError(spi, counter)
        return packet

    def read(self, raw: bytes) -> bytes:
        """Return a packet that was recorded, however often and in whatever order it is read.

        Raises:
            SealError: See `open`.
        """
        return self._opened(raw)[0]

    def _opened(self, raw: bytes) -> tuple[bytes, int, int]:
        """The packet, its SPI and its counter."""
        if len(raw) < _LENGTH_OFFSET + OVERHEAD_BYTES:
            raise SealError(f"{len(raw)} bytes are no sealed packet")
        identification, sequence, length = _PRIMARY.unpack_from(raw)
        if identification & (_VERSION | _SECONDARY) or length + _LENGTH_OFFSET != len(raw):
            raise SealError("the packet is not sealed, or not whole")
        spi, _, counter = _SECURITY.unpack_from(raw, _PRIMARY.size)
        if spi not in self._keys:
            raise SealError(f"SPI {spi} names no key")
        iv = raw[_PRIMARY.size + 2 : _HEADERS_BYTES]
        try:
            inside = self._keys[spi][0].decrypt(iv, raw[_HEADERS_BYTES:], raw[:_HEADERS_BYTES])
        except InvalidTag:
            raise SealError("the packet does not match its MAC") from None
        if inside[0] > 1:
            raise SealError(f"secondary header flag {inside[0]}")
        identification |= _SECONDARY * inside[0]
        primary = _PRIMARY.pack(identification, sequence, length - OVERHEAD_BYTES)
        return primary + inside[1:], spi, counter
