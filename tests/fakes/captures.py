"""Recordings of the link: Space Packets in datagrams, as network captures hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import pack

from codec.frame import SideFrame
from daemon.link.fec import RepairPolicy
from daemon.link.packet import Channel
from daemon.link.segment import Segmenter

IPV4, IPV6 = 0x0800, 0x86DD


def packets_of(
    frames: Iterable[bytes], *, boot_id: int = 7, mtu_bytes: int = 256, repair: int = 0
) -> list[bytes]:
    """What a board sends of these frames, side frames on their channel."""
    policy = RepairPolicy(minimum=repair)
    segmenter = Segmenter(
        boot_id=boot_id, apid=100, mtu_bytes=mtu_bytes,
        repair={Channel.SIDE: policy, Channel.PATCH: policy} if repair else {},
    )  # fmt: skip
    found = list[bytes]()
    for raw in frames:
        side = raw[1:2] == bytes([SideFrame.KIND])
        found += segmenter.packets(raw, Channel.SIDE if side else Channel.PATCH, 1.7e9)
    return found


def udp(payload: bytes) -> bytes:
    """A datagram."""
    return pack(">HHHH", 4000, 5000, 8 + len(payload), 0) + payload


def ipv4(body: bytes, *, offset: int = 0, more: bool = False, ident: int = 1) -> bytes:
    """An IPv4 packet, or a fragment of one."""
    head = pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), ident, more << 13 | offset // 8, 64, 17, 0,
        bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]),
    )  # fmt: skip
    return head + body


def ipv6(body: bytes) -> bytes:
    """An IPv6 packet."""
    return pack(">IHBB16s16s", 6 << 28, len(body), 17, 64, bytes(16), bytes(16)) + body


def ethernet(packet: bytes, kind: int = IPV4, *, vlan: bool = False) -> bytes:
    """A frame, padded to the shortest there is."""
    tag = pack(">HH", 0x8100, 5) if vlan else b""
    return (bytes(12) + tag + pack(">H", kind) + packet).ljust(60, b"\0")


def pcap(frames: Sequence[bytes], *, link: int = 1, order: str = "<", nano: bool = False) -> bytes:
    """A pcap file."""
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    head = pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    return head + b"".join(
        pack(f"{order}IIII", 1, 2, len(frame), len(frame)) + frame for frame in frames
    )


def pcapng(frames: Sequence[bytes], *, link: int = 1, order: str = "<") -> bytes:
    """A pcapng file: a section, an interface, a block nobody knows, and a block for each frame."""

    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        length = pack(f"{order}I", 12 + len(body))
        return pack(f"{order}I", kind) + length + body + length

    section = block(0x0A0D0D0A, pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, pack(f"{order}HHI", link, 0, 65535))
    return (
        section
        + interface
        + block(0xBAD, b"?")
        + b"".join(
            block(6, pack(f"{order}IIIII", 0, 0, 0, len(frame), len(frame)) + frame)
            for frame in frames
        )
    )
