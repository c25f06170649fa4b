"""The state machines of the link, as tables: a pass, a frame on board, a frame on the ground.

What is not in a table changes nothing. `docs/link.md` shows them; a test draws its diagrams from
here, and another holds both ends to the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar


class PassState(Enum):
    """Whether the board may send."""

    CLOSED = "closed"
    OPEN = "open"
    SUSPENDED = "suspended"
    CLOSED_SUSPENDED = "closed_suspended"


class PassEvent(Enum):
    """What changes that: the contact plan, or a command."""

    RISES = "rises"
    SETS = "sets"
    OPEN = "open"
    CLOSE = "close"
    SUSPEND = "suspend"
    RESUME = "resume"


PASS: Final[Mapping[tuple[PassState, PassEvent], PassState]] = {
    (PassState.CLOSED, PassEvent.RISES): PassState.OPEN,
    (PassState.CLOSED, PassEvent.OPEN): PassState.OPEN,
    (PassState.CLOSED, PassEvent.SUSPEND): PassState.CLOSED_SUSPENDED,
    (PassState.OPEN, PassEvent.SETS): PassState.CLOSED,
    (PassState.OPEN, PassEvent.CLOSE): PassState.CLOSED,
    (PassState.OPEN, PassEvent.SUSPEND): PassState.SUSPENDED,
    (PassState.SUSPENDED, PassEvent.RESUME): PassState.OPEN,
    (PassState.SUSPENDED, PassEvent.SETS): PassState.CLOSED_SUSPENDED,
    (PassState.SUSPENDED, PassEvent.CLOSE): PassState.CLOSED_SUSPENDED,
    (PassState.CLOSED_SUSPENDED, PassEvent.RISES): PassState.SUSPENDED,
    (PassState.CLOSED_SUSPENDED, PassEvent.OPEN): PassState.SUSPENDED,
    (PassState.CLOSED_SUSPENDED, PassEvent.RESUME): PassState.CLOSED,
}


class SenderState(Enum):
    """How far a frame is on board."""

    WAITING = "waiting"
    SENT = "sent"
    ASKED = "asked"
    DONE = "done"
    GONE = "gone"


class SenderEvent(Enum):
    """What becomes of it."""

    LEFT = "left"
    WANTED = "wanted"
    REPEATED = "repeated"
    ACKNOWLEDGED = "acknowledged"
    EVICTED = "evicted"
    GROUND_ANEW = "ground_anew"


SENDER: Final[Mapping[tuple[SenderState, SenderEvent], SenderState]] = {
    (SenderState.WAITING, SenderEvent.LEFT): SenderState.SENT,
    (SenderState.WAITING, SenderEvent.ACKNOWLEDGED): SenderState.DONE,
    (SenderState.WAITING, SenderEvent.EVICTED): SenderState.GONE,
    (SenderState.SENT, SenderEvent.WANTED): SenderState.ASKED,
    (SenderState.SENT, SenderEvent.ACKNOWLEDGED): SenderState.DONE,
    (SenderState.SENT, SenderEvent.EVICTED): SenderState.GONE,
    (SenderState.ASKED, SenderEvent.REPEATED): SenderState.SENT,
    (SenderState.ASKED, SenderEvent.ACKNOWLEDGED): SenderState.DONE,
    (SenderState.ASKED, SenderEvent.EVICTED): SenderState.GONE,
    (SenderState.ASKED, SenderEvent.GROUND_ANEW): SenderState.SENT,
    (SenderState.GONE, SenderEvent.ACKNOWLEDGED): SenderState.DONE,
}


class ReceiverState(Enum):
    """How far a frame is on the ground."""

    UNKNOWN = "unknown"
    LACKING = "lacking"
    ASKED = "asked"
    WHOLE = "whole"
    DURABLE = "durable"
    LOST = "lost"


class ReceiverEvent(Enum):
    """What becomes of it."""

    SENT = "sent"
    ASKED = "asked"
    ANSWERED = "answered"
    UNHEARD = "unheard"
    COMPLETED = "completed"
    KEPT = "kept"
    GONE = "gone"


RECEIVER: Final[Mapping[tuple[ReceiverState, ReceiverEvent], ReceiverState]] = {
    (ReceiverState.UNKNOWN, ReceiverEvent.SENT): ReceiverState.LACKING,
    (ReceiverState.UNKNOWN, ReceiverEvent.COMPLETED): ReceiverState.WHOLE,
    (ReceiverState.UNKNOWN, ReceiverEvent.GONE): ReceiverState.LOST,
    (ReceiverState.LACKING, ReceiverEvent.ASKED): ReceiverState.ASKED,
    (ReceiverState.LACKING, ReceiverEvent.COMPLETED): ReceiverState.WHOLE,
    (ReceiverState.LACKING, ReceiverEvent.GONE): ReceiverState.LOST,
    (ReceiverState.ASKED, ReceiverEvent.ANSWERED): ReceiverState.LACKING,
    (ReceiverState.ASKED, ReceiverEvent.UNHEARD): ReceiverState.LACKING,
    (ReceiverState.ASKED, ReceiverEvent.COMPLETED): ReceiverState.WHOLE,
    (ReceiverState.ASKED, ReceiverEvent.GONE): ReceiverState.LOST,
    (ReceiverState.WHOLE, ReceiverEvent.KEPT): ReceiverState.DURABLE,
}

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def after(table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """The state that follows; the same where a table has none."""
    return table.get((state, event), state)


def diagram(table: Mapping[tuple[S, E], S]) -> str:
    """Draw a table as Mermaid does state diagrams; it begins at the first state."""
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table))[0].value}"]
    for (state, event), following in table.items():
        lines.append(f"    {state.value} --> {following.value}: {event.value}")
    return "\n".join(lines)
