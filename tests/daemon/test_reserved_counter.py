"""Counters that outlive their process: one gives no number twice, one forgets no number heard."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.errors import ConfigError
from daemon.records import CURSOR_BYTES, CURSORS_BYTES, packed_cursor
from daemon.reserved_counter import BLOCK, SYNC_S, HighestHeard, ReservedCounter
from fakes.clock import FakeClock
from fakes.disk import FailingDisk

GREATEST = 2**64 - 1


def test_numbers_rise_by_one_and_begin_above_0(tmp_path: Path) -> None:
    """Over the bounds of blocks as well; one sync for each block."""
    disk = FailingDisk()
    counter = ReservedCounter(tmp_path / "state", disk=disk)
    synced = disk.synced
    first = counter.next()

    assert first > 0
    assert [counter.next() for _ in range(2 * BLOCK)] == list(
        range(first + 1, first + 2 * BLOCK + 1)
    )
    assert disk.synced == synced + 3


CHILD = """
import sys
from pathlib import Path
from daemon.reserved_counter import BLOCK, ReservedCounter
counter = ReservedCounter(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    counter.next()
while True:
    print(counter.next(), flush=True)
"""


def test_a_killed_process_gave_nothing_that_the_next_gives(tmp_path: Path) -> None:
    """Killed with -9 between uses, at the beginning of a block, within one and over its end."""
    given: list[int] = []
    for skipped in (0, 1000, BLOCK - 3, 2 * BLOCK - 10):
        run = [sys.executable, "-c", CHILD, str(tmp_path / "state"), str(skipped)]
        with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            given += [int(child.stdout.readline()) for _ in range(20)]
            child.send_signal(signal.SIGKILL)
            given += [int(line) for line in child.stdout if line.endswith("\n")]

    assert len(set(given)) == len(given) >= 80
    assert given == sorted(given)


def lifetimes(
    tmp_path: Path, seed: int, damage: bool
) -> tuple[list[range], list[ReservedCounter | ConfigError]]:
    """Live many short lives, each ended by a loss of power; return what each gave."""
    source, path, given = random.Random(seed), tmp_path / f"state{seed}", list[range]()
    ends: list[ReservedCounter | ConfigError] = []
    for _ in range(12):
        disk = FailingDisk()
        if path.exists():
            disk._durable[path] = path.read_bytes()
        try:
            counter = ReservedCounter(path, disk=disk)
        except ConfigError as error:
            ends.append(error)
            break
        ends.append(counter)
        if count := source.choice([0, 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5]):
            first = counter.next()
            # Not one by one: the test is about the file.
            for _ in range((count - 1) // BLOCK):
                counter._next = counter._ceiling
                counter.next()
            given.append(range(first, counter._next))
        if source.random() < 0.5:
            disk.fails.add(source.choice(["write", "sync"]))
            counter._next = counter._ceiling
            with pytest.raises(OSError, match="space"):
                counter.next()
        disk.lose_power()
        if damage and source.random() < 0.3:  # one place rots, whichever
            raw = bytearray(path.read_bytes())
            raw[source.randrange(len(raw))] ^= 0xFF
            path.write_bytes(raw)
    return given, ends


@pytest.mark.parametrize("damage", [False, True], ids=["sound", "rotting"])
def test_power_is_lost_again_and_again(tmp_path: Path, damage: bool) -> None:
    """Torn, unsynced or rotten: what two lives gave never overlaps; two rotten places end it."""
    for seed in range(100):
        given, ends = lifetimes(tmp_path, seed, damage)
        for before, after in pairwise(given):
            assert before.stop <= after.start, seed
        assert damage or not any(isinstance(end, ConfigError) for end in ends)


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_disk_that_fails_gives_no_number(tmp_path: Path, call: str) -> None:
    """Not one; once it works again the numbers go on."""
    disk = FailingDisk()
    counter = ReservedCounter(tmp_path / "state", disk=disk)
    disk.fails = {call}
    for _ in range(3):
        with pytest.raises(OSError, match="space"):
            counter.next()
    disk.fails = set()
    assert counter.next() + 1 == counter.next()


@pytest.mark.parametrize("call", ["create", "write", "sync", "read"])
def test_a_disk_that_fails_at_the_start_is_named(tmp_path: Path, call: str) -> None:
    """The file, and what the system said."""
    disk = FailingDisk()
    disk.fails = {call}
    with pytest.raises(ConfigError, match="state: cannot keep the seal's counters: No space"):
        ReservedCounter(tmp_path / "state", disk=disk)
    assert disk.open_files == {}


def test_the_last_number(tmp_path: Path) -> None:
    """2⁶⁴ − 1 is given, and after it none: no counter begins anew."""
    last = 2**64 // BLOCK
    raw = b"".join(packed_cursor(n) for n in (last - 2, last - 1))
    (tmp_path / "state").write_bytes(raw)
    counter = ReservedCounter(tmp_path / "state")
    assert counter.next() == GREATEST - BLOCK + 1
    counter._next = GREATEST
    assert counter.next() == GREATEST
    for _ in range(2):
        with pytest.raises(OSError, match="every number is given"):
            counter.next()
    counter.close()
    counter = ReservedCounter(tmp_path / "state")
    with pytest.raises(OSError, match="every number is given"):
        counter.next()
    counter.close()


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    """Where neither place is sound, any number may have been given."""
    path = tmp_path / "state"
    path.write_bytes(bytes(CURSORS_BYTES))
    with pytest.raises(ConfigError, match="is damaged; new keys"):
        ReservedCounter(path)


def test_a_file_is_one_process_s(tmp_path: Path) -> None:
    """Two that share it would give the same numbers."""
    for kind in (ReservedCounter, lambda path: HighestHeard(path, clock=FakeClock())):
        first = kind(tmp_path / "state")
        with pytest.raises(ConfigError, match="is another process's"):
            kind(tmp_path / "state")
        first.close()
        kind(tmp_path / "state").close()


# ---------------------------------------------------------------- what was heard


def test_what_was_heard_is_remembered(tmp_path: Path) -> None:
    """By index, the highest; also where the process was killed."""
    heard = HighestHeard(tmp_path / "heard", clock=FakeClock())
    for index, highest in ((1, 5), (1, 6), (1, 2**64 - 1), (2, 9), (1000, 3)):
        heard.note(index, highest)
    heard._disk.close(heard._file)  # as a kill does: nothing is synced
    again = HighestHeard(tmp_path / "heard", clock=FakeClock())

    assert [again.of(index) for index in (0, 1, 2, 3, 1000, 65_535)] == [0, GREATEST, 9, 0, 3, 0]
    again.close()


def test_what_was_heard_is_synced_now_and_then(tmp_path: Path) -> None:
    """Not for each packet."""
    clock, disk = FakeClock(), FailingDisk()
    heard = HighestHeard(tmp_path / "heard", clock=clock, disk=disk)
    for highest in range(1, 101):
        heard.note(1, highest)
        clock.advance(SYNC_S / 50)
    assert disk.synced == 1


@pytest.mark.parametrize("place", [0, 1])
def test_a_flipped_bit_forgets_nothing_that_was_heard(tmp_path: Path, place: int) -> None:
    """In either place, also where all numbers are even, as those of commands are."""
    path = tmp_path / "heard"
    heard = HighestHeard(path, clock=FakeClock())
    heard.note(3, BLOCK, at_once=True)
    heard.note(3, 2 * BLOCK, at_once=True)
    heard.close()
    raw = bytearray(path.read_bytes())
    raw[3 * CURSORS_BYTES + place * CURSOR_BYTES] ^= 1
    path.write_bytes(raw)

    again = HighestHeard(path, clock=FakeClock())
    assert again.of(3) == 2 * BLOCK
    again.close()


def test_damage_to_what_was_heard_is_an_error(tmp_path: Path) -> None:
    """What it held cannot be known; one place is enough, though."""
    path = tmp_path / "heard"
    raw = bytearray(packed_cursor(6) + packed_cursor(7))
    raw[-1] ^= 1
    path.write_bytes(bytes(CURSORS_BYTES) + raw)
    heard = HighestHeard(path, clock=FakeClock())
    assert heard.of(1) == 6
    heard.close()
    raw[0] ^= 1
    path.write_bytes(bytes(CURSORS_BYTES) + raw)
    heard = HighestHeard(path, clock=FakeClock())
    with pytest.raises(ConfigError, match="is damaged"):
        heard.of(1)
    heard.close()
