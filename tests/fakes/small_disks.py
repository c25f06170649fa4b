"""Disks of a few MiB, for processes that shall find them full: file systems in memory.

They are mounted for those alone that enter, and gone with the last of them: the mounts are held by
a process that ends with the test's, whatever becomes of that.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fakes.namespaces import NotAllowedError

TOOLS: Final = ("unshare", "nsenter", "setpriv", "mount")
"""Programs that this needs."""

_MIB: Final = 1 << 20
_BALLAST: Final = "ballast"
_MOUNT: Final = """
size=$1
shift
for folder; do mount -t tmpfs -o "size=$size" tmpfs "$folder"; done
echo
exec cat
"""


class SmallDisks:
    """A file system in each of some folders, while it is open.

    Args:
        folders: Where; made.
        size_mib: Of each [MiB].

    Raises:
        NotAllowedError: If they cannot be mounted.
    """

    def __init__(self, *folders: Path, size_mib: int = 4) -> None:
        for folder in folders:
            folder.mkdir(parents=True)
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--propagation", "private"),
                *("sh", "-ec", _MOUNT, "sh", f"{size_mib}m", *folders),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said.strip() or not said:
            self.close()
            raise NotAllowedError(said.decode().strip() or "unshare said nothing")

    @property
    def enter(self) -> Sequence[str]:
        """What stands before a command that shall have them."""
        return ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--")

    @property
    def has_network(self) -> bool:
        """Its processes have the network of all others."""
        return False

    def seen(self, path: Path) -> Path:
        """A file on one of them, for those who have not entered."""
        return Path(f"/proc/{self._holder.pid}/root", path.relative_to("/"))

    def fill(self, folder: Path) -> None:
        """Leave no room on one."""
        with suppress(OSError), (self.seen(folder) / _BALLAST).open("wb", buffering=0) as file:
            while file.write(bytes(_MIB)):
                pass

    def free(self, folder: Path) -> None:
        """Make room again."""
        (self.seen(folder) / _BALLAST).unlink()

    def close(self) -> None:
        """Let them go; they are there until the last process that entered ends."""
        self._holder.kill()
        self._holder.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
