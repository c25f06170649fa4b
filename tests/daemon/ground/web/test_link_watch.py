"""Contacts, rates and what is left of a pass, from counts and moments that a test hands in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from daemon.ground.metrics import GroundMetrics
from daemon.ground.web.link_watch import (
    HISTORY,
    HISTORY_S,
    RATE_S,
    LinkCounts,
    LinkState,
    LinkView,
    LinkWatch,
    PassRecord,
)
from daemon.link.passes import ContactPlan, Pass
from daemon.metrics import new_registry

SILENCE_S = 5.0
UTC_S = 1000.0
"""What UTC is ahead of the other clock by."""


class Rig:
    """A watch, and how far its clock and its counts are."""

    def __init__(self, plan: ContactPlan | None = None, bits_per_s: float | None = None) -> None:
        self.watch = LinkWatch(silence_s=SILENCE_S, plan=plan, bits_per_s=bits_per_s)
        self.now_s, self.counts = 0.0, LinkCounts()
        self.ended: list[PassRecord] = []
        self.look()

    def look(self, loss: float | None = None) -> None:
        """Look once more."""
        ended = self.watch.look(self.counts, loss, now_s=self.now_s, utc_s=self.now_s + UTC_S)
        self.ended += [ended] if ended else []

    def hear(self, seconds: int, *, loss: float | None = None) -> None:
        """Ten packets of a hundred bytes, and a frame, every second."""
        for _ in range(seconds):
            self.now_s += 1.0
            counts = self.counts
            self.counts = replace(
                counts,
                packets=counts.packets + 10,
                octets=counts.octets + 1000,
                frames=counts.frames + 1,
            )
            self.look(loss)

    def be_silent(self, seconds: int) -> None:
        """Nothing."""
        for _ in range(seconds):
            self.now_s += 1.0
            self.look()

    @property
    def view(self) -> LinkView:
        """The link now."""
        return self.watch.view(now_s=self.now_s, utc_s=self.now_s + UTC_S)


def test_nothing_heard() -> None:
    """Before the first packet there is no contact, and nothing is claimed."""
    rig = Rig()
    rig.be_silent(20)

    assert rig.view.state is LinkState.WAITING
    assert (rig.view.since_utc_s, rig.view.silent_s, rig.view.loss) == (None, None, None)
    assert rig.view.contact_s == 0.0
    assert rig.ended == []


def test_a_contact_begins_and_ends() -> None:
    """It is as long as packets came, however long the silence is after which it is over."""
    rig = Rig()
    rig.be_silent(3)
    rig.hear(10, loss=0.05)
    assert rig.view.state is LinkState.CONTACT
    assert (rig.view.since_utc_s, rig.view.contact_s) == (UTC_S + 4, 9.0)
    assert rig.view.counts == rig.view.total == LinkCounts(packets=100, octets=10_000, frames=10)

    rig.be_silent(int(SILENCE_S))
    assert rig.view.state is LinkState.CONTACT
    rig.be_silent(1)
    assert rig.view.state is LinkState.SILENT
    assert (rig.view.since_utc_s, rig.view.silent_s) == (UTC_S + 13, SILENCE_S + 1)
    assert rig.ended == [
        PassRecord(begin_utc_s=UTC_S + 4, end_utc_s=UTC_S + 13, counts=rig.view.counts, loss=0.05)
    ]


def test_each_contact_counts_its_own() -> None:
    """A second one begins at zero; the total goes on."""
    rig = Rig()
    rig.hear(10)
    rig.be_silent(10)
    rig.hear(4)

    assert rig.view.counts.packets == 40
    assert rig.view.total.packets == 140
    assert rig.watch.finish() == PassRecord(
        begin_utc_s=UTC_S + 21, end_utc_s=UTC_S + 24, counts=rig.view.counts
    )
    assert rig.watch.finish() is None


def test_rates_are_of_the_last_seconds() -> None:
    """They come to the truth and fall to zero within `RATE_S`."""
    rig = Rig()
    rig.hear(10)
    assert rig.view.packets_per_s == pytest.approx(10.0)
    assert rig.view.bits_per_s == pytest.approx(8000.0)
    rig.be_silent(int(RATE_S) + 1)
    assert (rig.view.packets_per_s, rig.view.bits_per_s) == (0.0, 0.0)


def test_the_curve_is_bounded() -> None:
    """It has a point every so often, and forgets the oldest."""
    rig = Rig()
    rig.hear(20)
    assert len(rig.view.history_bits_per_s) == 1 + 20 / HISTORY_S
    rig.hear(round(HISTORY * HISTORY_S))
    assert rig.view.history_bits_per_s == (pytest.approx(8000.0),) * HISTORY


def test_a_plan_tells_what_is_left() -> None:
    """Time until the pass closes, the next one, and what the link carries in it."""
    passes = [
        Pass(opens_utc_s=UTC_S + 10, closes_utc_s=UTC_S + 40, bits_per_s=2e5),
        Pass(opens_utc_s=UTC_S + 100, closes_utc_s=UTC_S + 140),
    ]
    rig = Rig(ContactPlan(passes), bits_per_s=1e5)
    assert (rig.view.left_s, rig.view.next_utc_s) == (None, UTC_S + 10)
    assert rig.view.budget_bits_per_s == 1e5
    rig.hear(15)
    assert (rig.view.left_s, rig.view.next_utc_s) == (25.0, UTC_S + 100)
    assert rig.view.budget_bits_per_s == 2e5
    rig.be_silent(150)
    assert (rig.view.left_s, rig.view.next_utc_s, rig.view.has_plan) == (None, None, True)


def test_without_a_plan_nothing_is_known_of_it() -> None:
    """Unknown is not zero."""
    view = Rig().view
    assert (view.left_s, view.next_utc_s, view.budget_bits_per_s) == (None, None, None)
    assert not view.has_plan


def test_counts_are_the_metrics() -> None:
    """Each count is a metric that the ground really has, summed over its labels."""
    metrics = GroundMetrics(new_registry())
    metrics.packets_received.labels("side").inc(2)
    metrics.packets_received.labels("patch").inc(3)
    metrics.bytes_in.inc(700)
    metrics.packets_refused.labels("seal").inc(1)
    metrics.packets_duplicate.inc(4)
    metrics.frames_complete.labels("side").inc(5)
    metrics.frames_repaired.inc(6)
    metrics.frames_incomplete.labels("patch").inc(7)
    metrics.frames_asked.inc(8)
    metrics.frames_mended.inc(9)
    metrics.frames_lost.inc(10)
    metrics.patches_decoded_once.inc(11)
    metrics.tiles_written.labels("partial").inc(12)

    assert LinkCounts.of(metrics.totals()) == LinkCounts(
        packets=5, octets=700, refused=1, repeated=4, frames=5, repaired=6, given_up=7,
        asked=8, mended=9, lost=10, patches=11, tiles=12,
    )  # fmt: skip


def test_a_record_comes_back_from_json() -> None:
    """What is written is what is read."""
    record = PassRecord(begin_utc_s=1.5, end_utc_s=9.0, counts=LinkCounts(packets=3), loss=0.25)
    assert PassRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(3, id="a number"),
        pytest.param([], id="a list"),
        pytest.param({}, id="nothing"),
        pytest.param({"begin_utc_s": 1, "end_utc_s": 2, "counts": 3, "loss": None}, id="no counts"),
        pytest.param(
            {"begin_utc_s": 1, "end_utc_s": 2, "counts": {"unheard": 3}, "loss": None},
            id="another count",
        ),
        pytest.param(
            {"begin_utc_s": "x", "end_utc_s": 2, "counts": {}, "loss": None}, id="no moment"
        ),
        pytest.param(
            {"begin_utc_s": 1, "end_utc_s": float("nan"), "counts": {}, "loss": None},
            id="not a number",
        ),
    ],
)
def test_no_record_is_told(table: object) -> None:
    """Whatever a file holds, it is a record or a `ValueError`."""
    with pytest.raises(ValueError, match=r"record|could not convert"):
        PassRecord.from_json(table)
