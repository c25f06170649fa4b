"""Beacons come back as they were sent, fit the smallest packet, and refuse all else."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config_downlink import MIN_MTU_BYTES
from daemon.errors import PacketFieldError
from daemon.link.beacon import MAX_BOOTS, MAX_GONE, Beacon, BootState
from daemon.link.packet import OVERHEAD_BYTES

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
ENDS = st.integers(0, 2**32)
BEACONS = st.builds(
    Beacon,
    session=U32,
    seen=U32,
    seen_bits=U64,
    answered=U32,
    sent_packets=U64,
    boots=st.lists(
        st.builds(
            BootState,
            boot_id=U32,
            kept_from=st.integers(0, 2**32),
            sent_below=st.integers(0, 2**32),
        ),
        max_size=MAX_BOOTS,
    ).map(tuple),
    gone=st.lists(st.tuples(U32, ENDS, ENDS), max_size=MAX_GONE).map(tuple),
)
SEAL_BYTES = 48
"""Room for a seal around it."""


def test_the_bytes_are_frozen() -> None:
    """A ground of any later year must understand what is in orbit."""
    beacon = Beacon(
        session=5,
        seen=3,
        seen_bits=0b101,
        answered=2,
        sent_packets=70_000,
        boots=(BootState(boot_id=0xB007B007, kept_from=1, sent_below=300),),
        gone=((0xB007B007, 4, 6),),
    )
    assert beacon.pack().hex() == (
        "98" "01" "05" "03" "05" "02" "ce00011170" "91" "93" "ceb007b007" "01" "cd012c"
        "91" "93" "ceb007b007" "04" "06"
    )  # fmt: skip
    assert Beacon.unpack(beacon.pack()) == beacon
    assert [beacon.has_seen(number) for number in range(5)] == [False, True, False, True, False]


@given(BEACONS)
def test_a_beacon_comes_back_and_fits_the_smallest_packet(beacon: Beacon) -> None:
    """It is one packet, whatever the link's MTU, sealed or not."""
    raw = beacon.pack()
    assert Beacon.unpack(raw) == beacon
    assert len(raw) <= MIN_MTU_BYTES - OVERHEAD_BYTES - SEAL_BYTES


@pytest.mark.parametrize(
    "fields",
    [
        [], [1], [2, 0, 0, 0, 0, 0, [], []], [1, 0, 0, 0, 0, 0, []], [1, 2**32, 0, 0, 0, 0, [], []],
        [1, 0, 0, 2**64 - 1, 0, -1, [], []], [1, 0, 0, 0, 0, 0, [[1, 2]], []],
        [1, 0, 0, 0, 0, 0, [[1, 2, 2**32 + 1]], []], [1, 0, 0, 0, 0, 0, [], [[1, 2]]],
        [1, 0, 0, 0, 0, 0, 7, []], "text", None,
    ],
)  # fmt: skip
def test_a_beacon_that_cannot_be_is_refused(fields: object) -> None:
    """Other versions, types and numbers."""
    with pytest.raises(PacketFieldError):
        Beacon.unpack(msgpack.packb(fields))


def test_every_truncation_is_refused() -> None:
    """At each length, and bytes behind it."""
    raw = Beacon(session=1, seen=1, seen_bits=1, answered=1, sent_packets=9, boots=()).pack()
    for length in range(len(raw)):
        with pytest.raises(PacketFieldError):
            Beacon.unpack(raw[:length])
    with pytest.raises(PacketFieldError):
        Beacon.unpack(raw + b"\0")
