"""Times of a selection, and what makes a tile of frames."""

from __future__ import annotations

import dataclasses

import pytest

from codec.frame import SideFrame, parse
from daemon.bulk.catalog import Selection, utc_seconds
from fakes.recordings import START_S, frames


@pytest.mark.parametrize(
    "text",
    [
        "2026-05-01",
        "20260501",
        "2026-05-01T00:00:00Z",
        "2026-05-01T02:00:00+02:00",
        "1777593600",
        "1777593600.0",
    ],
)
def test_times_are_utc_unless_they_say_other(text: str) -> None:
    """ISO 8601 or seconds: the same moment."""
    assert utc_seconds(text) == 1_777_593_600.0


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "nan"])
def test_what_is_no_time_is_told(text: str) -> None:
    """With what would be one."""
    with pytest.raises(ValueError, match="write it like 2026-05-01"):
        utc_seconds(text)


@pytest.mark.parametrize(
    ("span", "known", "unknown"),
    [
        ({}, True, True),
        ({"since_s": START_S}, True, False),
        ({"since_s": START_S + 1}, False, False),
        ({"since_s": -1.0}, True, False),
        ({"until_s": START_S + 1}, True, False),
        ({"until_s": START_S}, False, False),
        ({"since_s": -1.0, "until_s": START_S + 1}, True, False),
    ],
)
def test_a_tile_of_unknown_time_is_in_no_span(
    span: dict[str, float], *, known: bool, unknown: bool
) -> None:
    """Neither since nor until some time; its zero is not 1970."""
    side = parse(frames(0)[0])
    assert isinstance(side, SideFrame)
    timeless = dataclasses.replace(side, info=dataclasses.replace(side.info, start_utc_s=0.0))

    assert Selection(**span).takes(side) is known
    assert Selection(**span).takes(timeless) is unknown


def test_a_model_s_name_is_hexadecimal() -> None:
    """Any other beginning would select nothing."""
    Selection(model="09aF")
    with pytest.raises(ValueError, match="'zz' is no beginning of a model; write hexadecimal"):
        Selection(model="zz")
