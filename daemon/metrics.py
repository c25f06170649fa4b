"""All that a process tells Prometheus, on a registry that is handed in.

What only the ground tells is in `daemon.ground.metrics`.

Base units; the unit and the kind are in the name (`_seconds`, `_bytes`, `_total`, `_info`). Labels
take their values from closed sets, listed in `daemon.metric_labels`: stage and mailbox names, link
channels, `reason` of the error trees and of mailboxes. A tile, a scene or an address is never one.

On board everything lost after a tile was accepted is counted in patches, at the stage that lost it:
patches received = patches sent on + patches dropped, exactly.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from daemon.build import build_versions
from daemon.mailbox import Mailbox
from daemon.metric_labels import FLIGHT_SERIES, PROCESS_SERIES, Series

PREFIX: Final = "prismlink"
Registry: TypeAlias = CollectorRegistry

LATENCY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.07, 0.1, 0.25, 0.5, 0.557, 1, 2.5, 5, 10)
"""70 ms is one patch at EnMAP's rate, 557 ms one row of eight (128 lines of 4.4 ms)."""
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
PSNR_BUCKETS_DB: Final = (20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 80, 100)
ERROR_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Largest error of a patch, in the units of its samples: reflectance 1.0 is 10,000 in most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """One metric that is read from elsewhere when Prometheus asks.

    Attributes:
        name: Without prefix, and without `_total`.
        text: Its help.
        labels: Names of its labels.
        counts: Whether it is a counter; otherwise a gauge.
        values: Values of the labels, and what is read there.
    """

    name: str
    text: str
    labels: tuple[str, ...]
    counts: bool = False
    values: tuple[tuple[tuple[str, ...], float], ...] = ()


class ProcessMetrics:
    """What every process tells: stages, mailboxes, its versions, its memory and open files."""

    def __init__(self, registry: Registry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        ProcessCollector(namespace=PREFIX, registry=registry)
        versions = build_versions()
        build = self._gauge("build_info", "Versions that run; always 1.", *versions)
        build.labels(*versions.values()).set(1)
        self.stage_seconds = self._histogram(
            "stage_seconds", "Time one item took in a stage.", LATENCY_BUCKETS_S, "stage"
        )
        self.stage_errors = self._counter(
            "stage_errors_total", "Errors a stage caught, by reason.", "stage", "reason"
        )
        self.queue_items = self._gauge("queue_items", "Items waiting in a mailbox.", "queue")
        self.queue_bytes = self._gauge("queue_bytes", "Bytes waiting in a mailbox.", "queue")
        self.queue_oldest_age = self._gauge(
            "queue_oldest_age_seconds", "Time the oldest item of a mailbox has waited.", "queue"
        )
        self.stages_late = self._gauge(
            "stages_late", "Stages that had not drained when the process had to end."
        )
        self.insecure = self._gauge(
            "insecure", "1 while a socket is open to other machines without keys."
        )
        self.seal_degraded = self._gauge(
            "seal_degraded", "1 while the disk fails the counters of seals, by what for.", "use"
        )
        self.dropped_patches = self._dropped("patches")
        self.dropped_tiles = self._dropped("tiles")
        self.bytes_in = self._counter("bytes_in_total", "Bytes received, bad ones included.")
        self.log_lines_suppressed = self._counter(
            "log_lines_suppressed_total",
            "Log lines not written, for there were many of their kind.",
        )
        self.models_refused = self._counter(
            "models_refused_total",
            "Models that were not taken, by the check they failed.",
            "reason",
        )
        self.backend_failures = self._counter(
            "backend_failures_total", "Backends that failed at work; another one took over."
        )
        self._model = self._gauge(
            "model_info", "Models loaded and what runs them; always 1.", "model", "backend"
        )
        self._begin(PROCESS_SERIES)

    @property
    def registry(self) -> Registry:
        """Where everything is registered."""
        return self._registry

    def exposition(self) -> bytes:
        """All of it in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def tell(self, read: Callable[[], Iterable[Readings]]) -> None:
        """Read other metrics whenever Prometheus asks."""
        self._registry.register(_Reader(read))

    def totals(self) -> dict[str, float]:
        """Every sample's present value by its name and labels, as Prometheus would write it.

        Buckets of histograms are left out; their sums and counts are there.
        """
        return {
            sample.name + _labels(sample.labels): sample.value
            for metric in self._registry.collect()
            for sample in metric.samples
            if not sample.name.endswith("_bucket")
        }

    def uses(self, model: str, backend: str) -> None:
        """Name a model that is loaded."""
        self._model.labels(model, backend).set(1)

    def leaves(self, model: str, backend: str) -> None:
        """A model is loaded no more."""
        self._model.remove(model, backend)

    def runs_on_another(self, model: str, failed: str, backend: str) -> None:
        """Count a backend that failed, and name what runs the model now."""
        self.backend_failures.inc()
        self._model.remove(model, failed)
        self.uses(model, backend)

    def took(self, stage: str, seconds: float) -> None:
        """Count the time an item took; see `daemon.stage.StageObserver`."""
        self.stage_seconds.labels(stage).observe(seconds)

    def failed(self, stage: str, reason: str) -> None:
        """Count an error; see `daemon.stage.StageObserver`."""
        self.stage_errors.labels(stage, reason).inc()

    def timer(self, stage: str) -> AbstractContextManager[Any]:
        """Time a part of a stage; a `codec` Timer."""
        return self.stage_seconds.labels(stage).time()

    def watch(self, mailbox: Mailbox[Any]) -> None:
        """Read a mailbox whenever Prometheus asks."""
        self.queue_items.labels(mailbox.name).set_function(lambda: mailbox.items)
        self.queue_bytes.labels(mailbox.name).set_function(lambda: mailbox.bytes)
        self.queue_oldest_age.labels(mailbox.name).set_function(lambda: mailbox.oldest_age_s)

    def _begin(self, series: Series) -> None:
        for metric, labels in series:
            for values in itertools.product(*labels):
                getattr(self, metric).labels(*values)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=self._registry)

    def _dropped(self, what: str) -> Counter:
        text = f"Accepted {what} that a stage or the mailbox before it lost, by reason."
        return self._counter(f"dropped_{what}_total", text, "stage", "reason")


class FlightMetrics(ProcessMetrics):
    """What the flight process tells. Each attribute is one metric."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.tiles_received = self._counter("tiles_received_total", "Tiles accepted.")
        self.tiles_empty = self._counter("tiles_empty_total", "Tiles without any valid sample.")
        self.patches_received = self._counter(
            "patches_received_total", "Patches of the tiles accepted."
        )
        self.patches_encoded = self._counter("patches_encoded_total", "Patches encoded.")
        self.realtime_factor = self._gauge(
            "realtime_factor", "Patches encoded in the last minute over EnMAP's, 14.4 a second."
        )
        self.quality_available = self._gauge(
            "quality_available",
            "1 while some patches are decoded on board, see model.quality_every.",
        )
        self.quality_checked = self._counter(
            "quality_checked_total", "Patches decoded on board, and compared."
        )
        self.quality_skipped = self._counter(
            "quality_skipped_total", "Patches not decoded on board: the one before was not done."
        )
        self.quality_failures = self._counter(
            "quality_failures_total", "Patches that do not decode on board, by reason.", "reason"
        )
        self.quality_psnr = self._histogram(
            "quality_psnr_db", "PSNR of patches, MAX = reflectance 1.0 [dB].", PSNR_BUCKETS_DB
        )
        self.quality_max_error = self._histogram(
            "quality_max_error", "Largest error of patches [units of their samples].", ERROR_BUCKETS
        )
        self.quality_notes_dropped = self._counter(
            "quality_notes_dropped_total",
            "Notes of quality that gave way to newer ones before the link was open.",
        )
        self.tile_messages_refused = self._counter(
            "tile_messages_refused_total", "Messages that are no tile, by reason.", "reason"
        )
        self.tile_sequence_gaps = self._counter(
            "tile_sequence_gaps_total", "Tiles the instrument counted and we never received."
        )
        self.encoding_speed = self._gauge(
            "encoding_speed", "How fast tiles are encoded: 0, the fewest bytes, to 3."
        )
        self.encoding_speed_given = self._gauge(
            "encoding_speed_given", "How fast they are where there is time: `model.speed`."
        )
        self.step_octaves = self._gauge(
            "step_octaves", "How far above their own steps are, for what waits to fit [octaves]."
        )
        self.batch_patches = self._histogram(
            "batch_patches", "Patches encoded together.", BATCH_BUCKETS
        )
        self.frames = self._counter("frames_total", "Frames spooled, by channel.", "channel")
        self.packets = self._counter("packets_total", "Packets sent, by channel.", "channel")
        self.link_open = self._gauge("link_open", "1 while a pass is open.")
        self.bytes_out = self._counter(
            "bytes_out_total", "Bytes of packets sent, by channel.", "channel"
        )
        self.commands = self._counter("commands_total", "Commands obeyed, by kind.", "kind")
        self.command_bytes = self._counter(
            "command_bytes_total", "Bytes received over the uplink, bad ones included."
        )
        self.commands_refused = self._counter(
            "commands_refused_total", "Commands refused, by reason.", "reason"
        )
        self.packets_repeated = self._counter(
            "packets_repeated_total", "Packets sent that the ground asked for again."
        )
        self.spool_kept_frames = self._gauge(
            "spool_kept_frames", "Frames sent that the ground has not acknowledged."
        )
        self.spool_packets = self._gauge("spool_packets", "Packets waiting for the link.")
        self.spool_bytes = self._gauge(
            "spool_bytes", "Bytes waiting for the link, or kept until they are acknowledged."
        )
        self.spool_limit_bytes = self._gauge("spool_limit_bytes", "Bytes that may wait at most.")
        self.spool_oldest_age = self._gauge(
            "spool_oldest_age_seconds", "Time the oldest packet has waited for the link."
        )
        self.spool_dropped_packets = self._counter(
            "spool_dropped_packets_total", "Packets given up, by reason.", "reason"
        )
        self.spool_degraded = self._gauge(
            "spool_degraded", "1 while packets wait in memory because the disk fails."
        )
        self.spool_recovered_packets = self._gauge(
            "spool_recovered_packets", "Packets found at the start that wait for the link."
        )
        self.spool_skipped_bytes = self._gauge(
            "spool_skipped_bytes", "Bytes found at the start that are no sound record."
        )
        self.spool_unreadable_files = self._gauge(
            "spool_unreadable_files", "Files of the spool that could not be read at the start."
        )
        self.model_loads = self._counter(
            "model_loads_total", "Models put to work after the start, by what for.", "how"
        )
        self.model_tests = self._counter(
            "model_tests_total", "Tests of the model at work: passed, or what failed.", "result"
        )
        self.tile_to_spool_seconds = self._histogram(
            "tile_to_spool_seconds",
            "From a tile's arrival to a frame of it in the spool.",
            LATENCY_BUCKETS_S,
        )
        self._begin(FLIGHT_SERIES)

    def sent(self, channel: enum.Enum, size_bytes: int) -> None:
        """Count a packet the link took."""
        label = channel.name.lower()
        self.packets.labels(label).inc()
        self.bytes_out.labels(label).inc(size_bytes)


def new_registry() -> Registry:
    """A registry of its own for a process or a test, so that modules need not know Prometheus."""
    return CollectorRegistry()


class _Reader(Collector):
    """Asks somebody else for metrics; for none of them when it is registered."""

    def __init__(self, read: Callable[[], Iterable[Readings]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Say nothing of what is not there yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return what can be read now."""
        for one in self._read():
            name = f"{PREFIX}_{one.name}"
            metric = Metric(name, one.text, "counter" if one.counts else "gauge")
            for values, value in one.values:
                labels = dict(zip(one.labels, values, strict=True))
                metric.add_sample(f"{name}_total" if one.counts else name, labels, value)
            yield metric


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""
