"""Hostile input: random bytes, and real messages, packets and frames with something wrong in them.

Endless; the generator that is handed in decides what comes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import google_crc32c
import msgpack

from daemon.errors import LinkError
from daemon.link.packet import OVERHEAD_BYTES, Channel
from daemon.link.segment import Segmenter

_CRC_BYTES: Final = 4

_ODD_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, -1, 0, 1, 255, 65_535, 65_536, 2**31, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", "a" * 5000, "../../../etc/passwd", "\x1b[2J\n\r\0", "int64", "object", b"", b"\xff" * 99),
    *([], [1], [1, 1, 1], [2**40] * 3, [-1, 8, 8], [[[[[]]]]], [0.0] * 5000, {}, {"a": {"b": []}}),
)


def messages(good: Sequence[bytes], rng: random.Random) -> Iterator[list[bytes]]:
    """Multipart messages for the instrument's socket; now and then one that is a tile after all.

    Args:
        good: Topic, header and samples of a tile.
        rng: Decides.
    """
    while True:
        yield rng.choice((_noise, _edited_header, _broken_header, _other_parts))(good, rng)


def packets(
    good_packets: Sequence[bytes], good_frames: Sequence[bytes], rng: random.Random
) -> Iterator[bytes]:
    """Messages for the link's socket; most are no packets, some are sound ones of bad frames."""
    segmenter = Segmenter(boot_id=666, apid=1, mtu_bytes=1024, repair={})
    while True:
        match rng.randrange(5):
            case 0:
                yield rng.randbytes(rng.randrange(400))
            case 1:
                good = rng.choice(good_packets)
                yield good[: rng.randrange(len(good))]
            case 2:
                yield _flipped(rng.choice(good_packets), rng)
            case 3:
                yield _sealed(_flipped_head(rng.choice(good_packets), OVERHEAD_BYTES, rng))
            case 4:
                yield from _bad_frame(segmenter, good_frames, rng)


def _noise(_good: Sequence[bytes], rng: random.Random) -> list[bytes]:
    return [rng.randbytes(rng.randrange(200)) for _ in range(rng.randint(1, 10))]


def _edited_header(good: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """Sound MessagePack with an odd value, a field too many, or one too few."""
    header = msgpack.unpackb(good[1])
    field = rng.choice([*header, "extra"])
    if rng.random() < 0.2:
        header.pop(field, None)
    else:
        header[field] = rng.choice(_ODD_VALUES)
    return [good[0], msgpack.packb(header), good[2]]


def _broken_header(good: Sequence[bytes], rng: random.Random) -> list[bytes]:
    header = good[1]
    broken = header[: rng.randrange(len(header))] if rng.random() < 0.5 else _flipped(header, rng)
    return [good[0], broken, good[2]]


def _other_parts(good: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """Parts swapped, repeated, left out, or cut."""
    parts = [rng.choice(good) for _ in range(rng.randint(1, 5))]
    return [part[: rng.randrange(len(part) + 1)] for part in parts]


def _bad_frame(
    segmenter: Segmenter, good_frames: Sequence[bytes], rng: random.Random
) -> Iterator[bytes]:
    """Packets of a frame that is wrong inside, with its own CRC right half of the time."""
    frame = rng.choice(good_frames)
    if rng.random() < 0.5:
        frame = _sealed(_flipped_head(frame, len(frame), rng))
    else:
        frame = _flipped(frame, rng)
    try:
        yield from segmenter.packets(frame, rng.choice(list(Channel)), rng.uniform(0, 2e9))
    except LinkError:  # nothing was left of it
        return


def _flipped(raw: bytes, rng: random.Random) -> bytes:
    """The same bytes but for one to four."""
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
    return bytes(changed)


def _flipped_head(raw: bytes, head_bytes: int, rng: random.Random) -> bytes:
    head = min(head_bytes, len(raw) - _CRC_BYTES)
    return _flipped(raw[:head], rng) + raw[head:]


def _sealed(raw: bytes) -> bytes:
    """With the CRC that these bytes should have."""
    body = raw[:-_CRC_BYTES]
    crc: int = google_crc32c.value(body)
    return body + crc.to_bytes(_CRC_BYTES, "big")
