"""What a process tells Prometheus: names, units, closed labels."""

from __future__ import annotations

import enum
import re
from dataclasses import replace

import pytest

from codec.errors import BitstreamError
from daemon.errors import (
    OutputError,
    ScenePlaceError,
    SceneSizeError,
    SceneTileError,
    SceneUnlikeError,
    reason_of,
)
from daemon.ground.archive import UNWRITTEN, WRITTEN
from daemon.ground.decode import NO_SIDE
from daemon.ground.metrics import GroundMetrics
from daemon.mailbox import CLOSED, DROP_REASONS, SHUTDOWN, Mailbox, Policy
from daemon.metrics import FlightMetrics, Readings, new_registry
from daemon.onboard.disk_spool import DAMAGED, ENDED
from daemon.onboard.spool import EVICTED, UNACKNOWLEDGED
from daemon.stage import INTERNAL_ERROR
from fakes.clock import FakeClock

Process = type[FlightMetrics] | type[GroundMetrics]
BOTH: list[Process] = [FlightMetrics, GroundMetrics]
SPOOL_REASONS = {EVICTED, UNACKNOWLEDGED, DAMAGED, ENDED}
MAILBOX_REASONS = {*DROP_REASONS, INTERNAL_ERROR} - {CLOSED, SHUTDOWN}
"""All but those of a process that ends, which nobody asks any more."""
DECODE_ERRORS = [e.__new__(e) for e in (BitstreamError, *BitstreamError.__subclasses__())]


class Channel(enum.IntEnum):
    """As the link has it."""

    SIDE = 0
    PATCH = 1


@pytest.mark.parametrize("process", BOTH)
def test_names(process: Process) -> None:
    """One prefix, a text for each, `_total` on counters alone, no time of creation."""
    registry = new_registry()
    process(registry)

    for family in registry.collect():
        assert family.name.startswith("prismlink_")
        assert family.documentation
        assert not re.search(r"_(ms|mib|total|count|sum|created)$", family.name)
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total"), sample.name
            assert not sample.name.endswith("_created")


@pytest.mark.parametrize(
    ("process", "name", "label", "values"),
    [
        (FlightMetrics, "packets_total", "channel", {"side", "patch", "housekeeping"}),
        (FlightMetrics, "bytes_out_total", "channel", {"side", "patch", "housekeeping"}),
        (FlightMetrics, "spool_dropped_packets_total", "reason", SPOOL_REASONS),
        (
            FlightMetrics,
            "commands_total",
            "kind",
            {"report", "open", "close", "suspend", "resume", "rate", "step", "model", "rollback"},
        ),
        (FlightMetrics, "frames_total", "channel", {"side", "patch"}),
        (
            FlightMetrics,
            "tile_messages_refused_total",
            "reason",
            {"message", *(f"message_{what}" for what in ("truncated", "version", "field", "size"))},
        ),
        (
            GroundMetrics,
            "packets_refused_total",
            "reason",
            {
                "packet",
                "seal",
                "replay",
                *(f"packet_{what}" for what in ("truncated", "checksum", "version", "field")),
            },
        ),
        (
            FlightMetrics,
            "model_tests_total",
            "result",
            {"passed", "bundle_digest", "bundle_answer", "backend"},
        ),
        (
            FlightMetrics,
            "quality_failures_total",
            "reason",
            {INTERNAL_ERROR, *map(reason_of, DECODE_ERRORS)},
        ),
        (
            GroundMetrics,
            "packets_received_bytes_total",
            "channel",
            {"side", "patch", "housekeeping"},
        ),
        (GroundMetrics, "packets_missing", "reason", {"gap", "before_start"}),
        (GroundMetrics, "packets_received_total", "channel", {"side", "patch", "housekeeping"}),
        (GroundMetrics, "reports_total", "state", {"sent", "not_taken"}),
        (GroundMetrics, "archive_dropped_frames_total", "reason", {WRITTEN, UNWRITTEN, DAMAGED}),
        (
            GroundMetrics,
            "patches_failed_total",
            "reason",
            {*MAILBOX_REASONS, NO_SIDE, *map(reason_of, DECODE_ERRORS)},
        ),
        (GroundMetrics, "tiles_written_total", "state", {"complete", "partial"}),
        (GroundMetrics, "scenes_written_total", "state", {"complete", "partial"}),
        (
            GroundMetrics,
            "scene_errors_total",
            "reason",
            {
                *(error.reason for error in (SceneUnlikeError, ScenePlaceError, SceneSizeError)),
                *(error.reason for error in (SceneTileError, OutputError)),
            },
        ),
        (GroundMetrics, "frames_incomplete_total", "channel", {"side", "patch"}),
    ],
)
def test_series_begin_at_zero(process: Process, name: str, label: str, values: set[str]) -> None:
    """The first refused packet is an increase from 0, not a series out of nowhere."""
    registry = new_registry()
    process(registry)

    assert {
        sample.labels[label]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"prismlink_{name}"
    } == dict.fromkeys(values, 0.0)


@pytest.mark.parametrize(
    ("process", "name", "stages", "reasons"),
    [
        (
            FlightMetrics,
            "dropped_patches_total",
            {"patches", "batches", "encode", "packets", "spool"},
            MAILBOX_REASONS,
        ),
        (GroundMetrics, "dropped_packets_total", {"collect"}, MAILBOX_REASONS),
        (GroundMetrics, "dropped_tiles_total", {"write"}, MAILBOX_REASONS),
        (
            FlightMetrics,
            "stage_errors_total",
            {
                *("ingest", "models", "patches", "batches", "encode", "packets", "spool"),
                *("downlink", "commands", "quality"),
            },
            {INTERNAL_ERROR},
        ),
        (
            GroundMetrics,
            "stage_errors_total",
            {
                *("receive", "models", "collect", "keep", "decode", "mosaic", "write"),
                *("scenes", "web"),
            },
            {INTERNAL_ERROR},
        ),
    ],
)
def test_drops_of_every_stage_begin_at_zero(
    process: Process, name: str, stages: set[str], reasons: set[str]
) -> None:
    """A stage's first drop is an increase, too, for whatever reason a mailbox has."""
    registry = new_registry()
    process(registry)

    assert {
        (sample.labels["stage"], sample.labels["reason"])
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"prismlink_{name}" and sample.labels["stage"] in stages
    } == {(stage, reason) for stage in stages for reason in reasons}


@pytest.mark.parametrize("process", BOTH)
def test_a_stage_is_observed(process: Process) -> None:
    """Times and errors of a stage, and parts of one timed by name."""
    registry = new_registry()
    metrics = process(registry)
    metrics.took("encode", 0.06)
    metrics.failed("encode", "checksum")
    with metrics.timer("quantize"):
        pass

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"prismlink_{name}", labels)

    assert value("stage_seconds_sum", stage="encode") == 0.06
    assert value("stage_seconds_bucket", stage="encode", le="0.05") == 0
    assert value("stage_seconds_bucket", stage="encode", le="0.07") == 1
    assert value("stage_seconds_count", stage="quantize") == 1
    assert value("stage_errors_total", stage="encode", reason="checksum") == 1


def test_a_mailbox_is_read_when_asked() -> None:
    """Depth, bytes and age are those of the moment Prometheus asks."""
    registry, clock = new_registry(), FakeClock()
    box: Mailbox[bytes] = Mailbox(
        "tiles",
        max_items=5,
        max_bytes=50,
        max_age_s=None,
        policy=Policy.BLOCK,
        clock=clock,
        size_of=len,
        on_drop=lambda *_: None,
    )
    FlightMetrics(registry).watch(box)
    box.put(b"abc")
    box.put(b"de")
    clock.advance(1.5)

    names = ("queue_items", "queue_bytes", "queue_oldest_age_seconds")
    labels = {"queue": "tiles"}
    assert [registry.get_sample_value(f"prismlink_{name}", labels) for name in names] == [2, 5, 1.5]


def test_packets_sent_are_counted_by_channel() -> None:
    """One call counts the packet and its bytes."""
    registry = new_registry()
    metrics = FlightMetrics(registry)
    metrics.sent(Channel.SIDE, 100)
    metrics.sent(Channel.PATCH, 50)
    metrics.sent(Channel.PATCH, 50)

    def value(name: str, channel: str) -> float | None:
        return registry.get_sample_value(f"prismlink_{name}", {"channel": channel})

    assert [value("packets_total", "side"), value("bytes_out_total", "side")] == [1, 100]
    assert [value("packets_total", "patch"), value("bytes_out_total", "patch")] == [2, 100]


@pytest.mark.parametrize("process", BOTH)
def test_every_model_loaded_is_named(process: Process) -> None:
    """One series for each bundle, in either process."""
    registry = new_registry()
    metrics = process(registry)
    metrics.uses("00ff" * 4, "torch-cpu")
    metrics.uses("11ee" * 4, "openvino")

    assert [
        (sample.labels["model"], sample.labels["backend"], sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "prismlink_model_info"
    ] == [("00ff" * 4, "torch-cpu", 1), ("11ee" * 4, "openvino", 1)]


def test_the_build_and_the_process_are_told() -> None:
    """Version and memory come with every process."""
    registry = new_registry()
    GroundMetrics(registry)
    families = {family.name: family.samples for family in registry.collect()}

    labels = families["prismlink_build_info"][0].labels
    assert list(labels) == ["version", "python", "torch", "openvino"]
    assert all(labels.values())
    assert families["prismlink_process_resident_memory_bytes"][0].value > 1e6


def test_what_is_read_elsewhere_is_told_when_asked() -> None:
    """Gauges and counters of others: their values now, with their labels, and nothing before."""
    metrics = FlightMetrics(new_registry())
    hot = Readings(name="gpu_temperature_celsius", text="How hot.", labels=("gpu",))
    bad = Readings(name="gpu_ecc_errors", text="Errors.", labels=("gpu", "kind"), counts=True)
    now: list[Readings] = []
    metrics.tell(lambda: now)
    assert "gpu" not in metrics.exposition().decode()

    now += [
        replace(hot, values=((("0",), 61.0), (("1",), 48.0))),
        replace(bad, values=((("0", "corrected"), 7.0),)),
    ]
    lines = metrics.exposition().decode().splitlines()
    assert [line for line in lines if "gpu" in line] == [
        "# HELP prismlink_gpu_temperature_celsius How hot.",
        "# TYPE prismlink_gpu_temperature_celsius gauge",
        'prismlink_gpu_temperature_celsius{gpu="0"} 61.0',
        'prismlink_gpu_temperature_celsius{gpu="1"} 48.0',
        "# HELP prismlink_gpu_ecc_errors_total Errors.",
        "# TYPE prismlink_gpu_ecc_errors_total counter",
        'prismlink_gpu_ecc_errors_total{gpu="0",kind="corrected"} 7.0',
    ]
