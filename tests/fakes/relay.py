"""A radio between two real processes, in both directions: a process of its own.

`python -m fakes.relay SETTINGS.json --json REPORT.json` passes messages on until SIGTERM, and does
to them what a `fakes.link.FakeLink` does, at a rate; then it reports. It sees messages, no more:
where they are sealed it cannot open them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from daemon.keys import CurveKeys, curve_public, curve_secret
from daemon.lifecycle import StopSignal
from daemon.link.sockets import Endpoint, PacketListener, PacketSender
from fakes.link import FakeLink, LinkFaults

_LOOK_S: Final = 0.004
"""Time between two looks at what came and what is due [s]."""
_AT_ONCE: Final = 64
_BACKLOG_S: Final = 1.0
"""Most that may wait for the antenna, in time it takes to send it [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One direction, as settings have it.

    Attributes:
        source: Where messages come from; bound here.
        target: Where they go.
        faults: What becomes of them on the way; outages in UTC [s].
        bits_per_s: What the antenna sends.
        source_key: File of the public key of who sends them; None: there are no keys.
        target_key: The same for who gets them.
    """

    source: str
    target: str
    faults: LinkFaults
    bits_per_s: float
    source_key: str | None = None
    target_key: str | None = None


@dataclass(slots=True)
class Log:
    """What became of the messages of one direction.

    Attributes:
        came: When each came from its sender [s, UTC], and its size [bytes].
        whole: Those that went on whole.
        gone: Those that did not, for the faults of the link.
        shadowed: Those of them that met an outage.
        overrun: Those that the antenna was too slow for.
        not_taken: Those that were not taken at the other end.
    """

    came: list[tuple[float, int]] = field(default_factory=list)
    whole: int = 0
    gone: int = 0
    shadowed: int = 0
    overrun: int = 0
    not_taken: int = 0

    @property
    def loss(self) -> float:
        """Share that the link lost while there was a signal."""
        return (self.gone - self.shadowed) / (self.whole + self.gone - self.shadowed)

    def most_bits(self, window_s: float) -> int:
        """Most bits that came in any time so long."""
        most = begin = bits = 0
        for at_s, size_bytes in self.came:
            bits += 8 * size_bytes
            while self.came[begin][0] <= at_s - window_s:
                bits -= 8 * self.came[begin][1]
                begin += 1
            most = max(most, bits)
        return most


@dataclass(slots=True)
class RelayReport:
    """What a relay says in the end.

    Attributes:
        down: From board to ground.
        up: From ground to board.
        late_s: By how much the latest of its looks was late: what came then came at once [s].
    """

    down: Log = field(default_factory=Log)
    up: Log = field(default_factory=Log)
    late_s: float = 0.0

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> RelayReport:
        """From its JSON."""
        return cls(Log(**raw["down"]), Log(**raw["up"]), raw["late_s"])


class _Direction:
    def __init__(self, hop: Hop, log: Log, seed: int, secret: str | None, stack: ExitStack) -> None:
        def keys(peer: str | None) -> CurveKeys | None:
            if secret is None or peer is None:
                return None
            return CurveKeys(secret=curve_secret(Path(secret)), peers=(curve_public(Path(peer)),))

        source = Endpoint(address=hop.source, bind=True, curve=keys(hop.source_key))
        target = Endpoint(address=hop.target, bind=False, curve=keys(hop.target_key))
        self._listener = stack.enter_context(PacketListener(source))
        self._sender = stack.enter_context(PacketSender(target))
        self._link, self._outages = FakeLink(hop.faults, seed), hop.faults.outages
        self._bits_per_s, self._log, self._free_s = hop.bits_per_s, log, 0.0

    def look(self, wait_s: float) -> None:
        """Take what comes, and pass on what has arrived."""
        for raw in self._listener.recv_many(_AT_ONCE, wait_s):
            now_s = time.time()
            self._log.came.append((now_s, len(raw)))
            if self._free_s - now_s > _BACKLOG_S:
                self._log.overrun += 1
                continue
            self._free_s = max(self._free_s, now_s) + 8 * len(raw) / self._bits_per_s
            self._link.put(raw, self._free_s)
        for _, raw in self._link.get(time.time()):
            self._log.not_taken += not self._sender.send(raw, 0.0)

    def count(self) -> None:
        """Close the books."""
        self._log.whole = sum(whole for _, _, whole in self._link.sent)
        self._log.gone = len(self._link.sent) - self._log.whole
        self._log.shadowed = sum(
            any(start <= at_s < stop for start, stop in self._outages)
            for at_s, _, _ in self._link.sent
        )


def settings(*, seed: int, down: Hop, up: Hop, secret: Path | None = None) -> str:
    """What the file of settings holds."""
    own = None if secret is None else str(secret)
    return json.dumps({"seed": seed, "secret": own, "down": asdict(down), "up": asdict(up)})


def _hop(raw: dict[str, Any]) -> Hop:
    return Hop(**{**raw, "faults": LinkFaults(**raw["faults"])})


def main(settings_path: str, _json: str, report_path: str) -> None:
    """Pass on until asked to end."""
    given, report = json.loads(Path(settings_path).read_text()), RelayReport()
    with ExitStack() as stack, StopSignal() as stop:
        seed, secret = given["seed"], given["secret"]
        down = _Direction(_hop(given["down"]), report.down, seed, secret, stack)
        up = _Direction(_hop(given["up"]), report.up, seed + 1, secret, stack)
        print(json.dumps({"event": "ready"}), flush=True)
        before_s = time.monotonic()
        while stop.received is None:
            down.look(_LOOK_S)
            up.look(0.0)
            before_s, took_s = time.monotonic(), time.monotonic() - before_s
            report.late_s = max(report.late_s, took_s - _LOOK_S)
        for each in (down, up):
            each.count()
    Path(report_path).write_text(json.dumps(asdict(report)))


if __name__ == "__main__":
    main(*sys.argv[1:])
