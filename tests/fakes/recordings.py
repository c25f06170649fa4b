"""Tiles as they are kept: in frame files, in an archive, in a spool, in captures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from codec import prism_file
from codec.encoder import Encoder
from codec.frame import SideFrame
from codec.tile import Tile
from daemon.disk import LocalDisk
from daemon.ground.archive import ArchiveLimits, FrameArchive
from daemon.ground.items import CollectedFrame
from daemon.ground.metrics import GroundMetrics
from daemon.link.packet import Channel
from daemon.metrics import new_registry
from daemon.onboard.segment_log import SegmentLog
from fakes import cubes
from fakes.bundles import klt_bundle
from fakes.captures import ethernet, ipv4, packets_of, pcap, udp
from fakes.clock import FakeClock

PATCHES = 3
DAY_S = 86_400.0
START_S = 1_777_593_600.0
"""2026-05-01, when the first tile's first line was seen; a day lies between any two."""


@cache
def tile(number: int) -> Tile:
    """A tile of three patches."""
    return cubes.tile(
        bands=3, rows=128 * PATCHES - 100, cols=9, seed=number, sequence=number,
        scene=f"scene-{number}", start_utc_s=START_S + number * DAY_S,
        wavelengths_nm=(470.0, 550.0, 640.0),
    )  # fmt: skip


@cache
def frames(number: int, step: float | None = None) -> tuple[bytes, ...]:
    """Its frames, side information first."""
    return tuple(Encoder(klt_bundle(), step=step, backend="torch").encode(tile(number)))


def frame_file(path: Path, *numbers: int) -> Path:
    """Tiles in a frame file."""
    path.write_bytes(prism_file.pack([raw for number in numbers for raw in frames(number)]))
    return path


def archive(folder: Path, *sent: Sequence[bytes], boot_id: int = 7) -> FrameArchive:
    """An archive that holds the frames of tiles; it is open, as that of a ground that runs."""
    limits = ArchiveLimits(
        max_bytes=1 << 30, segment_bytes=1 << 10, sync_frames=1, sync_s=0.0, retry_s=1.0
    )
    kept = FrameArchive(folder, limits, FakeClock(), metrics=GroundMetrics(new_registry()))
    add(kept, *sent, boot_id=boot_id)
    return kept


def add(kept: FrameArchive, *sent: Sequence[bytes], boot_id: int = 7, first: int = 0) -> None:
    """More frames of tiles come."""
    frame_id = first
    for tile_frames in sent:
        for raw in tile_frames:
            channel = Channel.SIDE if raw[1] == SideFrame.KIND else Channel.PATCH
            kept.append(
                CollectedFrame(raw=raw, channel=channel, boot_id=boot_id, frame_id=frame_id)
            )
            frame_id += 1
    kept.sync()


def spool(folder: Path, packets: Sequence[bytes]) -> Path:
    """Packets that wait on a board."""
    log = SegmentLog(folder / "patch", LocalDisk(), segment_bytes=1 << 12, now_s=0.0)
    log.append(packets, 0.0)
    log.sync_files()
    log.note_synced()
    log.close()
    return folder


def network_capture(path: Path, packets: Sequence[bytes]) -> Path:
    """Packets in a capture of UDP, each in a datagram."""
    path.write_bytes(pcap([ethernet(ipv4(udp(raw))) for raw in packets]))
    return path


def raw_capture(path: Path, packets: Sequence[bytes]) -> Path:
    """Packets on end."""
    path.write_bytes(b"".join(packets))
    return path


def packets(*numbers: int, repair: int = 0) -> list[bytes]:
    """What a board sends of tiles, in a boot that is named by the first."""
    sent = [raw for number in numbers for raw in frames(number)]
    return packets_of(sent, boot_id=100 + numbers[0], mtu_bytes=128, repair=repair)
