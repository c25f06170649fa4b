"""Captures: every datagram of every link type that is read, and nothing of anything else."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.link.pcap import datagrams
from fakes.captures import IPV6, ethernet, ipv4, ipv6, pcap, pcapng, udp

BODIES = [b"one", bytes(range(200)), b""]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_of_both_orders_and_clocks(order: str, *, nano: bool) -> None:
    """In the order they were recorded, without Ethernet's padding."""
    raw = pcap([ethernet(ipv4(udp(body))) for body in BODIES], order=order, nano=nano)
    assert list(datagrams(raw)) == BODIES


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_of_both_orders(order: str) -> None:
    """Blocks of other kinds are passed over; a second section may have another order."""
    frames = [ethernet(ipv4(udp(body))) for body in BODIES]
    raw = pcapng(frames, order=order) + pcapng(frames, order="<")
    assert list(datagrams(raw)) == BODIES * 2


def test_a_simple_block_is_read() -> None:
    """It has no interface of its own: the first one's counts."""
    frame = ethernet(ipv4(udp(b"simple")))
    length = pack("<I", 16 + len(frame))
    block = pack("<I", 3) + length + pack("<I", len(frame)) + frame + length
    assert list(datagrams(pcapng([]) + block)) == [b"simple"]


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        pytest.param(1, ethernet(ipv4(udp(b"x")), vlan=True), id="VLAN"),
        pytest.param(1, ethernet(ipv6(udp(b"x")), IPV6), id="IPv6"),
        pytest.param(101, ipv4(udp(b"x")), id="raw IP"),
        pytest.param(229, ipv6(udp(b"x")), id="raw IPv6"),
        pytest.param(0, pack("<I", 2) + ipv4(udp(b"x")), id="loopback"),
        pytest.param(113, bytes(14) + b"\x08\x00" + ipv4(udp(b"x")), id="cooked"),
        pytest.param(276, b"\x08\x00" + bytes(18) + ipv4(udp(b"x")), id="cooked, version 2"),
    ],
)
def test_every_link_type_is_read(link: int, frame: bytes) -> None:
    """Each with the header it has."""
    assert list(datagrams(pcap([frame], link=link))) == [b"x"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_fragments_are_joined(order: tuple[int, ...]) -> None:
    """In whatever order they come, two datagrams of them at a time."""
    body = udp(bytes(range(256)) * 12)
    cuts = [(0, 1480), (1480, 2960), (2960, len(body))]

    def pieces(ident: int) -> list[bytes]:
        return [
            ipv4(body[start:stop], offset=start, more=stop < len(body), ident=ident)
            for start, stop in cuts
        ]

    mixed = [part[at] for at in order for part in (pieces(1), pieces(2))]
    assert list(datagrams(pcap([ethernet(part) for part in mixed]))) == [body[8:]] * 2


def test_a_datagram_that_lacks_a_fragment_is_none() -> None:
    """However many there are: what waits for its rest is bounded."""
    body = udp(bytes(2000))
    halves = [ethernet(ipv4(body[:1480], more=True, ident=ident)) for ident in range(1000)]
    assert list(datagrams(pcap(halves))) == []


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ethernet(b"", 0x0806), id="ARP"),
        pytest.param(ethernet(ipv4(udp(b"x")).replace(b"\x40\x11", b"\x40\x06")), id="TCP"),
        pytest.param(ethernet(ipv4(udp(b"x" * 99)))[:90], id="recorded in part"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_datagram_is_passed_over(frame: bytes) -> None:
    """The next one is read."""
    assert list(datagrams(pcap([frame, ethernet(ipv4(udp(b"next")))]))) == [b"next"]


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_a_capture_cut_anywhere_gives_what_is_before(make: object) -> None:
    """A killed tcpdump leaves half a packet; so may a full disk."""
    raw = make([ethernet(ipv4(udp(body * 9))) for body in BODIES])  # type: ignore[operator]
    whole = list(datagrams(raw))
    for length in range(24, len(raw)):
        found = list(datagrams(raw[:length]))
        assert found == whole[: len(found)]


@given(st.sampled_from([pcap, pcapng]), st.data())
def test_damage_is_no_crash(make: object, data: st.DataObject) -> None:
    """Flipped bytes cost datagrams; the reader ends, without an error of its own."""
    raw = bytearray(make([ethernet(ipv4(udp(body * 9))) for body in BODIES]))  # type: ignore[operator]
    for at in data.draw(st.lists(st.integers(4, len(raw) - 1), max_size=8)):
        raw[at] ^= data.draw(st.integers(1, 255))
    list(datagrams(bytes(raw)))


def test_what_is_no_capture_is_told() -> None:
    """It is not taken for an empty one."""
    with pytest.raises(ValueError, match="neither as pcap nor as pcapng"):
        list(datagrams(b"PRISM\x01"))
