"""A machine of which systemd is the first process: a container over this machine's /usr.

Its /etc, /var, /opt and all else begin empty and are a folder of the test's; its network is a
loopback of its own. What it must not change, /usr and the folders it is shown, it sees read-only.
It ends with the test's process, whatever becomes of that, and leaves no mount and no process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fakes.processes import PATIENCE_S, until

TOOLS: Final = ("systemd-nspawn", "unshare", "nsenter", "setpriv")
"""Programs that this needs."""

PYTHON_AT: Final = "/srv/python"
"""Where this test's Python is seen, if it is not part of /usr."""

_PLUG_S: Final = 5.0
"""Longest wait for the end of what was killed [s]."""

_MACHINE_ID: Final = "70726973 6d6c696e 6b2d7465 73742d31".replace(" ", "")
"""With one it is no first boot, which would start every service that the host has installed."""

_CGROUPS: Final = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
group=$1
shift
"""
"""A view of the one hierarchy that every kernel has, also where the host uses the old ones."""

_BOOT: Final = f"""{_CGROUPS}
mount -t tmpfs tmpfs /run
mkdir "$group"
echo 0 >"$group/cgroup.procs"
exec systemd-nspawn "$@"
"""

_CLEAN: Final = f"""{_CGROUPS}
! [ -e "$group" ] || find "$group" -depth -type d -exec rmdir {{}} +
"""

_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


class CannotBootError(Exception):
    """This machine, or this user, boots no other one; says what was said."""


class Booted:
    """A machine, running while it is open.

    Args:
        folder: For its files and the log of its console.
        seen: Further folders that it sees, read-only, by where.

    Attributes:
        root: Its files, but for those in /run and other file systems in memory.
        python: Where this test's Python is, seen from inside.
    """

    def __init__(self, folder: Path, seen: Mapping[str, Path]) -> None:
        self.root = folder / "root"
        self.python = Path(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info))
        self._seen = dict(seen)
        if not self.python.is_relative_to("/usr"):
            self._seen[PYTHON_AT] = Path(sys.base_prefix)
            self.python = Path(PYTHON_AT, self.python.relative_to(sys.base_prefix))
        self._console = folder / "console.log"
        self._name = f"prismlink-{os.getpid()}"
        (own,) = (
            line.split(":", 2)[2]
            for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        )
        self._group = f"/sys/fs/cgroup{own.rstrip('/')}/{self._name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        self._furnish()
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pull_plug()

    def boot(self) -> None:
        """Start it; return once all that starts with it has.

        Raises:
            CannotBootError: If it does not start.
        """
        binds = [f"--bind-ro={there}:{here}" for here, there in self._seen.items()]
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                [
                    # Without a process of ours nothing of it stays: each kills the next one.
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--mount", "--propagation", "private"),
                    *("--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("sh", "-ec", _BOOT, "sh", self._group),
                    *("--boot", "--quiet", "--register=no", "--keep-unit", "--settings=no"),
                    *(f"--machine={self._name}", f"--directory={self.root}", "--bind-ro=/usr"),
                    *("--private-network", "--link-journal=no", "--console=pipe", *binds),
                    # Units' own lists of devices, and rings of keys.
                    "--system-call-filter=bpf @keyring",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        try:
            self._leader = until(self._first_process, "the first process of a booted machine")
            until(self._is_up, "a booted machine to be up")
        except (TimeoutError, CannotBootError) as error:
            self.pull_plug()
            said = self._console.read_text(encoding="utf-8", errors="replace").strip()
            raise CannotBootError(f"{error}: {said or 'nothing was said'}") from None
        self.run("ldconfig")  # for the libraries of a Python outside of /usr

    def pull_plug(self) -> None:
        """End all of it at once, as a loss of power does; files stay, and it can be booted."""
        if self._process is None:
            return
        for manager in _children(self._process.pid):  # what started it ends with it
            with suppress(ProcessLookupError):
                os.kill(manager, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PLUG_S)
        self._process.kill()
        self._process.wait()
        self._process, self._leader = None, 0
        until(self._is_gone, "a machine without power to be gone")

    def run(
        self, *command: object, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root.

        Args:
            command: Its words.
            check: Whether it has to succeed.
            env: What its environment has besides a path and a language.

        Raises:
            RuntimeError: If it was to succeed and does not; says what it said.
        """
        done = subprocess.run(
            [*self.enter, *map(str, command)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=PATIENCE_S * 2,
            env={**_ENVIRONMENT, **(env or {})},
        )
        if check and done.returncode:
            words = " ".join(map(str, command))
            raise RuntimeError(f"{words}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    @property
    def enter(self) -> list[str]:
        """What stands before a command that shall run inside."""
        return ["nsenter", f"--target={self._leader}", "--all", "--"]

    def show(self, unit: str, *keys: str) -> dict[str, str]:
        """What systemd says of a unit; all of it, or of these keys."""
        shown = self.run("systemctl", "show", unit, *(f"--property={key}" for key in keys)).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def journal(self, unit: str) -> str:
        """What a unit, and systemd about it, wrote since the machine was booted."""
        return self.run("journalctl", "--boot", "--unit", unit, "--output=cat").stdout

    def path(self, inside: str) -> Path:
        """A file of it, seen from the test."""
        return self.root / inside.removeprefix("/")

    def listing(self) -> dict[str, tuple[int, int, int]]:
        """All files of it by name: mode, user and group."""

        def entry(path: Path) -> tuple[int, int, int]:
            status = path.lstat()
            return status.st_mode, status.st_uid, status.st_gid

        inside = sorted(self.root.rglob("*"))
        return {f"/{path.relative_to(self.root)}": entry(path) for path in inside}

    def _furnish(self) -> None:
        """Make the little that a Debian without packages of its own has outside of /usr."""
        names = ("usr", "etc/systemd/system", "var", "run", "proc", "sys", "dev", "root")
        for name in (*names, "opt", "srv", "tmp"):
            (self.root / name).mkdir(parents=True)
        self.root.chmod(0o755)
        (self.root / "tmp").chmod(0o1777)
        for link in Path("/").iterdir():
            if link.is_symlink() and str(link.readlink()).startswith("usr/"):
                (self.root / link.name).symlink_to(link.readlink())
        etc = self.root / "etc"
        shutil.copytree("/etc/alternatives", etc / "alternatives", symlinks=True)
        shutil.copy("/etc/login.defs", etc)
        shutil.copy("/usr/lib/os-release", etc)
        for name in ("passwd", "group"):
            shutil.copy(f"/usr/share/base-passwd/{name}.master", etc / name)
        texts = {
            "machine-id": _MACHINE_ID,
            "ld.so.conf": f"/usr/local/lib\n{PYTHON_AT}/lib",
            "hosts": "127.0.0.1 localhost",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files",
        }
        for name, text in texts.items():
            (etc / name).write_text(f"{text}\n", encoding="utf-8")

    def _first_process(self) -> int:
        """The process that is systemd's; 0 while there is none.

        Raises:
            CannotBootError: If there will be none.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            raise CannotBootError(f"systemd-nspawn ended with status {self._process.returncode}")
        for manager in _children(self._process.pid):
            for child in _children(manager):
                with suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text(encoding="utf-8") == "systemd\n":
                        return child
        return 0

    def _is_up(self) -> bool:
        self._first_process()
        said = self.run("systemctl", "is-system-running", "--wait", check=False).stdout
        return said.strip() in {"running", "degraded"}

    def _is_gone(self) -> bool:
        """Whether the last process left its control group, which can be removed then."""
        clean = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _CLEAN, "sh"]
        return not subprocess.run(
            [*clean, self._group], capture_output=True, check=False
        ).returncode


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
        return [int(child) for child in found.split()]
    return []
