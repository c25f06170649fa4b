"""Values that the settings of flight and ground share."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from daemon.config_sections import Address, Bind, MailboxSettings, Section
from daemon.mailbox import Policy


class Link(Section):
    """A section with an address."""

    address: Address
    bind: Bind = False


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:5555", "tcp://*:5555", "tcp://[::1]:*", "ipc:///run/x", "ipc://x"]
)
def test_addresses_of_sockets(address: str) -> None:
    """TCP with a port, or a path."""
    assert Link(address=address, bind=True).address == address


@pytest.mark.parametrize(
    "address",
    ["", "tcp", "tcp://", "tcp://host", "tcp://host:port", "ipc://", "inproc://x", "127.0.0.1:5",
     "tcp://host:0", "tcp://host:70000", "tcp://:5555"],
)  # fmt: skip
def test_addresses_of_nothing(address: str) -> None:
    """What no socket could use is refused before one tries, with an example."""
    with pytest.raises(ValidationError, match=r"should .*like tcp://") as caught:
        Link(address=address)
    assert [error["loc"] for error in caught.value.errors()] == [("address",)]


def test_what_is_to_be_bound_cannot_be_connected_to() -> None:
    """A socket would refuse it, so settings do: given or by default, named at the key `bind`."""
    for given in ({}, {"bind": False}):
        with pytest.raises(ValidationError, match="should name one place") as caught:
            Link.model_validate({"address": "tcp://*:5555", **given})
        assert [error["loc"] for error in caught.value.errors()] == [("bind",)]


def test_mailboxes_are_bounded_in_bytes() -> None:
    """An operator thinks in MiB, a mailbox in bytes."""
    settings = MailboxSettings(max_mib=3, policy=Policy.DROP_OLDEST)

    assert settings.max_bytes == 3 * 1024 * 1024


def test_settings_are_frozen() -> None:
    """Nothing changes them once they are checked."""
    with pytest.raises(ValidationError, match="frozen"):
        MailboxSettings().max_items = 1
