"""A tile becomes its side frame and then its patches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from codec.encoder import Encoder
from codec.errors import TileError
from codec.frame import SideFrame, parse
from codec.tile import Tile, TileInfo
from daemon.link.packet import Channel
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.items import EncodedFrame, OpenedPatch, ReceivedTile
from daemon.onboard.models import Model
from daemon.onboard.pace import Pace
from daemon.onboard.patches import PatchWorker
from daemon.onboard.steps import StepControl
from fakes.bundles import minmax_bundle
from fakes.cubes import tile
from fakes.flight import calm, encoder, model


def test_side_information_leaves_before_its_patches() -> None:
    """The side frame comes first, then every patch once, all with the tile's arrival time."""
    received = ReceivedTile(tile=tile(bands=4, rows=129, cols=8), received_s=3.5)
    worker = PatchWorker(model, calm(), FlightMetrics(new_registry()))
    first, *rest = worker.accept(received)

    assert isinstance(first, EncodedFrame)
    assert (first.channel, first.received_s) == (Channel.SIDE, 3.5)
    frame = parse(first.raw)
    assert isinstance(frame, SideFrame)
    assert frame.tile_id == received.tile.info.tile_id
    patches = [item for item in rest if isinstance(item, OpenedPatch)]
    assert len(patches) == len(rest) == received.patches
    assert [(p.job.patch_row, p.job.patch_col) for p in patches] == [(0, 0), (1, 0)]
    assert {patch.received_s for patch in patches} == {3.5}
    assert {patch.side_frame for patch in patches} == {first.raw}


def test_a_tile_that_does_not_fit_gives_nothing() -> None:
    """It is an error for the stage to count; not even its side information goes on."""
    refusing = Encoder(minmax_bundle(bands=5), backend="torch-cpu")
    other = Model(refusing, StepControl(refusing), Path("minmax.safetensors"))
    worker = PatchWorker(lambda: other, calm(), FlightMetrics(new_registry()))
    items = worker.accept(ReceivedTile(tile=tile(bands=4, rows=8, cols=8), received_s=0.0))
    with pytest.raises(TileError):
        next(items)


def test_nothing_waits() -> None:
    """Time and the end bring nothing."""
    worker = PatchWorker(model, calm(), FlightMetrics(new_registry()))
    assert (worker.tick(), worker.finish()) == ((), ())


def test_a_tile_of_fill_alone_is_counted_and_goes_on() -> None:
    """Nothing valid is a legal tile: it has its frames, and its own counter."""
    metrics = FlightMetrics(new_registry())
    empty = Tile(samples=np.full((3, 9, 8), -1, dtype=np.int16), info=TileInfo(nodata=-1.0))
    items = list(
        PatchWorker(model, calm(), metrics).accept(ReceivedTile(tile=empty, received_s=0.0))
    )
    assert len(items) == 2
    assert metrics.totals()["prismlink_tiles_empty_total"] == 1


def test_a_tile_is_encoded_as_fast_as_the_pace_says() -> None:
    """The patches of a tile that others wait behind take the larger steps of speed 3."""
    metrics = FlightMetrics(new_registry())
    fill = iter((0.0, 1.0))
    worker = PatchWorker(model, Pace(2, 3, lambda: next(fill), lambda _: None), metrics)
    for larger in (1.0, math.sqrt(2)):
        received = ReceivedTile(tile=tile(bands=4, rows=8, cols=8), received_s=0.0)
        _, patch = worker.accept(received)
        assert isinstance(patch, OpenedPatch)
        assert patch.job.conditioning.component_unit == pytest.approx(encoder().step * larger)


def test_patches_are_views_of_their_tile() -> None:
    """Nothing is copied before it is encoded; each counts as the samples it keeps alive."""
    received = ReceivedTile(tile=tile(bands=9, rows=16, cols=300), received_s=0.0)
    worker = PatchWorker(model, calm(), FlightMetrics(new_registry()))
    _, *patches = worker.accept(received)
    for patch in patches:
        assert isinstance(patch, OpenedPatch)
        assert np.shares_memory(patch.job.samples, received.tile.samples)
    assert sum(patch.size_bytes for patch in patches) == received.size_bytes


def test_a_step_that_must_grow_does() -> None:
    """By as many octaves as rate control asks for; a metric tells."""
    metrics = FlightMetrics(new_registry())
    worker = PatchWorker(model, calm(), metrics, lambda: 1.5)
    side, *_ = worker.accept(ReceivedTile(tile=tile(bands=4, rows=8, cols=8), received_s=0.0))
    assert isinstance(side, EncodedFrame)
    frame = parse(side.raw)
    assert isinstance(frame, SideFrame)
    assert frame.step == pytest.approx(encoder().step * 2**1.5)
    assert metrics.totals()["prismlink_step_octaves"] == 1.5


def test_each_tile_is_opened_with_the_model_that_is_at_work_then() -> None:
    """Its patches are that model's, whatever comes to work before they are encoded."""
    first, second = (
        Model(encoder(), StepControl(encoder()), Path(f"{name}.safetensors")) for name in "ab"
    )
    at_work = iter((first, second))
    worker = PatchWorker(lambda: next(at_work), calm(), FlightMetrics(new_registry()))
    for expected in (first, second):
        received = ReceivedTile(tile=tile(bands=4, rows=129, cols=8), received_s=0.0)
        patches = [item for item in worker.accept(received) if isinstance(item, OpenedPatch)]
        assert [patch.model for patch in patches] == [expected, expected]
