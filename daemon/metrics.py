"""All that a process tells Prometheus, on a registry that is handed in.

Base units; the unit and the kind are in the name (`_seconds`, `_bytes`, `_total`, `_info`). Labels
take their values from closed sets, listed in `daemon.metric_labels`: stage and mailbox names, link
channels, `reason` of the error trees and of mailboxes. A tile, a scene or an address is never one.

On board everything lost after a tile was accepted is counted in patches, at the stage that lost it:
patches received = patches sent on + patches dropped, exactly.

On the ground every patch frame is followed likewise, and once a process has ended (before, what is
in its mailboxes and open tiles comes on the right side) these are exact, unless `stage_errors`
counts an internal error:
frames_complete{channel="patch"} + frames_read_back{channel="patch"}
= patches_decoded + patches_failed + patches_waiting + frames_set_aside{channel="patch"};
patches_decoded = patches_written + dropped_patches, over all stages.
"""

from __future__ import annotations

import enum
import itertools
from contextlib import AbstractContextManager
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from daemon.errors import AddressError
from daemon.mailbox import Mailbox
from daemon.metric_labels import FLIGHT_SERIES, GROUND_SERIES, PROCESS_SERIES, Series
from daemon.version import installed_version

PREFIX: Final = "prismlink"

LATENCY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.07, 0.1, 0.25, 0.5, 0.557, 1, 2.5, 5, 10)
"""70 ms is one patch at EnMAP's rate, 557 ms one row of eight (128 lines of 4.4 ms)."""
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class ProcessMetrics:
    """What every process tells: stages, mailboxes, its version, its memory and open files."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        ProcessCollector(namespace=PREFIX, registry=registry)
        self._build = self._gauge("build_info", "Version that runs; always 1.", "version")
        self._build.labels(installed_version()).set(1)
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
    def registry(self) -> CollectorRegistry:
        """Where everything is registered, for `serve`."""
        return self._registry

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

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.tiles_received = self._counter("tiles_received_total", "Tiles accepted.")
        self.tiles_empty = self._counter("tiles_empty_total", "Tiles without any valid sample.")
        self.patches_received = self._counter(
            "patches_received_total", "Patches of the tiles accepted."
        )
        self.patches_encoded = self._counter("patches_encoded_total", "Patches encoded.")
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


class GroundMetrics(ProcessMetrics):
    """What the ground process tells. Each attribute is one metric."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.dropped_packets = self._dropped("packets")
        # Of side information: patch frames are counted in patches, as all that becomes of them.
        self.dropped_frames = self._dropped("frames")
        self.packets_received = self._counter(
            "packets_received_total", "Sound packets, repeated ones too, by channel.", "channel"
        )
        self.packets_refused = self._counter(
            "packets_refused_total", "Bytes received that are no packet, by reason.", "reason"
        )
        self.packets_duplicate = self._counter(
            "packets_duplicate_total", "Packets received before."
        )
        self.packets_late = self._counter(
            "packets_late_total", "Packets overtaken by later ones, no longer missing."
        )
        self.reports = self._counter(
            "reports_total", "Reports to the board, by what became of them.", "state"
        )
        self.frames_lost = self._counter(
            "frames_lost_total", "Frames that the board can never send again."
        )
        self.frames_lost_before = self._counter(
            "frames_lost_before_total",
            "Frames likewise, sent before this process began: an earlier one may have them.",
        )
        self.link_loss = self._gauge("link_loss_ratio", "Share of packets that do not come.")
        # A gauge: a packet that comes late is missing no more.
        self.packets_missing = self._gauge(
            "packets_missing", "Packets sent and not received, by where the gap is.", "reason"
        )
        self.frames_complete = self._counter(
            "frames_complete_total", "Frames put together, by channel.", "channel"
        )
        self.frames_incomplete = self._counter(
            "frames_incomplete_total", "Frames given up for want of packets.", "channel"
        )
        self.frames_repaired = self._counter(
            "frames_repaired_total", "Frames put together with the help of repair packets."
        )
        self.frames_evicted = self._counter(
            "frames_evicted_total", "Incomplete frames given up early, to make room."
        )
        self.frames_set_aside = self._counter(
            "frames_set_aside_total",
            "Frames put together and not decoded then: they, or their tile, were here before, or "
            "they wait for others of it.",
            *("channel", "reason"),
        )
        self.frames_read_back = self._counter(
            "frames_read_back_total", "Frames read from the archive to be decoded.", "channel"
        )
        self.tiles_without_model = self._gauge(
            "tiles_without_model", "Tiles in the archive that wait for their model."
        )
        self.archive_frames = self._gauge("archive_frames", "Frames in the archive.")
        self.archive_bytes = self._gauge("archive_bytes", "Bytes of the archive's files.")
        self.archive_limit_bytes = self._gauge("archive_limit_bytes", "Bytes they take at most.")
        self.archive_dropped_frames = self._counter(
            "archive_dropped_frames_total",
            "Frames that left the archive, by whether their tile was written whole.",
            "reason",
        )
        self.archive_degraded = self._gauge(
            "archive_degraded", "1 while frames are not archived because the disk fails."
        )
        self.archive_recovered_frames = self._gauge(
            "archive_recovered_frames", "Frames found in the archive at the start."
        )
        self.archive_skipped_bytes = self._gauge(
            "archive_skipped_bytes", "Bytes found at the start that are no sound record."
        )
        self.archive_unreadable_files = self._gauge(
            "archive_unreadable_files", "Files of the archive that could not be read at the start."
        )
        self.patches_decoded = self._counter("patches_decoded_total", "Patches decoded.")
        self.patches_failed = self._counter(
            "patches_failed_total", "Patch frames complete and not decoded.", "reason"
        )
        self.patches_waiting = self._gauge(
            "patches_waiting", "Patch frames that wait for their tile's side information."
        )
        # A gauge, as above: the instrument counts its tiles, so this sees what a dead board missed.
        self.tiles_missing = self._gauge(
            "tiles_missing", "Tiles the instrument counted and of which nothing came."
        )
        self.tiles_written = self._counter("tiles_written_total", "Tiles written.", "state")
        # After the tiles: who reads that one was written reads what of it was missing, too.
        self.patches_written = self._counter(
            "patches_written_total", "Patches that tiles were written with."
        )
        self.patches_missing = self._counter(
            "patches_missing_total", "Patches that tiles were written without."
        )
        self.tile_write_errors = self._counter(
            "tile_write_errors_total", "Tiles that could not be written."
        )
        self._begin(GROUND_SERIES)


class MetricsServer:
    """An open endpoint.

    Attributes:
        port: The port it listens on.
    """

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except (OSError, OverflowError) as error:
            raise AddressError(f"{address}:{port}", str(error)) from error
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(registry: CollectorRegistry, address: str = "127.0.0.1", port: int = 0) -> MetricsServer:
    """Answer Prometheus over HTTP.

    Args:
        registry: What to tell.
        address: Where to listen; the default is for this machine alone.
        port: 0: any that is free.

    Raises:
        AddressError: If nothing can listen there.
    """
    return MetricsServer(registry, address, port)


def new_registry() -> CollectorRegistry:
    """A registry of its own for a process or a test, so that modules need not know Prometheus."""
    return CollectorRegistry()


def _labels(labels: dict[str, str]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""
