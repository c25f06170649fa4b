"""Workers joined by mailboxes: what building the flight and the ground process has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from daemon.clock import Clock
from daemon.config_sections import MailboxSettings
from daemon.mailbox import Mailbox
from daemon.metrics import ProcessMetrics
from daemon.stage import Source, Stage, Worker
from daemon.watchdog import Pulses

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Makes the parts of one process, on one clock and one set of metrics.

    Attributes:
        clock: For all of them.
        metrics: Told times, errors and queue lengths.
        pulses: Told that stages go on.
        tick_s: Longest time between two ticks of a worker [s].
        on_drop: Told the stage in or before which an item was lost, the item, and the reason.
    """

    clock: Clock
    metrics: ProcessMetrics
    pulses: Pulses
    tick_s: float
    on_drop: Callable[[str, Any, str], None]

    def mailbox(
        self,
        name: str,
        bounds: MailboxSettings,
        *,
        before: str,
        size_of: Callable[[Any], int] = attrgetter("size_bytes"),
    ) -> Mailbox[Any]:
        """Make the mailbox before a stage, under whose name its drops are counted."""
        mailbox: Mailbox[Any] = Mailbox(
            name,
            max_items=bounds.max_items,
            max_bytes=bounds.max_bytes,
            max_age_s=bounds.max_age_s,
            policy=bounds.policy,
            clock=self.clock,
            size_of=size_of,
            on_drop=partial(self.on_drop, before),
            on_wait=self.pulses.alive,
        )
        self.metrics.watch(mailbox)
        return mailbox

    def stage(
        self,
        name: str,
        worker: Worker[In, Out],
        inbox: Mailbox[In],
        deliver: Callable[[Out], object] | None,
    ) -> Stage[In, Out]:
        """Make a stage."""
        return Stage(
            name,
            worker,
            inbox,
            deliver,
            tick_s=self.tick_s,
            clock=self.clock,
            observer=self.metrics,
            pulses=self.pulses,
            on_drop=partial(self.on_drop, name),
        )

    def source(self, name: str, poll: Callable[[], object], pending: Callable[[], bool]) -> Source:
        """Make a loop that brings something in, or takes it out."""
        return Source(
            name,
            poll,
            clock=self.clock,
            observer=self.metrics,
            pulses=self.pulses,
            pending=pending,
        )
