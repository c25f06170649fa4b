"""Counters on disk: one that never gives a number twice, and the highest that were heard.

The first is kept by reservation: before a number of a block is given, that the block is taken is on
the disk. A process that is killed, or loses power, wastes what is left of its block, and no more.
Both files consist of cursors, see `daemon.records`.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from daemon.clock import Clock
from daemon.disk import Disk, LocalDisk
from daemon.errors import ConfigError
from daemon.records import CURSOR_BYTES, CURSORS_BYTES, cursor_of, packed_cursor

BLOCK: Final = 1 << 16
"""Numbers reserved together: one sync for so many, and there are 2⁴⁸ such blocks."""
_BLOCKS: Final = 2**64 // BLOCK

SYNC_S: Final = 5.0
"""Time between two syncs of the numbers heard [s]: a loss of power may forget so much."""


class ReservedCounter:
    """Gives every number below 2⁶⁴ at most once, 0 never, whatever becomes of the process.

    The file holds in one place how many blocks are taken, and in the other one less. Where only one
    of them is sound, the other one may have been the higher, so a block is left out. Where none is,
    nothing can be known, and to begin anew would give numbers twice.

    Args:
        path: The file; made if it is not there.
        disk: The door to it.

    Raises:
        ConfigError: If the file cannot be used, is another process's, or is damaged.
    """

    def __init__(self, path: Path, *, disk: Disk | None = None) -> None:
        self._disk = disk or LocalDisk()
        self._file, raw = _open(self._disk, path)
        places = (cursor_of(raw[:CURSOR_BYTES]), cursor_of(raw[CURSOR_BYTES:]))
        self._taken = max(places)
        try:
            if not raw:
                self._reserve()
            elif not any(places):
                raise ConfigError(path, ("is damaged; new keys and new files like it are needed",))
            if not all(places):
                self._reserve()
        except OSError as error:
            self.close()
            raise _unusable(path, error) from None
        except ConfigError:
            self.close()
            raise
        self._next = self._ceiling

    def next(self) -> int:
        """The next number.

        Raises:
            OSError: If the disk does not take a reservation, or all numbers are given; none is
                used up.
        """
        if self._next == self._ceiling:
            self._reserve()
        self._next += 1
        return self._next - 1

    def close(self) -> None:
        """Let the file go."""
        self._disk.close(self._file)

    @property
    def _ceiling(self) -> int:
        return self._taken * BLOCK

    def _reserve(self) -> None:
        if self._taken == _BLOCKS:
            raise OSError(errno.EOVERFLOW, "every number is given")
        taken = self._taken + 1
        self._disk.write(self._file, packed_cursor(taken), CURSOR_BYTES * (taken & 1))
        self._disk.sync(self._file)
        self._taken = taken


class HighestHeard:
    """The highest number heard, by index; written at once, synced now and then.

    Args:
        path: The file; made if it is not there.
        clock: Tells when to sync.
        disk: The door to it.

    Raises:
        ConfigError: If the file cannot be used, or is another process's.
    """

    def __init__(self, path: Path, *, clock: Clock, disk: Disk | None = None) -> None:
        self._disk, self._clock, self._path = disk or LocalDisk(), clock, path
        self._file, self._raw = _open(self._disk, path)
        self._synced_s = clock.monotonic_s()

    def of(self, index: int) -> int:
        """What an earlier process noted; 0: nothing.

        Raises:
            ConfigError: If what it noted is damaged.
        """
        places = self._raw[index * CURSORS_BYTES : (index + 1) * CURSORS_BYTES]
        highest = cursor_of(places)
        if any(places) and not highest:
            problem = "is damaged; without it, which has to be removed, old packets are taken again"
            raise ConfigError(self._path, (problem,))
        return highest

    def note(self, index: int, highest: int, *, at_once: bool = False) -> None:
        """Write it down, in both places: one that is damaged lets nothing be taken again.

        Args:
            index: Of what it is the number.
            highest: It.
            at_once: Sync now, not only when it is time to.

        Raises:
            OSError: If the disk does not take it.
        """
        self._disk.write(self._file, 2 * packed_cursor(highest), index * CURSORS_BYTES)
        if at_once or self._clock.monotonic_s() - self._synced_s >= SYNC_S:
            self._disk.sync(self._file)
            self._synced_s = self._clock.monotonic_s()

    def close(self) -> None:
        """Let the file go."""
        self._disk.close(self._file)


def _open(disk: Disk, path: Path) -> tuple[int, bytes]:
    """Open a file for this process alone; return it and what it holds."""
    try:
        file = disk.open(path) if path.exists() else disk.create(path)
        try:
            disk.lock(file)
            return file, disk.read(file, disk.size(file), 0)
        except OSError:
            disk.close(file)
            raise
    except BlockingIOError:
        problem = "is another process's; wait until it ends, or give each a security.seal_state"
        raise ConfigError(path, (problem,)) from None
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(path, (f"cannot keep the seal's counters: {error.strerror}",))
