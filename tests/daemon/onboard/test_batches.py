"""A batch closes by count, by age or at the end; what is encoded already does not wait."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.onboard.batches import BatchWorker
from daemon.onboard.items import Batch, EncodedFrame, OpenedPatch
from daemon.onboard.models import Model
from fakes.clock import FakeClock
from fakes.flight import model, opened, side

PATCH = opened()[0]


def worker(clock: FakeClock, max_patches: int = 3, max_bytes: int = 1 << 30) -> BatchWorker:
    """Batches of three, or of what half a second brings."""
    return BatchWorker(max_patches=max_patches, max_bytes=max_bytes, max_age_s=0.5, clock=clock)


def sizes(items: list[EncodedFrame | Batch] | list[Batch]) -> list[int]:
    """Patches in each batch; all must be one."""
    return [item.patches for item in items if isinstance(item, Batch)]


def test_a_batch_closes_by_count() -> None:
    """It leaves with the patch that fills it, in the order patches came, and the next begins."""
    target = worker(FakeClock())
    patches = [opened()[0] for _ in range(4)]
    out = [item for patch in patches for item in target.accept(patch)]

    assert len(out) == 1
    assert isinstance(out[0], Batch)
    assert list(out[0].opened) == patches[:3]
    assert sizes(list(target.finish())) == [1]


@pytest.mark.parametrize(("room", "expected"), [(0, [1] * 6), (1, [1] * 6), (2, [2] * 3)])
def test_a_full_batch_fits_its_mailbox(room: int, expected: list[int]) -> None:
    """It closes before it is larger than the next mailbox takes; a patch too large goes alone."""
    target = worker(FakeClock(), max_bytes=room * PATCH.size_bytes)
    out = [item for _ in range(6) for item in target.accept(PATCH)]
    assert sizes([*out, *target.finish()]) == expected


def test_a_batch_closes_by_age() -> None:
    """Age is that of its first patch; nothing closes before."""
    clock = FakeClock()
    target = worker(clock)
    assert list(target.accept(PATCH)) == []
    clock.advance(0.3)
    assert list(target.accept(PATCH)) == []
    clock.advance(0.19)
    assert list(target.tick()) == []
    clock.advance(0.01)
    assert sizes(list(target.tick())) == [2]
    clock.advance(10.0)
    assert list(target.tick()) == []


def test_a_steady_stream_does_not_hold_up_an_old_batch() -> None:
    """A patch that finds the batch too old closes it, even if no tick comes between."""
    clock = FakeClock()
    target = worker(clock)
    list(target.accept(PATCH))
    clock.advance(0.6)

    assert sizes(list(target.accept(PATCH))) == [2]


def test_a_batch_of_one_is_allowed() -> None:
    """Each patch is then a batch at once."""
    assert sizes(list(worker(FakeClock(), max_patches=1).accept(PATCH))) == [1]


def test_side_information_does_not_wait() -> None:
    """A frame that is encoded already goes on at once, and closes nothing."""
    target = worker(FakeClock())
    list(target.accept(PATCH))
    frame = side()

    assert list(target.accept(frame)) == [frame]
    assert sizes(list(target.finish())) == [1]


def test_the_end_closes_what_is_open() -> None:
    """Nothing open, nothing closed."""
    target = worker(FakeClock())
    list(target.accept(PATCH))

    assert sizes(list(target.finish())) == [1]
    assert list(target.finish()) == []


@given(st.lists(st.one_of(st.just(PATCH), st.just("side"), st.floats(0.0, 1.0)), max_size=40))
def test_every_patch_is_in_one_batch(steps: list[OpenedPatch | str | float]) -> None:
    """Whatever the timing: no patch lost, none twice, no batch above its size or empty."""
    clock = FakeClock()
    target = worker(clock)
    batches: list[int] = []
    for step in steps:
        if isinstance(step, float):
            clock.advance(step)
            batches += sizes(list(target.tick()))
        else:
            batches += sizes(list(target.accept(side() if isinstance(step, str) else step)))
    batches += sizes(list(target.finish()))

    assert sum(batches) == sum(step is PATCH for step in steps)
    assert all(1 <= size <= 3 for size in batches)


def test_a_batch_closes_before_another_model() -> None:
    """A patch is encoded by what opened its tile, so no batch has two of them."""
    encoder, target = model().encoder, worker(FakeClock(), max_patches=4)
    other = Model(encoder, model().steps, model().origin)
    later = replace(PATCH, model=other)
    out = [item for patch in (PATCH, PATCH, later, PATCH) for item in target.accept(patch)]
    batches = [item for item in (*out, *target.finish()) if isinstance(item, Batch)]
    assert [(batch.model, batch.patches) for batch in batches] == [
        (model(), 2), (other, 1), (model(), 1),
    ]  # fmt: skip
