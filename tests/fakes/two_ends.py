"""A board, a ground and the links between them, in simulated time: all parts are the real ones.

Only sockets, threads and the disk are not there. Either end can begin anew at any time, with what
it would find on its disk.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.spool import Drops
from daemon.errors import LinkError, PacketError
from daemon.link.beacon import Beacon
from daemon.link.commands import Command, Report
from daemon.link.fec import RepairPolicy
from daemon.link.lanes import Level, lane_of
from daemon.link.packet import Channel, FrameKey, Packet
from daemon.link.passes import ContactPlan, Pass
from daemon.link.reassembly import Reassembler
from daemon.link.reports import Reporter, ReportTimes
from daemon.link.segment import Segmenter
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.disk_spool import DiskSpool, DiskSpoolLimits
from daemon.onboard.downlink import Beacons, Downlink
from fakes.link import FakeLink, LinkFaults
from fakes.memory_disk import MemoryDisk

MTU_BYTES = 1024
UPLINK_BYTES = 256
APID = 100


class SimulatedClock:
    """Time that passes when somebody waits for it, and no sooner."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        """The moment [s]."""
        return self.now_s

    def utc_s(self) -> float:
        """The same."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let it pass."""
        self.now_s += max(seconds, 1e-4)

    def wait(self, condition: threading.Condition, until_s: float | None) -> None:
        """Let it pass; nobody else is there to notify."""
        del condition
        if until_s is None:
            raise RuntimeError("nobody would ever notify")
        self.now_s = max(self.now_s, until_s)


class TwoEnds:
    """Both ends and the links between them.

    Attributes:
        clock: Of both.
        made: Every frame spooled, by its key.
        got: Every frame the ground has for good; one that comes twice is an error.
        evicted: Packets the board gave up.
        keeps: Whether the ground's archive takes frames.
    """

    def __init__(
        self,
        seed: int,
        *,
        passes: Sequence[Pass],
        down: LinkFaults,
        up: LinkFaults,
        repair: RepairPolicy = RepairPolicy(),  # noqa: B008
        max_bytes: int = 1 << 30,
        uplink_bytes: int = UPLINK_BYTES,
    ) -> None:
        self.rng, self.clock, self.disk = random.Random(seed), SimulatedClock(), MemoryDisk()
        self._uplink_bytes, self.keeps = uplink_bytes, True
        self._plan, self._repair, self._max_bytes = ContactPlan(passes), repair, max_bytes
        self.down, self.up = FakeLink(down, seed), FakeLink(up, seed + 1)
        self.made: dict[FrameKey, bytes] = {}
        self.got: dict[FrameKey, bytes] = {}
        self.evicted, self.metrics = Drops(), FlightMetrics(new_registry())
        self.repeated_whole = 0
        self.reassembler = self._new_reassembler()
        self.restart_board()
        self.restart_ground()

    # ---- the board -----------------------------------------------------------------------------

    def restart_board(self) -> None:
        """Begin anew with the disk alone."""
        self.boot_id = self.rng.getrandbits(32)
        self._next = self.boot_id, 0
        self.segmenter = Segmenter(
            boot_id=self.boot_id,
            apid=APID,
            mtu_bytes=MTU_BYTES,
            repair=dict.fromkeys((Channel.SIDE, Channel.PATCH), self._repair),
        )
        self.spool = DiskSpool(
            Path("/spool"),
            limits=DiskSpoolLimits(
                max_bytes=self._max_bytes,
                max_memory_bytes=1 << 20,
                segment_bytes=64 << 10,
                sync_packets=1,
                sync_s=1.0,
                retry_s=1.0,
            ),
            clock=self.clock,
            on_drop=self.evicted,
            acknowledged=True,
            disk=self.disk,
        )
        self.downlink = Downlink(
            self.spool,
            self,
            self._plan,
            packet_bits=8 * MTU_BYTES,
            clock=self.clock,
            metrics=self.metrics,
            beacons=Beacons(boot_id=self.boot_id, apid=APID + 1, every_s=1.0, clock=self.clock),
        )

    def next_frame_as(self, key: FrameKey) -> None:
        """Say what the next frame will be called, where that does not follow from the last."""
        self._next = key

    def spool_frame(self, channel: Channel, size_bytes: int) -> None:
        """Make a frame, and spool it."""
        raw = self.rng.randbytes(size_bytes)
        self.made[self._next] = raw
        self._next = self._next[0], self._next[1] + 1
        self.spool.append(
            self.segmenter.packets(raw, channel, self.clock.utc_s()), lane_of(channel, Level.NORMAL)
        )

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """The downlink's door to the link."""
        assert timeout_s > 0
        assert len(raw) <= MTU_BYTES
        self.down.put(raw, self.clock.now_s)
        return True

    # ---- the ground ----------------------------------------------------------------------------

    def restart_ground(self) -> None:
        """Begin anew with the frames that are there for good, and what came of others."""
        before, self.reassembler = self.reassembler, self._new_reassembler()
        for first, _ in before.incomplete(self.clock.now_s):
            for packet in before.packets((first.boot_id, first.frame_id)):
                self.reassembler.feed(packet, self.clock.now_s)
        self.reporter = Reporter(
            session=self.rng.getrandbits(32),
            apid=APID,
            mtu_bytes=self._uplink_bytes,
            lacks=self.reassembler.lacks,
            give_up=self.reassembler.give_up,
            begin_anew=self.reassembler.forget,
            times=ReportTimes(),
        )
        self.reporter.durable(self.got)
        self._waiting = dict[FrameKey, bytes]()

    @staticmethod
    def _new_reassembler() -> Reassembler:
        return Reassembler(max_frames=10_000, max_bytes=1 << 26, max_age_s=1e9)

    def receive(self, raw: bytes, now_s: float) -> None:
        """Take a packet off the link."""
        try:
            packet = Packet.unpack(raw)
        except PacketError:
            return
        self.reporter.heard(now_s)
        if packet.channel is Channel.HOUSEKEEPING:
            self.reporter.beacon(packet.boot_id, Beacon.unpack(packet.data), now_s)
            return
        key = packet.boot_id, packet.frame_id
        self.repeated_whole += key in self.got
        try:
            frame = self.reassembler.feed(packet, now_s)
        except LinkError:
            return
        if frame is not None:
            self.reporter.whole(key)
            self._waiting[key] = frame

    def make_durable(self) -> None:
        """What an archive does every so often, or cannot."""
        for key in self._waiting if not self.keeps else ():
            self.reassembler.forget(*key)
            self.reporter.forgotten(key)
        if self.keeps:
            self.got |= self._waiting
            self.reporter.durable(self._waiting)
        self._waiting.clear()

    # ---- both ----------------------------------------------------------------------------------

    def run(self, until_s: float, each: Callable[[], object] = lambda: None) -> None:
        """Let time pass, and everybody do what is due."""
        while self.clock.now_s < until_s:
            self.downlink.poll()
            self.spool.tick()
            now_s = self.clock.now_s
            for at_s, raw in self.down.get(now_s):
                self.receive(raw, at_s)
            self.make_durable()
            for raw in self.reporter.due(now_s):
                assert len(raw) <= self._uplink_bytes
                self.up.put(raw, now_s)
            for _, raw in self.up.get(now_s):
                self.hear(raw)
            each()

    def hear(self, raw: bytes) -> None:
        """The board takes a command."""
        try:
            command = Command.unpack(raw)
            report = Report.unpack(command.body)
        except PacketError:
            return
        self.spool.hear(command.session, command.number, report)

    @property
    def is_done(self) -> bool:
        """Whether the board has nothing left to send, or to wait for."""
        return not self.spool.packets and not self.spool.kept_frames
