"""The seal between board and ground: nothing twice, nothing foreign, whatever the disk does."""

from __future__ import annotations

import errno
from itertools import count
from pathlib import Path

import pytest

from daemon.errors import ConfigError, ReplayError
from daemon.link.packet import Channel
from daemon.link.seal import DOWNLINK_SPI, OPERATOR_SPI, UPLINK_SPI, Sealer, derived_key
from daemon.link.segment import Segmenter
from daemon.reserved_counter import BLOCK
from daemon.sealed_link import RETRY_S, SealedOpener, SealedSender, heard_beside
from fakes.clock import FakeClock
from fakes.disk import FailingDisk

KEY = bytes(range(32))
RAW = Segmenter(boot_id=1, apid=2, mtu_bytes=128, repair={}).packets(b"x", Channel.PATCH, 0.0)[0]
WAIT_S = 0.125


class Rig:
    """A sender and an opener that meet."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.disk, self.up = FakeClock(), FailingDisk(), True
        self.disk.error = errno.EIO
        self.took, self.degraded = list[bytes](), list[float]()
        self.sender = SealedSender(
            self, KEY, folder / "state", spi=DOWNLINK_SPI, clock=self.clock,
            degraded=self.degraded.append, disk=self.disk,
        )  # fmt: skip
        self.opener = SealedOpener(
            KEY, heard_beside(folder / "state"), spis=(DOWNLINK_SPI,), clock=self.clock,
            degraded=self.degraded.append, disk=self.disk,
        )  # fmt: skip

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Take it, if up."""
        assert timeout_s == WAIT_S
        if self.up:
            self.took.append(raw)
        return self.up

    def use_up(self) -> None:
        """Have the next packet ask for a new block."""
        self.sender._counter._next = self.sender._counter._ceiling


def test_what_is_sent_comes_out(tmp_path: Path) -> None:
    """The same packet twice is two different ones on the link, and both are opened."""
    rig = Rig(tmp_path)
    assert all(rig.sender.send(RAW, WAIT_S) for _ in range(2))

    assert rig.took[0] != rig.took[1]
    assert [rig.opener.open(raw) for raw in rig.took] == [RAW, RAW]
    assert {path.name for path in tmp_path.iterdir()} == {"state", "state.heard"}
    assert rig.degraded == []


def test_a_link_that_is_down_is_told(tmp_path: Path) -> None:
    """The packet stays with the caller; sealed anew it has another counter."""
    rig = Rig(tmp_path)
    rig.up = False
    assert not rig.sender.send(RAW, WAIT_S)
    rig.up = True
    assert rig.sender.send(RAW, WAIT_S)
    assert rig.opener.open(rig.took[0]) == RAW


@pytest.mark.parametrize("call", ["write", "sync"])
def test_without_a_counter_nothing_is_sent(
    tmp_path: Path, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One error, tried again now and then and not at each packet; then all goes on."""
    rig = Rig(tmp_path)
    rig.use_up()
    rig.disk.fails = {call}
    for _ in range(20):
        assert not rig.sender.send(RAW, WAIT_S)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert (rig.took, set(rig.degraded)) == ([], {1})
    assert rig.clock.slept_s == [WAIT_S] * 19

    rig.disk.fails = set()
    assert not rig.sender.send(RAW, WAIT_S)
    rig.clock.advance(RETRY_S)
    assert rig.sender.send(RAW, WAIT_S)
    assert rig.opener.open(rig.took[0]) == RAW
    assert rig.degraded[-1] == 0


def test_replays_are_refused_after_a_restart(tmp_path: Path) -> None:
    """Of either end: what was opened is not opened again, and new packets are not old ones."""
    first = Rig(tmp_path)
    for _ in range(3):
        first.sender.send(RAW, WAIT_S)
        first.opener.open(first.took[-1])
    second = Rig(tmp_path)
    for old in first.took:
        with pytest.raises(ReplayError):
            second.opener.open(old)
    second.sender.send(RAW, WAIT_S)
    assert second.opener.open(second.took[0]) == RAW


def test_a_ground_whose_disk_fails_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Packets are opened, replays refused by this process; it is told once, and once when over."""
    rig = Rig(tmp_path)
    for _ in range(5):
        rig.sender.send(RAW, WAIT_S)
    rig.disk.fails = {"write"}
    assert [rig.opener.open(raw) for raw in rig.took[:4]] == [RAW] * 4
    with pytest.raises(ReplayError):
        rig.opener.open(rig.took[0])
    assert rig.degraded == [1.0]
    rig.disk.fails = set()
    rig.opener.open(rig.took[4])
    assert rig.degraded == [1.0, 0.0]
    assert [record.levelname for record in caplog.records] == ["ERROR"]

    with pytest.raises(ReplayError):
        Rig(tmp_path).opener.open(rig.took[4])


def test_a_command_is_not_forgotten_when_the_power_fails(tmp_path: Path) -> None:
    """What an operator sealed is on the disk before it is obeyed; reports wait for others."""
    disk, clock = FailingDisk(), FakeClock()
    opener = SealedOpener(
        KEY, tmp_path / "heard", spis=(UPLINK_SPI, OPERATOR_SPI), clock=clock,
        degraded=lambda _: None, disk=disk,
    )  # fmt: skip
    synced = list[int]()
    for spi in (UPLINK_SPI, OPERATOR_SPI, OPERATOR_SPI, UPLINK_SPI):
        source = count(len(synced) + 1)
        sealer = Sealer(derived_key(KEY, spi), spi, source.__next__, salt=bytes(4))
        assert opener.open(sealer.seal(RAW)) == RAW
        synced.append(disk.synced)
    assert [number - synced[0] for number in synced] == [0, 1, 2, 2]


def test_two_boards_do_not_share_a_file(tmp_path: Path) -> None:
    """The second one does not start."""
    clock = FakeClock()
    first = SealedSender(
        Rig(tmp_path / "other"), KEY, tmp_path / "state", spi=1, clock=clock, degraded=print
    )
    with pytest.raises(ConfigError, match="another process's"):
        SealedSender(
            Rig(tmp_path / "third"), KEY, tmp_path / "state", spi=1, clock=clock, degraded=print
        )
    first.close()


def test_blocks_are_long_enough() -> None:
    """At 10,000 packets a second a sync every six seconds is nothing beside the spool's."""
    assert BLOCK / 10_000 > 5
