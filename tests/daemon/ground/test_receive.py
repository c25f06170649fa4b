"""The receiver: every packet is handed on or refused, and gaps are counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import PacketError
from daemon.ground.receive import Receiver
from daemon.link.packet import Channel, Packet
from daemon.link.segment import Segmenter
from daemon.link.sequence import SequenceTracker
from daemon.metrics import GroundMetrics, new_registry


class Rig:
    """A receiver that is handed bytes."""

    def __init__(self) -> None:
        self.metrics = GroundMetrics(new_registry())
        self.packets: list[Packet] = []
        self._waiting: list[bytes] = []
        self.receiver = Receiver(self, SequenceTracker(), self.packets.append, metrics=self.metrics)

    def recv_many(self, max_items: int, timeout_s: float) -> list[bytes]:
        """Return what waits, no more than asked for."""
        assert timeout_s > 0
        taken, self._waiting = self._waiting[:max_items], self._waiting[max_items:]
        return taken

    def take(self, raw: list[bytes]) -> dict[str, float]:
        """Have these taken; return the metrics."""
        self._waiting += raw
        while self._waiting:
            self.receiver.poll()
        self.receiver.poll()
        return self.metrics.totals()


def packets(count: int, boot_id: int = 1) -> list[bytes]:
    """Frames of one packet each."""
    segmenter = Segmenter(boot_id=boot_id, apid=2, mtu_bytes=128, repair={})
    return [segmenter.packets(bytes([i % 256]), Channel.PATCH, 0.0)[0] for i in range(count)]


def test_packets_are_handed_on_and_counted() -> None:
    """Each once, in the order they came, however many come at once; bytes are counted."""
    rig, raw = Rig(), packets(150)
    totals = rig.take(raw)

    assert rig.packets == [Packet.unpack(packet) for packet in raw]
    assert totals['prismlink_packets_received_total{channel="patch"}'] == 150
    assert totals["prismlink_bytes_in_total"] == sum(map(len, raw))
    assert totals['prismlink_packets_missing{reason="gap"}'] == 0


def test_loss_repeats_and_lateness_are_told_apart() -> None:
    """Counters tell which packets are missing, were overtaken, or came before."""
    rig, raw = Rig(), packets(10)
    totals = rig.take([raw[2], raw[5], raw[4], raw[5], raw[9]])

    assert totals['prismlink_packets_missing{reason="before_start"}'] == 2
    assert totals['prismlink_packets_missing{reason="gap"}'] == 4
    assert totals["prismlink_packets_late_total"] == 1
    assert totals["prismlink_packets_duplicate_total"] == 1
    assert rig.take([raw[3]])['prismlink_packets_missing{reason="gap"}'] == 3


def test_a_restarted_board_begins_a_new_count() -> None:
    """Its counters start over; nothing is missing or repeated by that."""
    totals = Rig().take(packets(3) + packets(3, boot_id=2))

    assert totals['prismlink_packets_missing{reason="gap"}'] == 0
    assert totals["prismlink_packets_duplicate_total"] == 0


(GOOD,) = packets(1)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "packet_truncated"),
        (GOOD[:-1], "packet_truncated"),
        (GOOD[:-1] + b"\0", "packet_checksum"),
        (GOOD + b"\0", "packet_field"),
    ],
)
def test_a_bad_packet_is_a_line_and_a_count(
    raw: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused under its reason; those beside it are taken."""
    rig = Rig()
    totals = rig.take([raw, GOOD])

    assert totals[f'prismlink_packets_refused_total{{reason="{reason}"}}'] == 1
    assert len(rig.packets) == 1
    assert [record.__dict__["reason"] for record in caplog.records] == [reason]


@given(st.binary(max_size=80))
def test_no_bytes_stop_it(raw: bytes) -> None:
    """Whatever comes is counted under a reason of the closed set."""
    totals = Rig().take([raw])

    refused = {k: v for k, v in totals.items() if "packets_refused_total" in k}
    assert sum(refused.values()) == 1
    reasons = {PacketError.reason} | {error.reason for error in PacketError.__subclasses__()}
    assert {key.split('"')[1] for key in refused} <= reasons
