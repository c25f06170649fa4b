"""Networks of their own for processes: Linux network namespaces, joined by veth pairs.

A namespace is held by a process that ends with the test's, whatever becomes of that, and goes
with the last process in it; so do both ends of its pairs. None has a name that could stay behind.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

TOOLS: Final = ("unshare", "nsenter", "ip")
"""Programs that this needs."""


class NotAllowedError(Exception):
    """This machine, or this user, makes no namespaces; says what it said."""


class Namespace:
    """A network with its own loopback, while it is open.

    Raises:
        NotAllowedError: If it cannot be made.
    """

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        with suppress(BrokenPipeError):
            self._holder.stdin.write(b"\n")  # comes back once the namespace is there
        said = self._holder.stdout.readline()
        if said.strip() or not said:
            self.close()
            raise NotAllowedError(said.decode().strip() or "unshare said nothing")
        try:
            self.run("ip", "link", "set", "lo", "up")
        except NotAllowedError:
            self.close()
            raise

    @property
    def enter(self) -> Sequence[str]:
        """What stands before a command that shall run in it."""
        return ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")

    @property
    def has_network(self) -> bool:
        """Its processes have a network of their own."""
        return True

    def join(self, other: Namespace, *, here: str, there: str) -> None:
        """Join it to another by a pair of interfaces.

        Args:
            other: To which.
            here: Address of this end, as in 192.0.2.1/30.
            there: Of the other's.

        Raises:
            NotAllowedError: If it cannot be done.
        """
        name = f"to-{other._holder.pid}"
        peer = f"to-{self._holder.pid}"
        pair = ("type", "veth", "peer", "name", peer, "netns", str(other._holder.pid))
        self.run("ip", "link", "add", name, *pair)
        for end, interface, address in ((self, name, here), (other, peer, there)):
            end.run("ip", "address", "add", address, "dev", interface)
            end.run("ip", "link", "set", interface, "up")

    def run(self, *command: str) -> None:
        """Run a command in it.

        Raises:
            NotAllowedError: If it fails.
        """
        done = subprocess.run([*self.enter, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotAllowedError(f"{' '.join(command)}: {done.stderr.strip()}")

    def close(self) -> None:
        """Let it go; it is there until the last process in it ends."""
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
