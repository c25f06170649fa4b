"""Batches become frames; frames pass."""

from __future__ import annotations

from codec.frame import PatchFrame, parse
from daemon.link.packet import Channel
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.encode import EncodeWorker
from daemon.onboard.items import Batch, OpenedPatch
from fakes.flight import opened, side


def test_a_batch_becomes_a_frame_for_each_patch() -> None:
    """In the order of its patches, each with its own tile's arrival time; the batch is counted."""
    metrics = FlightMetrics(new_registry())
    worker = EncodeWorker(metrics)
    patches = (*opened(rows=129, received_s=1.0), *opened(received_s=2.0))
    frames = list(worker.accept(Batch(opened=patches)))

    parsed = [parse(frame.raw) for frame in frames]
    assert [(f.patch_row, f.patch_col) for f in parsed if isinstance(f, PatchFrame)] == [
        (0, 0), (1, 0), (0, 0),
    ]  # fmt: skip
    assert {frame.channel for frame in frames} == {Channel.PATCH}
    assert [frame.received_s for frame in frames] == [1.0, 1.0, 2.0]
    totals = metrics.totals()
    assert totals["prismlink_patches_encoded_total"] == 0  # not before they are handed on
    assert totals["prismlink_batch_patches_sum"] == 3
    assert (worker.tick(), worker.finish()) == ((), ())


def test_side_information_passes() -> None:
    """A frame that is encoded already goes on as it is, and is no batch."""
    metrics = FlightMetrics(new_registry())
    frame = side()

    assert list(EncodeWorker(metrics).accept(frame)) == [frame]
    assert metrics.totals()["prismlink_batch_patches_count"] == 0


def test_every_patch_is_shown_with_its_frame() -> None:
    """Whoever checks quality sees all of them, in order, as they are handed on."""
    shown: list[tuple[OpenedPatch, bytes]] = []
    metrics = FlightMetrics(new_registry())
    worker = EncodeWorker(metrics, lambda patch, raw: shown.append((patch, raw)))
    patches = opened(rows=129)
    frames = list(worker.accept(Batch(opened=patches)))

    assert shown == [(patch, frame.raw) for patch, frame in zip(patches, frames, strict=True)]
