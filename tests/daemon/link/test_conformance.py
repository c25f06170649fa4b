"""Our packets as strangers read them: spacepackets, ccsdspy and space_packet_parser."""

from __future__ import annotations

import io
import logging
import random
from itertools import count

import ccsdspy  # type: ignore[import-untyped]
import ccsdspy.utils  # type: ignore[import-untyped]
import pytest
import space_packet_parser  # type: ignore[import-untyped]
from spacepackets.ccsds.spacepacket import (  # type: ignore[import-untyped]
    PacketType,
    SpacePacketHeader,
    parse_space_packets,
)

from daemon.link.commands import Command, Kind, Report, Wanted
from daemon.link.fec import RepairPolicy
from daemon.link.packet import OVERHEAD_BYTES, Channel, Packet
from daemon.link.quality_note import QualityNote
from daemon.link.seal import OVERHEAD_BYTES as SEAL_BYTES
from daemon.link.seal import Sealer
from daemon.link.segment import Segmenter

APID = 0x123
SIDE, PATCH = random.Random(1).randbytes(700), random.Random(2).randbytes(3000)
SECONDARY_BYTES, CRC_BYTES = 32, 4


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """Two frames in packets of at most 256 bytes, repair symbols for the first."""
    segmenter = Segmenter(
        boot_id=0xB007B007, apid=APID, mtu_bytes=256,
        repair={Channel.SIDE: RepairPolicy(ratio=0.3, minimum=1)},
    )  # fmt: skip
    return [
        *segmenter.packets(SIDE, Channel.SIDE, 1_700_000_000.25),
        *segmenter.packets(PATCH, Channel.PATCH, 1_700_000_001.0),
    ]


def test_spacepackets_reads_the_primary_header(packets: list[bytes]) -> None:
    """Type, APID, flags, count and length are where the standard has them."""
    for raw in packets:
        ours, header = Packet.unpack(raw), SpacePacketHeader.unpack(raw)

        assert header.ccsds_version == 0
        assert (header.packet_type, header.sec_header_flag) == (PacketType.TM, True)
        assert (header.apid, header.seq_count) == (APID, ours.counter)
        assert header.packet_len == len(raw)
        assert bytes(header.pack()) == raw[:6]


def test_spacepackets_finds_every_packet_in_a_stream(packets: list[bytes]) -> None:
    """Packets laid end to end come apart again, with nothing between them."""
    result = parse_space_packets(
        b"".join(packets), [SpacePacketHeader.unpack(packets[0]).packet_id]
    )

    assert [bytes(packet) for packet in result.tm_list] == packets
    assert result.skipped_ranges == []


def test_ccsdspy_finds_no_fault(packets: list[bytes]) -> None:
    """Its validation, of counts, lengths and APIDs, has nothing to say."""
    stream = io.BytesIO(b"".join(packets))

    complaints = ccsdspy.utils.validate(stream, valid_apids=[APID])

    assert [record for record in complaints if record.levelno >= logging.WARNING] == []


def test_ccsdspy_decodes_every_field(packets: list[bytes]) -> None:
    """A stranger's definition of docs/wire-format.md gives the values we gave."""
    fields = [
        ("time_s", 32), ("time_fraction", 16), ("version", 8), ("channel", 8), ("boot_id", 32),
        ("counter", 64), ("frame_id", 32), ("segment_index", 16), ("segment_count", 16),
        ("frame_bytes", 32),
    ]  # fmt: skip
    definition = ccsdspy.VariableLength(
        [
            *(ccsdspy.PacketField(name=name, data_type="uint", bit_length=b) for name, b in fields),
            ccsdspy.PacketArray(
                name="data", data_type="uint", bit_length=8, array_shape="expand"
            ),
            ccsdspy.PacketField(name="crc", data_type="uint", bit_length=32),
        ]
    )  # fmt: skip

    table = definition.load(io.BytesIO(b"".join(packets)), include_primary_header=True)

    read = [Packet.unpack(raw) for raw in packets]
    for name in ("channel", "boot_id", "counter", "frame_id", "segment_index", "segment_count"):
        assert table[name].tolist() == [getattr(packet, name) for packet in read], name
    assert table["frame_bytes"].tolist() == [packet.frame_bytes for packet in read]
    assert set(table["version"].tolist()) == {1}
    ticks = table["time_s"].astype(object) * 65_536 + table["time_fraction"]
    assert ticks.tolist() == [packet.time_ticks for packet in read]
    assert [bytes(data.astype("u1")) for data in table["data"]] == [packet.data for packet in read]
    assert table["crc"].tolist() == [int.from_bytes(raw[-4:], "big") for raw in packets]
    assert table["CCSDS_SEQUENCE_COUNT"].tolist() == [packet.counter for packet in read]


def test_space_packet_parser_joins_the_segments(packets: list[bytes]) -> None:
    """By the sequence flags alone it puts each frame together; repair symbols stand alone."""
    joined = space_packet_parser.ccsds_generator(
        b"".join(packets),
        combine_segmented_packets=True,
        secondary_header_bytes=SECONDARY_BYTES,
    )

    users = [packet.user_data[SECONDARY_BYTES:] for packet in joined]

    repairs = [packet for raw in packets if (packet := Packet.unpack(raw)).is_repair]
    assert len(users) == 2 + len(repairs) == 4 + 1
    # It knows nothing of our CRCs, which end every segment.
    for user, frame, mtu_bytes in ((users[0], SIDE, 256), (users[-1], PATCH, 256)):
        count = -(-len(frame) // ((mtu_bytes - OVERHEAD_BYTES) // 8 * 8))
        assert len(user) == len(frame) + count * CRC_BYTES
        size = Packet.unpack(packets[0 if frame is SIDE else -1]).symbol_bytes
        stride = size + CRC_BYTES
        pieces = [user[at : at + stride][:-CRC_BYTES] for at in range(0, len(user), stride)]
        assert b"".join(pieces) == frame


def test_the_count_wraps_as_the_standard_has_it() -> None:
    """After 16,383 comes 0, for strangers; our own counter goes on."""
    segmenter = Segmenter(boot_id=1, apid=APID, mtu_bytes=64, repair={})
    packets = segmenter.packets(bytes(8192 * 16), Channel.PATCH, 0.0)
    packets += segmenter.packets(bytes(8192 * 16), Channel.PATCH, 0.0)
    packets += segmenter.packets(b"x", Channel.PATCH, 0.0)

    counts = [SpacePacketHeader.unpack(raw).seq_count for raw in packets[-2:]]

    assert counts == [16_383, 0]
    assert [Packet.unpack(raw).counter for raw in packets[-2:]] == [16_383, 16_384]


@pytest.fixture(scope="module")
def sealed(packets: list[bytes]) -> list[bytes]:
    """The same, sealed."""
    source = count(0x0102030405060708)
    sealer = Sealer(bytes(32), 1, lambda: next(source), salt=b"salt")
    return [sealer.seal(raw) for raw in packets]


def test_spacepackets_reads_sealed_packets(packets: list[bytes], sealed: list[bytes]) -> None:
    """Type, APID and sequence are the packet's own; it has no secondary header any more."""
    for raw, plain in zip(sealed, packets, strict=True):
        header, before = SpacePacketHeader.unpack(raw), SpacePacketHeader.unpack(plain)

        assert header.ccsds_version == 0
        assert (header.packet_type, header.sec_header_flag) == (PacketType.TM, False)
        assert (header.apid, header.seq_count) == (before.apid, before.seq_count)
        assert header.seq_flags == before.seq_flags
        assert header.packet_len == len(raw) == len(plain) + SEAL_BYTES
    result = parse_space_packets(b"".join(sealed), [SpacePacketHeader.unpack(sealed[0]).packet_id])
    assert [bytes(packet) for packet in result.tm_list] == sealed


def test_ccsdspy_reads_sealed_packets(sealed: list[bytes]) -> None:
    """Without a complaint, and by a stranger's definition of the security header."""
    stream = io.BytesIO(b"".join(sealed))
    complaints = ccsdspy.utils.validate(stream, valid_apids=[APID])
    assert [record for record in complaints if record.levelno >= logging.WARNING] == []

    fields = [("spi", 16), ("salt", 32), ("counter", 64)]
    definition = ccsdspy.VariableLength(
        [
            *(ccsdspy.PacketField(name=name, data_type="uint", bit_length=b) for name, b in fields),
            ccsdspy.PacketArray(
                name="ciphertext", data_type="uint", bit_length=8, array_shape="expand"
            ),
            ccsdspy.PacketField(name="mac_high", data_type="uint", bit_length=64),
            ccsdspy.PacketField(name="mac_low", data_type="uint", bit_length=64),
        ]
    )  # fmt: skip
    table = definition.load(io.BytesIO(b"".join(sealed)))
    assert set(table["spi"].tolist()) == {1}
    assert set(table["salt"].tolist()) == {int.from_bytes(b"salt", "big")}
    assert table["counter"].tolist() == [0x0102030405060708 + i for i in range(len(sealed))]
    assert table["mac_low"].tolist() == [int.from_bytes(raw[-8:], "big") for raw in sealed]


def test_space_packet_parser_reads_sealed_packets(sealed: list[bytes]) -> None:
    """Packet by packet; what is inside it cannot know."""
    users = [packet.user_data for packet in space_packet_parser.ccsds_generator(b"".join(sealed))]
    assert users == [raw[6:] for raw in sealed]


def test_strangers_read_commands() -> None:
    """Telecommands with a secondary header, by their counts and lengths without a fault."""
    raw = [
        Command(apid=APID, kind=Kind.REPORT, session=7, number=n, body=report(n)).pack()
        for n in range(1, 20)
    ]
    for number, one in enumerate(raw, start=1):
        header = SpacePacketHeader.unpack(one)
        assert (header.packet_type, header.sec_header_flag) == (PacketType.TC, True)
        assert (header.apid, header.seq_count, header.packet_len) == (APID, number, len(one))
    complaints = ccsdspy.utils.validate(io.BytesIO(b"".join(raw)), valid_apids=[APID])
    assert [record for record in complaints if record.levelno >= logging.WARNING] == []
    users = [packet.user_data for packet in space_packet_parser.ccsds_generator(b"".join(raw))]
    assert users == [one[6:] for one in raw]


def test_strangers_read_notes_of_quality() -> None:
    """Unsegmented packets of the housekeeping APID, by their counts and lengths without a fault."""
    notes = [
        QualityNote(tile_id=bytes(8), row=n, col=0, psnr_db=40.0, max_abs_error=2.0).pack()
        for n in range(300)
    ]
    segmenter = Segmenter(boot_id=7, apid=APID, mtu_bytes=256, repair={})
    raw = [p for note in notes for p in segmenter.packets(note, Channel.HOUSEKEEPING, 0.0)]
    for number, one in enumerate(raw):
        header = SpacePacketHeader.unpack(one)
        assert (header.packet_type, header.sec_header_flag) == (PacketType.TM, True)
        assert (header.apid, header.seq_count, header.packet_len) == (APID, number, len(one))
    complaints = ccsdspy.utils.validate(io.BytesIO(b"".join(raw)), valid_apids=[APID])
    assert [record for record in complaints if record.levelno >= logging.WARNING] == []
    users = [packet.user_data for packet in space_packet_parser.ccsds_generator(b"".join(raw))]
    assert [user[SECONDARY_BYTES:-CRC_BYTES] for user in users] == notes


def report(number: int) -> bytes:
    """A report's body, of another length each."""
    wanted = tuple(Wanted(frame_id=i) for i in range(number))
    return Report(loss=0.1, boot_id=1, below=0, wanted=wanted).pack()
