"""The error tree: closed labels, honest exit codes, errors that survive the trip elsewhere."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator

import pytest

from codec.errors import BitstreamError, FrameVersionError
from daemon import errors
from daemon.errors import ConfigError, DaemonError


def tree(root: type[DaemonError]) -> Iterator[type[DaemonError]]:
    """The class and all below it."""
    yield root
    for below in root.__subclasses__():
        yield from tree(below)


def test_every_class_has_a_reason_of_its_own() -> None:
    """A reason is a metrics label: snake case, and two errors never share one."""
    reasons = [error.reason for error in tree(DaemonError)]

    assert len(reasons) == len(set(reasons))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", reason) for reason in reasons)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """A reader of the file's first lines sees every class."""
    drawn = set(re.findall(r"\b(\w+Error)\b", str(errors.__doc__)))

    assert drawn == {error.__name__ for error in tree(DaemonError)}


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.ConfigError("f.yaml", ("x",)), 78),
        (errors.AddressError("tcp://*:1", "in use"), 69),
        (errors.OutputError("a.tif", "no space"), 73),
        (errors.PacketChecksumError(), 65),
        (errors.MessageSizeError(), 65),
        (errors.SpoolFullError(2, 1), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error: DaemonError, exit_code: int) -> None:
    """The unit file relies on 78: it does not restart on a wrong settings file."""
    assert error.exit_code == exit_code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.TruncatedPacketError(10, 4), "needed 10 bytes, got 4"),
        (errors.SpoolFullError(12, 8), "packets of 12 bytes; the spool holds 8"),
        (errors.FrameSizeError(9, 8), "frame of 9 bytes is not within 1 to 8"),
        (errors.AddressError("tcp://*:1", "in use"), "tcp://*:1: in use"),
        (errors.OutputError("a.tif", "no space"), "a.tif: no space"),
        (ConfigError("f.yaml", ("a: bad", "b: worse")), "f.yaml: a: bad\nf.yaml: b: worse"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_carry_values_anywhere(error: DaemonError, text: str) -> None:
    """An error says its values, and still has them after a trip between processes."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert str(error) == str(copy) == text
    assert copy.__dict__ == error.__dict__


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.PacketFieldError("x"), "packet_field"),
        (FrameVersionError("x"), "frame_version"),
        (BitstreamError("x"), "bitstream"),
        (ValueError("x"), "value"),
    ],
    ids=str,
)
def test_a_codec_error_is_counted_by_its_class(error: Exception, reason: str) -> None:
    """The codec knows no metrics, so its class names give the labels."""
    assert errors.reason_of(error) == reason
