"""Real `prismlink` processes for end-to-end tests: started as an operator would, watched, ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.request import urlopen

from daemon.ground.metrics import GroundMetrics
from daemon.link.sockets import Endpoint
from daemon.metrics import FlightMetrics, new_registry

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"

PATIENCE_S: Final = 120.0
"""Longest wait for anything: the machine may be busy with other things."""
_ASK_EVERY_S: Final = 0.03
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Several processes share two cores; their math libraries would fight over them."""
_LOG_TAIL_CHARS: Final = 6_000
GET: Final = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
"""Python that asks the address it is given."""

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, *, timeout_s: float = PATIENCE_S) -> T:
    """Ask until the answer is true; return it.

    Raises:
        TimeoutError: If it never is; names `what`.
    """
    give_up_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(_ASK_EVERY_S)
    return answer


def towards(address: str) -> Endpoint:
    """The end that connects; closed, it waits for what was sent to leave: the other may be busy."""
    return Endpoint(address=address, bind=False, linger_s=PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Metrics, from the endpoint or from a report: sample as Prometheus writes it, to value."""

    samples: Mapping[str, float]

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Read what an endpoint answers."""
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        pairs = (line.rpartition(" ") for line in lines)
        return cls({key: float(value) for key, _, value in pairs})

    def total(self, name: str, **labels: str) -> float:
        """Sum of `prismlink_{name}` over all series that have these labels; 0 if there is none.

        Raises:
            KeyError: If no process has a metric of that name.
        """
        if not name.startswith(_metric_names()):
            raise KeyError(name)
        return sum(
            value
            for key, value in self.samples.items()
            if key.partition("{")[0] == f"prismlink_{name}"
            and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', key)).items()
        )


@cache
def _metric_names() -> tuple[str, ...]:
    """Names without prefix and suffix: a series is only there once there was something to count."""
    found = {
        family.name.removeprefix("prismlink_")
        for kind in (FlightMetrics, GroundMetrics)
        for family in kind(new_registry()).registry.collect()
    }
    return tuple(found)


class Inside(Protocol):
    """What a process has of its own, as `fakes.namespaces` and `fakes.small_disks` make it."""

    @property
    def enter(self) -> Sequence[str]:
        """What stands before its command."""
        ...

    @property
    def has_network(self) -> bool:
        """Whether whoever asks it has to enter as well."""
        ...


class Process:
    """One process with its log and, once it has ended by itself, its report.

    Args:
        name: How messages call it.
        words: What follows `prismlink`, or the module.
        directory: Where log and report go.
        cwd: Working directory.
        env: Environment.
        module: What runs, if not `prismlink`.
        inside: The network or the disks it has; None: the test's.
    """

    def __init__(
        self,
        name: str,
        words: tuple[object, ...],
        *,
        directory: Path,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        module: str = "daemon.cli",
        inside: Inside | None = None,
    ) -> None:
        self.name = name
        enter: Sequence[str] = () if inside is None else inside.enter
        self._ask_by = enter if inside is not None and inside.has_network else ()
        self._log_path = directory / f"{name}.log"
        self._report_path = directory / f"{name}.json"
        command = [*enter, sys.executable, "-m", module, *map(str, words)]
        if words[0] not in ("command", "decode", "keys"):  # they write files, no numbers
            command += ["--json", str(self._report_path)]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that `end` reaches what it started itself
                cwd=cwd,
                env={**_ONE_THREAD, **(os.environ if env is None else env)},
            )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """All it wrote so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """Log lines so far, of one event or all; not a last one that is being written."""
        whole = self.log.rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if not event or line["event"] == event]

    def until_ready(self) -> Process:
        """Wait until it takes work."""
        self._until(lambda: self.events("ready"), "being ready")
        return self

    def metrics(self) -> Numbers:
        """What its endpoint tells now."""
        url = f"http://{self.events('ready')[0]['metrics']}/metrics"
        if self._ask_by:
            get = [*self._ask_by, sys.executable, "-IS", "-c", GET, url]
            return Numbers.of_text(subprocess.check_output(get, text=True, timeout=PATIENCE_S))
        with urlopen(url, timeout=PATIENCE_S) as answer:
            return Numbers.of_text(answer.read().decode())

    def until_metrics(self, condition: Callable[[Numbers], object], what: str) -> Numbers:
        """Wait until its metrics are so; return them."""

        def seen() -> Numbers | None:
            numbers = self.metrics()
            return numbers if condition(numbers) else None

        return self._until(seen, what)

    def end_well(self, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: If it does not come in time, or not with status 0.
        """
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.name} did not end within {timeout_s:.0f} s") from None
        if status:
            raise RuntimeError(f"{self.name} ended with status {status}")

    def report(self, *, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for its end; return what it reported."""
        self.end_well(timeout_s=timeout_s)
        report: dict[str, Any] = json.loads(self._report_path.read_text(encoding="utf-8"))
        return report

    def terminate(self) -> None:
        """Ask it to end, as systemd does."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self, *, timeout_s: float = PATIENCE_S) -> Numbers:
        """Ask it to end and wait; return its last numbers."""
        self.terminate()
        return Numbers(self.report(timeout_s=timeout_s))

    def suspend(self) -> None:
        """Let it stand still, and answer nothing, until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Leave nothing running, and show the log: pytest prints it if the test failed."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        status, log = self._process.returncode, self.log
        print(f"── {self.name} ended with status {status}\n{log[-_LOG_TAIL_CHARS:]}")

    def _until(self, condition: Callable[[], T | None], what: str) -> T:
        def alive() -> T | None:
            if not (answer := condition()) and not self.runs:
                raise RuntimeError(f"{self.name} ended while a test waited for {what}")
            return answer

        return until(alive, f"{self.name}: {what}")


class Desk:
    """Starts processes that find each other.

    Args:
        sockets: Folder for sockets, short: a path of more than 107 bytes is no ipc address.
        directory: Folder for logs, reports and cubes.

    Attributes:
        tiles: Address of the instrument's stream; the board binds.
        link: Address of the link; the ground binds.
        cubes: Where the ground writes.
    """

    def __init__(self, sockets: Path, directory: Path) -> None:
        self.tiles, self.link = (f"ipc://{sockets / name}" for name in ("tiles", "link"))
        self.cubes = directory / "cubes"
        self._directory = directory
        self._processes: list[Process] = []

    def flight(
        self,
        bundle: Path,
        *settings: str,
        file: str = "flight.yaml",
        **given: Any,
    ) -> Process:
        """Start the board's process with a file of deploy/ and these on top."""
        here = (f"instrument.address={self.tiles}", f"link.address={self.link}")
        return self._service("flight", (f"model.bundle={bundle}", *here, *settings), file, given)

    def ground(self, bundle: Path, *settings: str, **given: Any) -> Process:
        """Start the ground's process with deploy/ground.yaml and these on top."""
        here = (f"output.directory={self.cubes}", f"link.address={self.link}", "web.port=null")
        return self._service(
            "ground", (f"model.bundles=[{bundle}]", *here, *settings), "ground.yaml", given
        )

    def feed(self, *words: object) -> Process:
        """Start the instrument."""
        return self.start("feed", "feed", *words, "--address", self.tiles)

    def start(self, name: str, *words: object, **given: Any) -> Process:
        """Start any command."""
        unique = f"{len(self._processes)}-{name}"
        process = Process(unique, words, directory=self._directory, **given)
        self._processes.append(process)
        return process

    def manifests(self) -> list[dict[str, Any]]:
        """What the ground wrote, in the instrument's order."""
        found = [json.loads(path.read_text()) for path in self.cubes.glob("*.manifest.json")]
        return sorted(found, key=lambda manifest: manifest["sequence"])

    def close(self) -> None:
        """End every process."""
        for process in self._processes:
            process.end()

    def _service(
        self, name: str, settings: tuple[str, ...], file: str, given: Mapping[str, Any]
    ) -> Process:
        common = ("metrics.port=0", "log.json=true")
        words = [word for setting in (*settings, *common) for word in ("--set", setting)]
        return self.start(name, name, "run", DEPLOY / file, *words, **given)
