"""Tiles of a scene through the flight line, timed: what `bench` does over and over.

    messages ──(ZeroMQ socket, or memory)──► ingest │ patches │ batches │ encode │ packets │ spool

The line is the flight process' own, a thread for each stage; only the link is missing. The
instrument is a thread of this process: through a socket its sending takes the same cores, so what
is measured is somewhat less than what the board would do, never more.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from codec.encoder import Encoder
from daemon.bench_feed import BenchScene, Replay, Source, opened
from daemon.clock import Clock
from daemon.config import BatchSettings, FlightSettings
from daemon.config_sections import MIB
from daemon.errors import BenchError
from daemon.lifecycle import shut_down
from daemon.link.packet import Channel, Packet
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.ingest import Listener
from daemon.onboard.models import Model, control_steps
from daemon.onboard.service import FlightLine
from daemon.onboard.spool import Spool
from daemon.onboard.updates import one_model
from daemon.peak_memory import peak_rss_bytes, reset_peak_rss
from daemon.tile_message import Part

STAGES: Final = {
    "condition": "condition",
    "analyze": "analyze",
    "quantize": "quantize",
    "entropy_code": "entropy_code",
    "packetize": "packets",
    "spool": "spool",
}
"""A stage of the report and its label in the metrics."""
THREADS: Final = ("patches", "batches", "encode", "packets", "spool")
"""Labels of the stages that are threads; each of `STAGES` is one or runs in one."""

_BY_COUNT_MS: Final = 1e9
"""Age of a batch in runs where count alone closes it [ms]."""
_STALL_S: Final = 120.0
"""Longest wait for the line to take one more tile [s]."""
_BACKSTOP: Final = 4
"""How far above the longest message libzmq hangs up, as in the flight process."""
_DRAIN_S: Final = 600.0
"""Longest wait for what the line has taken [s]."""
_LOST: Final = ("dropped_patches", "tile_messages_refused", "spool_dropped", "stage_errors")
"""Metrics that say why something is missing."""


class Stopwatch:
    """The timer of an encoder that goes through many runs; each run has metrics of its own.

    Attributes:
        metrics: Told the times; None: nobody is.
    """

    def __init__(self) -> None:
        self.metrics: FlightMetrics | None = None

    def __call__(self, stage: str) -> AbstractContextManager[None]:
        """Time a stage; a `codec` Timer."""
        return nullcontext() if self.metrics is None else self.metrics.timer(stage)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Streamed:
    """One run: tiles of one scene through the line.

    Attributes:
        patches: Patches received, all of them spooled.
        seconds: From the first message received to the last packet spooled [s].
        latencies_s: Of each patch, from the message received to its packets spooled [s].
        stage_seconds: Time in each of `STAGES` [s].
        busy_seconds: Time in all threads of the line, waiting left out [s].
        batches: Batches they were encoded in.
        frame_bytes: Bytes of all frames, side information too.
        patch_frame_bytes: Bytes of the patches' frames.
        packet_bytes: Bytes of all packets, headers and repair included.
        valid_samples: Samples that are no fill.
        peak_rss_bytes: Most memory this process held meanwhile, messages included.
    """

    patches: int
    seconds: float
    latencies_s: tuple[float, ...]
    stage_seconds: Mapping[str, float]
    busy_seconds: float
    batches: int
    frame_bytes: int
    patch_frame_bytes: int
    packet_bytes: int
    valid_samples: int
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """An encoder and the settings of the line around it.

    Attributes:
        settings: Those of the flight process; addresses are not used.
        encoder: Encodes, timed by `stopwatch`.
        stopwatch: The encoder's timer.
        clock: For all stages.
    """

    settings: FlightSettings
    encoder: Encoder
    stopwatch: Stopwatch
    clock: Clock

    def stream(
        self,
        scene: BenchScene,
        *,
        tiles: int | None = None,
        rate: float = 0.0,
        source: Source = "socket",
    ) -> Streamed:
        """Send tiles through a new line.

        Args:
            scene: What to send.
            tiles: How many; all messages if None.
            rate: Multiple of EnMAP's line rate, batches closed as the settings say; 0: as fast as
                tiles are taken, batches closed by count alone.
            source: How they come.

        Raises:
            BenchError: If a patch was not spooled, or the line stands still.
        """
        messages = scene.messages[:tiles]
        tile_s = scene.seconds_enmap / rate if rate else 0.0
        settings = self.settings if rate else _closed_by_count(self.settings)
        metrics = FlightMetrics(new_registry())
        limit = _BACKSTOP * settings.instrument.max_message_mib * MIB
        replay = Replay(messages, tile_s, self.clock)
        with opened(replay, source, max_part_bytes=limit) as listener:
            steps = control_steps(settings.model, self.encoder)
            model = Model(self.encoder, steps, settings.model.bundle)
            gate = _Gate(listener, len(messages), self.clock)
            line = FlightLine(
                settings,
                one_model(model, self.clock, metrics),
                listener=gate,
                sender=None,
                clock=self.clock,
                metrics=metrics,
            )
            self.stopwatch.metrics = metrics
            reset_peak_rss()
            line.start()
            try:
                gate.wait(_STALL_S + tile_s)
            finally:
                late = shut_down(line.stages, deadline_s=_DRAIN_S, clock=self.clock)
                self.stopwatch.metrics = None
        peak = peak_rss_bytes()
        if late:
            raise BenchError(f"{scene.name}: {', '.join(late)} did not end in {_DRAIN_S:.0f} s")
        return _account(scene, gate.received_s, line.spool, metrics.totals(), peak)


def _closed_by_count(settings: FlightSettings) -> FlightSettings:
    batch = BatchSettings(max_patches=settings.batch.max_patches, max_age_ms=_BY_COUNT_MS)
    return settings.model_copy(update={"batch": batch})


class _Gate:
    """Notes when each message came, and tells when the last one has.

    Attributes:
        received_s: When [s, monotonic].
    """

    def __init__(self, listener: Listener, expected: int, clock: Clock) -> None:
        self._listener, self._expected, self._clock = listener, expected, clock
        self._changed = threading.Condition()
        self.received_s: list[float] = []

    def recv(self, timeout_s: float) -> Sequence[Part] | None:
        """See `daemon.onboard.ingest.Listener`."""
        parts = self._listener.recv(timeout_s)
        if parts is not None:
            with self._changed:
                self.received_s.append(self._clock.monotonic_s())
                self._changed.notify_all()
        return parts

    def wait(self, patience_s: float) -> None:
        """Wait for the last message.

        Raises:
            BenchError: If none comes for so long [s].
        """
        with self._changed:
            while (count := len(self.received_s)) < self._expected:
                until_s = self._clock.monotonic_s() + patience_s
                while len(self.received_s) == count and self._clock.monotonic_s() < until_s:
                    self._clock.wait(self._changed, until_s)
                if len(self.received_s) == count:
                    raise BenchError(
                        f"no tile was taken for {patience_s:.0f} s, after {count} of "
                        f"{self._expected}; remedy: a smaller --tile, or --source memory"
                    )


def _account(
    scene: BenchScene,
    received_s: Sequence[float],
    spool: Spool,
    totals: Mapping[str, float],
    peak: int,
) -> Streamed:
    """Empty the spool, and hold what was in it against what was sent.

    Raises:
        BenchError: If a patch is not there.
    """
    frames: dict[int, Packet] = {}
    spooled_s: dict[int, float] = {}
    packet_bytes = 0
    while (waiting := spool.take(0.0)) is not None:
        packet = Packet.unpack(waiting.raw)
        frames.setdefault(packet.frame_id, packet)
        spooled_s[packet.frame_id] = waiting.spooled_s
        packet_bytes += len(waiting.raw)
        spool.sent(waiting)
    # Patches leave the spool in the order they came: the instrument's.
    in_order = [i for i, packet in frames.items() if packet.channel is Channel.PATCH]
    sent = len(received_s) * scene.patches
    if not len(in_order) == sent == totals['prismlink_frames_total{channel="patch"}']:
        why = [f"{k} {v:.0f}" for k, v in totals.items() if any(x in k for x in _LOST) and v]
        raise BenchError(
            f"{scene.name}: {len(in_order)} of {sent} patches were spooled: "
            f"{', '.join(why) or 'nothing was counted'}; remedy: a smaller --tile"
        )
    latencies = [
        spooled_s[frame] - received_s[number // scene.patches]
        for number, frame in enumerate(in_order)
    ]
    return Streamed(
        patches=sent,
        seconds=max(spooled_s.values()) - received_s[0],
        latencies_s=tuple(latencies),
        stage_seconds={name: _stage_seconds(totals, label) for name, label in STAGES.items()},
        busy_seconds=sum(_stage_seconds(totals, label) for label in THREADS),
        batches=int(totals["prismlink_batch_patches_count"]),
        frame_bytes=sum(packet.frame_bytes for packet in frames.values()),
        patch_frame_bytes=sum(frames[i].frame_bytes for i in in_order),
        packet_bytes=packet_bytes,
        valid_samples=len(received_s) * scene.valid_samples,
        peak_rss_bytes=peak,
    )


def _stage_seconds(totals: Mapping[str, float], label: str) -> float:
    """Seconds a stage took in all."""
    return totals.get(f'prismlink_stage_seconds_sum{{stage="{label}"}}', 0.0)
