"""The receiver: every packet is handed on or refused, and gaps are counted."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import PacketError
from daemon.ground.metrics import GroundMetrics
from daemon.ground.receive import Receiver
from daemon.link.packet import Channel, Packet
from daemon.link.seal import DOWNLINK_SPI, Opener, Sealer
from daemon.link.segment import Segmenter
from daemon.link.sequence import SequenceTracker
from daemon.metrics import new_registry


class Rig:
    """A receiver that is handed bytes."""

    def __init__(self, unseal: Callable[[bytes], bytes] | None = None) -> None:
        self.metrics = GroundMetrics(new_registry())
        self.packets: list[Packet] = []
        self._waiting: list[bytes] = []
        self.receiver = Receiver(
            self, SequenceTracker(), self.packets.append, metrics=self.metrics, unseal=unseal
        )

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
    assert totals['prismlink_packets_received_bytes_total{channel="patch"}'] == sum(map(len, raw))
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


# ---------------------------------------------------------------- sealed

KEY = bytes(range(32))
FUZZED = 100_000


def sealed(raw: list[bytes], key: bytes = KEY, first: int = 1) -> list[bytes]:
    """The same packets, sealed with counters from the first on."""
    source = count(first)
    sealer = Sealer(key, DOWNLINK_SPI, lambda: next(source), salt=bytes(4))
    return [sealer.seal(packet) for packet in raw]


def opening() -> Rig:
    """A receiver with the key."""
    return Rig(Opener({DOWNLINK_SPI: KEY}, heard={}).open)


def test_sealed_packets_are_opened() -> None:
    """What is counted as received is what came on the link."""
    rig, raw = opening(), packets(10)
    on_link = sealed(raw)
    totals = rig.take(on_link)

    assert rig.packets == [Packet.unpack(packet) for packet in raw]
    assert totals["prismlink_bytes_in_total"] == sum(map(len, on_link))


def test_with_a_key_plain_packets_are_refused() -> None:
    """Sound as they are: anybody can make them."""
    rig = opening()
    totals = rig.take(packets(5))

    assert totals['prismlink_packets_refused_total{reason="seal"}'] == 5
    assert rig.packets == []


def test_without_a_key_sealed_packets_are_refused() -> None:
    """An operator who forgot the key sees it in the counts."""
    totals = Rig().take(sealed(packets(5)))
    assert totals['prismlink_packets_refused_total{reason="packet_field"}'] == 5


def test_a_flood_of_forgeries_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    """Forged, replayed, truncated and plain packets: each counted, none kept, the link goes on."""
    caplog.set_level(logging.CRITICAL, "daemon.ground.receive")
    source, rig, raw = random.Random(1), opening(), packets(200)
    genuine = sealed(raw)
    rig.take(genuine[:100])
    foreign = sealed(raw, key=bytes(32), first=1000)

    def forgery() -> tuple[str, bytes]:
        one = bytearray(source.choice(genuine))
        match source.randrange(6):
            case 0:
                return "replay", source.choice(genuine[:100])
            case 1:
                return "seal", source.choice(foreign)
            case 2:
                return "seal", bytes(one[: source.randrange(len(one))])
            case 3:
                return "seal", source.choice(raw)
            case 4:
                return "seal", source.randbytes(source.randrange(200))
            case _:
                one[source.randrange(len(one))] ^= source.randrange(1, 256)
                return "seal", bytes(one)

    forged = [forgery() for _ in range(FUZZED)]
    totals = rig.take([packet for _, packet in forged])

    for reason in ("seal", "replay"):
        wanted = sum(why == reason for why, _ in forged)
        assert totals[f'prismlink_packets_refused_total{{reason="{reason}"}}'] == wanted
    assert len(rig.packets) == 100
    rig.take(genuine[100:])
    assert rig.packets == [Packet.unpack(packet) for packet in raw]
