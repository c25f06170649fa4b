"""Frames out of sources, each with where its bytes are: a mission's worth is not kept in memory.

Frames of archives and frame files are read where they lie. Those of packets are put together, of
all captures and spools together: what one ground station missed another may have. They go to a file
without a name, which is gone with the process however it ends.

Archives are read while their process goes on. A record half written at the end of a file is the
next reader's; files that are removed meanwhile are passed over.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from codec.errors import BitstreamError, CodecError, TruncatedError
from codec.frame import Frame, SideFrame, parse
from codec.prism_file import places
from daemon.bulk.sources import Source, log_files
from daemon.errors import OutputError, ReassemblyError
from daemon.ground.archive_records import FRAME, HEAD, MAX_PAYLOAD_BYTES
from daemon.link.packet import MAX_PACKET_BYTES, Channel, Packet
from daemon.link.packet_stream import StreamCounts, packets_in
from daemon.link.pcap import MAGICS, datagrams
from daemon.link.reassembly import Reassembler
from daemon.records import HEADER_BYTES, OVERHEAD_BYTES, scan

_MAX_HALF_FRAMES: Final = 1 << 20
_MAX_HALF_BYTES: Final = 1 << 30
"""Frames that lack packets, kept while other captures may have these."""
CRC_BYTES: Final = 4


class Place(NamedTuple):
    """Where a frame's bytes are; an open file by its number."""

    file: Path | int
    start: int
    size: int

    def read(self) -> bytes:
        """Read them.

        Raises:
            OSError: If they cannot be read, or the file has shrunk.
        """
        if isinstance(self.file, int):
            return self._from(self.file)
        file = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self._from(file)
        finally:
            os.close(file)

    def _from(self, file: int) -> bytes:
        raw = os.pread(file, self.size, self.start)
        if len(raw) != self.size:
            raise OSError(None, "it has been cut")
        return raw


class FoundFrame(NamedTuple):
    """A frame of a source.

    Attributes:
        boot_id: Boot of the board that sent it; below zero a frame file, which tells of none.
        frame_id: The board's count of frames; of a frame file the position, side frames first.
        tile_id: Its tile.
        crc: Its last four bytes, which tell it from any other.
        place: Where it is.
        side: What it says, if it is side information.
        at: (row, col) of its patch, if it is one.
    """

    boot_id: int
    frame_id: int
    tile_id: bytes
    crc: bytes
    place: Place
    side: SideFrame | None
    at: tuple[int, int] | None


class FrameReader:
    """Reads sources, one after another; a context manager.

    Args:
        tell: Told every problem in one line. Must not raise.
        unseal: Opens sealed packets; None: they are passed over.
        scratch: Folder of the file without a name.
        on_packet: Told every packet. Must not raise.

    Attributes:
        stream: What was met in captures.
    """

    def __init__(
        self,
        tell: Callable[[str], object],
        *,
        unseal: Callable[[bytes], bytes] | None = None,
        scratch: Path | None = None,
        on_packet: Callable[[Packet], object] = lambda _: None,
    ) -> None:
        self._tell, self._unseal, self._on_packet = tell, unseal, on_packet
        self._scratch, self._file, self._end = scratch, -1, 0
        self._frame_files, self._refused = 0, list[str]()
        self._halves = Reassembler(
            max_frames=_MAX_HALF_FRAMES, max_bytes=_MAX_HALF_BYTES, max_age_s=0.0
        )
        self.stream = StreamCounts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    @property
    def frames_incomplete(self) -> int:
        """Frames of which packets are lacking so far."""
        return self._halves.frames + self._halves.evicted

    def frames(self, source: Source) -> Iterator[FoundFrame]:
        """Find the frames of a source; what is wrong with it costs one line, not the others."""
        self._refused = list[str]()
        try:
            yield from self._reader_of(source)(source)
        except OSError as error:
            path = error.filename or source.path
            self._tell(f"{path}: cannot be read: {error.strerror or error}; remedy: check the path")
        except (CodecError, ValueError) as error:
            self._tell(f"{source.path}: {error}")
        if self._refused:
            count = len(self._refused)
            many = f"{count} frames refused, the first: " if count > 1 else ""
            self._tell(f"{source.path}: {many}{self._refused[0]}")

    def _reader_of(self, source: Source) -> Callable[[Source], Iterator[FoundFrame]]:
        match source.kind:
            case "frame file":
                return self._of_frame_file
            case "archive":
                return self._of_archive
            case "spool":
                return self._of_spool
            case "capture":
                return self._of_capture

    def _parsed(self, raw: bytes) -> Frame | None:
        try:
            return parse(raw)
        except CodecError as error:
            self._refused.append(str(error))
            return None

    def _of_frame_file(self, source: Source) -> Iterator[FoundFrame]:
        """Those before what is wrong, if something is: that is raised behind them."""
        raw, found, wrong = source.path.read_bytes(), list[tuple[Frame, Place, bytes]](), None
        try:
            for start, size in places(raw):
                frame = self._parsed(raw[start : start + size])
                if frame is not None:
                    crc = raw[start + size - CRC_BYTES : start + size]
                    found.append((frame, Place(source.path, start, size), crc))
        except TruncatedError as error:
            wrong = BitstreamError(
                f"cut off after frame {len(found)}: {error}; remedy: copy the whole file"
            )
        except BitstreamError as error:
            wrong = error
        self._frame_files += 1
        found.sort(key=lambda each: not isinstance(each[0], SideFrame))
        for frame_id, (frame, place, crc) in enumerate(found):
            yield _found(-self._frame_files, frame_id, frame, crc, place)
        if wrong is not None:
            raise wrong

    def _of_archive(self, source: Source) -> Iterator[FoundFrame]:
        for path, start, payload in self._records(source, MAX_PAYLOAD_BYTES):
            if len(payload) <= HEAD.size:
                continue
            kind, channel, boot_id, frame_id, _ = HEAD.unpack_from(payload)
            if kind != FRAME or channel not in (Channel.SIDE, Channel.PATCH):
                continue
            raw = payload[HEAD.size :]
            frame = self._parsed(raw)
            if frame is not None:
                place = Place(path, start + HEAD.size, len(raw))
                yield _found(boot_id, frame_id, frame, raw[-CRC_BYTES:], place)

    def _of_spool(self, source: Source) -> Iterator[FoundFrame]:
        for _, _, payload in self._records(source, MAX_PACKET_BYTES):
            for packet in packets_in(payload, self.stream):
                yield from self._whole(packet)

    def _of_capture(self, source: Source) -> Iterator[FoundFrame]:
        before = self.stream.packets
        with source.path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ValueError("it is empty; remedy: leave it out")
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        networked = bytes(view[:4]) in MAGICS
        for message in datagrams(view) if networked else (view,):
            for packet in packets_in(message, self.stream, self._unseal):
                yield from self._whole(packet)
        if self.stream.packets == before:
            raise ValueError(
                "holds no packet of ours; remedy: captures are pcap or pcapng of UDP, or Space "
                "Packets on end; sealed ones take --seal-key"
            )

    def _records(self, source: Source, limit: int) -> Iterator[tuple[Path, int, bytes]]:
        """Every sound record: its file, where its payload begins there, and that."""
        for path in log_files(source):
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # its process has removed it meanwhile
                continue
            except OSError as error:
                self._tell(f"{path}: cannot be read: {error.strerror}; remedy: check the disk")
                continue
            found, end = scan(data, limit=limit), 0
            for _, start, size in found.records:
                begin, end = start + HEADER_BYTES, start + OVERHEAD_BYTES + size
                yield path, begin, data[begin : begin + size]
            if inside := found.skipped_bytes - (len(data) - end):
                self._tell(f"{path}: {inside} bytes in the middle are damaged; the rest was read")

    def _whole(self, packet: Packet) -> Iterator[FoundFrame]:
        """Take a packet; its frame, if nothing of it lacks any more."""
        self._on_packet(packet)
        if packet.channel is Channel.HOUSEKEEPING:
            return
        try:
            raw = self._halves.feed(packet, 0.0)
        except ReassemblyError as error:
            self._refused.append(str(error))
            return
        frame = None if raw is None else self._parsed(raw)
        if raw is not None and frame is not None:
            place = self._put_aside(raw)
            yield _found(packet.boot_id, packet.frame_id, frame, raw[-CRC_BYTES:], place)

    def _put_aside(self, raw: bytes) -> Place:
        try:
            if self._file < 0:
                with tempfile.TemporaryFile(dir=self._scratch) as file:
                    self._file = os.dup(file.fileno())
            written = 0
            while written < len(raw):
                written += os.pwrite(self._file, raw[written:], self._end + written)
        except OSError as error:
            folder = self._scratch or tempfile.gettempdir()
            raise OutputError(folder, f"frames cannot be put aside there: {error}") from None
        place = Place(self._file, self._end, len(raw))
        self._end += len(raw)
        return place


def _found(boot_id: int, frame_id: int, frame: Frame, crc: bytes, place: Place) -> FoundFrame:
    side, at = None, None
    if isinstance(frame, SideFrame):
        side = frame
    else:
        at = frame.patch_row, frame.patch_col
    return FoundFrame(boot_id, frame_id, frame.tile_id, crc, place, side, at)
