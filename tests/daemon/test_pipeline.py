"""Mailboxes and stages of one process share a clock, metrics, and the way drops are counted."""

from __future__ import annotations

from daemon.config_sections import MailboxSettings
from daemon.mailbox import Policy
from daemon.metrics import FlightMetrics, new_registry
from daemon.pipeline import Pipeline
from daemon.stage import KeepsNothing
from daemon.watchdog import Pulses
from fakes.clock import FakeClock


class Refuses(KeepsNothing):
    """A worker that takes nothing."""

    def accept(self, item: bytes) -> tuple[()]:
        """Fail."""
        raise ValueError(item)


class Rig:
    """A pipeline and what it lost."""

    def __init__(self) -> None:
        self.lost: list[tuple[str, bytes, str]] = []
        self.metrics = FlightMetrics(new_registry())
        self.line = Pipeline(
            clock=FakeClock(),
            metrics=self.metrics,
            pulses=Pulses(FakeClock()),
            tick_s=1.0,
            on_drop=lambda stage, item, reason: self.lost.append((stage, item, reason)),
        )


def test_a_mailbox_counts_its_drops_under_the_stage_it_feeds() -> None:
    """And it is watched: its length stands in the metrics under its own name."""
    rig = Rig()
    bounds = MailboxSettings(max_items=1, policy=Policy.DROP_NEWEST)
    mailbox = rig.line.mailbox("letters", bounds, before="reader", size_of=len)
    mailbox.put(b"first")
    mailbox.put(b"second")

    assert rig.lost == [("reader", b"second", "full_items")]
    assert rig.metrics.totals()['prismlink_queue_items{queue="letters"}'] == 1


def test_a_stage_counts_what_it_loses_under_its_own_name() -> None:
    """With the reason; its errors are in the metrics."""
    rig = Rig()
    mailbox = rig.line.mailbox("letters", MailboxSettings(), before="reader", size_of=len)
    stage = rig.line.stage("reader", Refuses(), mailbox, lambda _: None)
    mailbox.put(b"first")
    stage.start()
    stage.stop_intake()

    assert stage.drain(5.0)
    assert rig.lost == [("reader", b"first", "internal_error")]
    errors = 'prismlink_stage_errors_total{stage="reader",reason="internal_error"}'
    assert rig.metrics.totals()[errors] == 1


def test_a_source_polls_until_nothing_is_pending() -> None:
    """What the socket still holds when the stop comes is taken."""
    left = [1, 2, 3]
    source = Rig().line.source("socket", lambda: left.pop() if left else None, lambda: bool(left))
    source.start()
    source.stop_intake()

    assert source.drain(5.0)
    assert left == []
