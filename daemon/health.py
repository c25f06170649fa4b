"""Whether a process hangs, and whether it takes work: the answers of /healthz and /readyz."""

from __future__ import annotations

from typing import Final

from daemon.notify import READY, Notifier
from daemon.watchdog import Pulses, late

HANG_S: Final = 120.0
"""Longest that one call of a stage may take where systemd watches nothing [s]: as its longest."""


class Health:
    """Knows from others how a process is. Any thread may ask.

    Args:
        notifier: Knows how far it is, and how long a stage may not be seen.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._pulses: Pulses | None = None

    def watch(self, pulses: Pulses) -> None:
        """From now on there are stages."""
        self._pulses = pulses

    @property
    def hung(self) -> list[str]:
        """The stages that hang, the one that does for longest first."""
        limit_s = self._notifier.watchdog_s
        ages_s = {} if self._pulses is None else self._pulses.ages_s()
        return late(ages_s, HANG_S if limit_s is None else limit_s)

    @property
    def ready(self) -> bool:
        """Whether the process takes work: it has a model that answered, and is not ending."""
        return self._notifier.phase == READY

    @property
    def phase(self) -> str:
        """How far it is, for people."""
        return self._notifier.phase
