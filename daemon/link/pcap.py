"""What travelled over UDP, out of a network capture: pcap and pcapng, as tcpdump writes them.

A ground station's front end hands packets on in datagrams, and records them so. Read are Ethernet
(with VLAN tags), raw IP, BSD loopback and both of Linux's cooked kinds, IPv4 with its fragments,
and IPv6. Anything else is passed over: of a capture of a whole network most is not ours.

Of our own making: what is needed are three headers, and a capture cut off in its last packet, as a
killed tcpdump leaves it, is read up to there.

Source: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng; LINKTYPE_ numbers of tcpdump.org.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from struct import Struct
from typing import Final

MAGICS: Final = (
    *(b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1"),
    b"\x0a\x0d\x0d\x0a",
)
"""What a capture begins with: pcap in both orders, with micro- or nanoseconds; pcapng."""

_LITTLE: Final = (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
_PCAP_HEAD_BYTES: Final = 24
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_BLOCK_BYTES: Final = 12
"""Type and length before a block's body, length again behind it."""

_IPV4, _IPV6, _VLAN, _QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
_UDP: Final = 17
_UDP_HEAD_BYTES: Final = 8
_SHORT: Final = Struct(">H")
_HALF_DATAGRAMS: Final = 256
"""Datagrams of which fragments are kept while others are still to come."""


def datagrams(data: bytes | memoryview) -> Iterator[bytes]:
    """Yield what each UDP datagram of a capture carries, in the order they were recorded.

    Args:
        data: The whole file.

    Raises:
        ValueError: If it does not begin as a capture does.
    """
    view, halves = memoryview(data), _Halves()
    magic = bytes(view[:4])
    if magic not in MAGICS:
        raise ValueError("it begins neither as pcap nor as pcapng")
    frames = _pcapng(view) if magic == MAGICS[-1] else _pcap(view, magic)
    for link, frame in frames:
        kind, packet = _network(link, frame)
        if kind == _IPV4:
            whole = halves.whole(packet)
        else:
            whole = _udp_of_ipv6(packet) if kind == _IPV6 else None
        if whole is not None and len(whole) >= _UDP_HEAD_BYTES:
            length = _SHORT.unpack_from(whole, 4)[0]
            if _UDP_HEAD_BYTES <= length <= len(whole):  # else it was recorded in part
                yield bytes(whole[_UDP_HEAD_BYTES:length])


def _pcap(view: memoryview, magic: bytes) -> Iterator[tuple[int, memoryview]]:
    """Link type and bytes of every frame of a pcap file."""
    order = "<" if magic in _LITTLE else ">"
    if len(view) < _PCAP_HEAD_BYTES:
        return
    link = Struct(f"{order}I").unpack_from(view, 20)[0] & 0xFFFF  # the rest tells of a checksum
    head = Struct(f"{order}IIII")
    start = _PCAP_HEAD_BYTES
    while start + head.size <= len(view):
        captured = head.unpack_from(view, start)[2]
        stop = start + head.size + captured
        if stop > len(view):
            return
        yield link, view[start + head.size : stop]
        start = stop


def _pcapng(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Link type and bytes of every frame of a pcapng file."""
    start, order, links = 0, "<", list[int]()
    while start + _BLOCK_BYTES <= len(view):
        if bytes(view[start : start + 4]) == MAGICS[-1]:  # reads the same in both orders
            little = Struct("<I").unpack_from(view, start + 8)[0] == _BYTE_ORDER
            order, links = "<" if little else ">", []
        kind, length = Struct(f"{order}II").unpack_from(view, start)
        if length < _BLOCK_BYTES or length % 4 or start + length > len(view):
            return
        body = view[start + 8 : start + length - 4]
        if kind == _INTERFACE and len(body) >= 2:
            links.append(Struct(f"{order}H").unpack_from(body)[0])
        elif kind == _ENHANCED and len(body) >= 20:
            interface, _, _, captured = Struct(f"{order}IIII").unpack_from(body)
            if interface < len(links) and 20 + captured <= len(body):
                yield links[interface], body[20 : 20 + captured]
        elif kind == _SIMPLE and links and len(body) >= 4:
            original = Struct(f"{order}I").unpack_from(body)[0]
            yield links[0], body[4 : 4 + original]
        start += length


def _network(link: int, frame: memoryview) -> tuple[int, memoryview]:
    """EtherType and packet of a frame; type 0 where it is of a kind not read."""
    match link:
        case 1:  # Ethernet
            kind_at, start = 12, 14
        case 113:  # Linux, cooked
            kind_at, start = 14, 16
        case 276:  # Linux, cooked, version 2
            kind_at, start = 0, 20
        case 0 | 12 | 14 | 101 | 108 | 228 | 229:  # loopback and raw IP
            packet = frame[4:] if link in (0, 108) else frame
            version = packet[0] >> 4 if len(packet) else 0
            return {4: _IPV4, 6: _IPV6}.get(version, 0), packet
        case _:
            return 0, frame
    if len(frame) < start:
        return 0, frame
    kind = _SHORT.unpack_from(frame, kind_at)[0]
    while kind in (_VLAN, _QINQ) and len(frame) >= start + 4:
        kind = _SHORT.unpack_from(frame, start + 2)[0]
        start += 4
    return kind, frame[start:]


class _Halves:
    """IPv4 packets cut in fragments, of which some are still to come."""

    def __init__(self) -> None:
        self._pieces: OrderedDict[bytes, dict[int, bytes]] = OrderedDict()
        self._ends: dict[bytes, int] = {}

    def whole(self, packet: memoryview) -> memoryview | bytes | None:
        """The UDP datagram that a packet is, or of which it is the last piece to come."""
        if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _UDP:
            return None
        head, total = 4 * (packet[0] & 15), _SHORT.unpack_from(packet, 2)[0]
        flags = _SHORT.unpack_from(packet, 6)[0]
        offset, more = 8 * (flags & 0x1FFF), bool(flags & 0x2000)
        # A card that cuts datagrams itself leaves the length out.
        body = packet[head : total or len(packet)]
        if len(packet) < total or head < 20:
            return None
        if not (offset or more):
            return body
        key = bytes(packet[4:6]) + bytes(packet[12:20])
        pieces = self._pieces.setdefault(key, {})
        pieces[offset] = bytes(body)
        if not more:
            self._ends[key] = offset + len(body)
        joined = self._joined(key)
        if joined is not None or len(self._pieces) > _HALF_DATAGRAMS:
            done = key if joined is not None else next(iter(self._pieces))
            del self._pieces[done]
            self._ends.pop(done, None)
        return joined

    def _joined(self, key: bytes) -> bytes | None:
        if key not in self._ends:
            return None
        parts, reached = list[bytes](), 0
        for offset, part in sorted(self._pieces[key].items()):
            if offset != reached:
                return None
            parts.append(part)
            reached += len(part)
        return b"".join(parts) if reached == self._ends[key] else None


def _udp_of_ipv6(packet: memoryview) -> memoryview | None:
    """The datagram of an IPv6 packet that has it right behind its header."""
    if len(packet) < 40 or packet[0] >> 4 != 6 or packet[6] != _UDP:
        return None
    length = _SHORT.unpack_from(packet, 4)[0]
    return packet[40 : 40 + length] if 40 + length <= len(packet) else None
