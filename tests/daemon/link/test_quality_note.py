"""Notes of quality come back as they were sent, fit the smallest packet, and refuse all else."""

from __future__ import annotations

import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config_downlink import MIN_MTU_BYTES
from daemon.errors import PacketFieldError
from daemon.link.beacon import Beacon
from daemon.link.packet import OVERHEAD_BYTES
from daemon.link.quality_note import QualityNote, is_note

TILE = bytes(range(8))
U16 = st.integers(0, 2**16 - 1)
NOTES = st.builds(
    QualityNote,
    tile_id=st.binary(min_size=8, max_size=8),
    row=U16,
    col=U16,
    psnr_db=st.floats(width=32, allow_nan=False, allow_infinity=False),
    max_abs_error=st.floats(min_value=0, width=32, allow_nan=False, allow_infinity=False),
)
SEAL_BYTES = 48
"""Room for a seal around it."""


def test_the_bytes_are_frozen() -> None:
    """A ground of any later year must understand what is in orbit."""
    note = QualityNote(tile_id=TILE, row=3, col=300, psnr_db=48.5, max_abs_error=7.0)
    assert note.pack().hex() == (
        "97" "a171" "01" "c4080001020304050607" "03" "cd012c" "ca42420000" "ca40e00000"
    )  # fmt: skip
    assert QualityNote.unpack(note.pack()) == note


@given(NOTES)
def test_a_note_comes_back_and_fits_the_smallest_packet(note: QualityNote) -> None:
    """It is one packet, whatever the link's MTU, sealed or not, and no beacon."""
    raw = note.pack()
    assert QualityNote.unpack(raw) == note
    assert is_note(raw)
    assert len(raw) <= MIN_MTU_BYTES - OVERHEAD_BYTES - SEAL_BYTES
    with pytest.raises(PacketFieldError):
        Beacon.unpack(raw)


@pytest.mark.parametrize(
    "fields",
    [
        [], ["q", 1], ["q", 2, TILE, 0, 0, 1.0, 1.0], ["r", 1, TILE, 0, 0, 1.0, 1.0],
        ["q", 1, TILE, 0, 0, 1.0, 1.0, 0], ["q", 1, TILE[1:], 0, 0, 1.0, 1.0],
        ["q", 1, "8 letter", 0, 0, 1.0, 1.0], ["q", 1, TILE, 2**16, 0, 1.0, 1.0],
        ["q", 1, TILE, 0, -1, 1.0, 1.0], ["q", 1, TILE, True, 0, 1.0, 1.0],
        ["q", 1, TILE, 0, 0, 1, 1.0], ["q", 1, TILE, 0, 0, math.nan, 1.0],
        ["q", 1, TILE, 0, 0, math.inf, 1.0], ["q", 1, TILE, 0, 0, 1.0, -1.0],
        ["q", 1, TILE, 0, 0, 1.0, math.nan], "text", None,
    ],
    ids=str,
)  # fmt: skip
def test_a_note_that_cannot_be_is_refused(fields: object) -> None:
    """Other kinds, versions, types and numbers."""
    with pytest.raises(PacketFieldError):
        QualityNote.unpack(msgpack.packb(fields))


def test_broken_bytes_are_refused_and_nothing_else_happens() -> None:
    """At each length, with bytes behind it, and with any one bit flipped that leaves no note."""
    note = QualityNote(tile_id=TILE, row=1, col=2, psnr_db=40.0, max_abs_error=3.0)
    raw = note.pack()
    for length in range(len(raw)):
        with pytest.raises(PacketFieldError):
            QualityNote.unpack(raw[:length])
    with pytest.raises(PacketFieldError):
        QualityNote.unpack(raw + b"\0")
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            back = QualityNote.unpack(bytes(flipped))
        except PacketFieldError:
            continue
        assert back != note


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """Whoever can send may send anything."""
    for begins in (b"", b"\x97\xa1q"):
        try:
            note = QualityNote.unpack(begins + raw)
        except PacketFieldError:
            continue
        assert is_note(note.pack())
