"""The memory spool keeps the contract of spools; its worker counts what it keeps."""

from __future__ import annotations

import pytest

from contracts.acknowledged import AcknowledgedContract
from contracts.spool import Drops, SpoolContract
from daemon.clock import Clock
from daemon.errors import SpoolFullError
from daemon.link.lanes import Lane
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.items import FramePackets
from daemon.onboard.spool import MemorySpool, Spool, SpoolWorker
from fakes.clock import FakeClock


class TestMemorySpool(SpoolContract):
    """`MemorySpool`, by the contract."""

    def make(self, max_bytes: int, clock: Clock, drops: Drops) -> Spool:
        """An empty one."""
        return MemorySpool(max_bytes=max_bytes, clock=clock, on_drop=drops)

    def test_the_end_gives_up_everything_counted(self) -> None:
        """What is left at the end is told under the reason given."""
        drops = Drops()
        spool = self.make(100, FakeClock(), drops)
        spool.append([b"s"], Lane.SIDE)
        spool.append([b"p", b"q"], Lane.PATCH)

        assert spool.end("shutdown") == (3, 0)
        assert sorted(drops.told) == [
            (b"p", Lane.PATCH, "shutdown"),
            (b"q", Lane.PATCH, "shutdown"),
            (b"s", Lane.SIDE, "shutdown"),
        ]
        assert (spool.packets, spool.used_bytes, spool.end("shutdown")) == (0, 0, (0, 0))


class TestMemorySpoolAcknowledged(AcknowledgedContract):
    """`MemorySpool`, where the ground acknowledges."""

    def make(self, max_bytes: int, clock: Clock, drops: Drops) -> Spool:
        """An empty one."""
        return MemorySpool(max_bytes=max_bytes, clock=clock, on_drop=drops, acknowledged=True)


def frame(lane: Lane, *packets: bytes, received_s: float) -> FramePackets:
    """The packets of one frame."""
    return FramePackets(packets=packets, lane=lane, received_s=received_s)


def test_the_worker_counts_frames_and_how_long_they_took() -> None:
    """A frame counts once, however many packets it has; its time runs from the tile's arrival."""
    clock, metrics = FakeClock(), FlightMetrics(new_registry())
    spool = MemorySpool(max_bytes=100, clock=clock, on_drop=Drops())
    worker = SpoolWorker(spool, clock, metrics)
    received_s = clock.monotonic_s()
    clock.advance(0.25)

    assert worker.accept(frame(Lane.SIDE, b"s", received_s=received_s)) == ()
    worker.accept(frame(Lane.PATCH, b"p", b"r", received_s=received_s))

    assert (worker.tick(), worker.finish(), spool.packets) == ((), (), 3)
    totals = metrics.totals()
    assert totals['prismlink_frames_total{channel="side"}'] == 1
    assert totals['prismlink_frames_total{channel="patch"}'] == 1
    assert totals["prismlink_tile_to_spool_seconds_sum"] == 0.5


def test_a_frame_that_is_refused_is_not_counted() -> None:
    """A frame larger than the spool is an error for the stage to count, and no frame spooled."""
    clock, metrics = FakeClock(), FlightMetrics(new_registry())
    worker = SpoolWorker(MemorySpool(max_bytes=1, clock=clock, on_drop=Drops()), clock, metrics)
    with pytest.raises(SpoolFullError):
        worker.accept(frame(Lane.PATCH, b"12", received_s=0.0))

    assert metrics.totals()['prismlink_frames_total{channel="patch"}'] == 0
