"""One rule for addresses, by which settings and sockets agree."""

from __future__ import annotations

import pytest

from daemon.addresses import MAX_IPC_PATH_BYTES, is_local, problem


@pytest.mark.parametrize("bind", [True, False])
@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:1", "tcp://board.local:65535", "tcp://[::1]:5555", "ipc:///run/x",
     "ipc://" + "x" * MAX_IPC_PATH_BYTES],
)  # fmt: skip
def test_places(address: str, bind: bool) -> None:
    """TCP with host and port, or a path."""
    assert problem(address, bind=bind) is None


@pytest.mark.parametrize("address", ["tcp://*:5555", "tcp://127.0.0.1:*", "tcp://*:*", "ipc://*"])
def test_what_the_system_chooses_can_only_be_bound(address: str) -> None:
    """Nobody can connect to any place at all."""
    assert problem(address, bind=True) is None
    assert "one place" in str(problem(address, bind=False))


@pytest.mark.parametrize(
    "address",
    ["", "tcp://", "ipc://", "udp://a:1", "tcp:/a:1", "tcp://a", "tcp://:1", "tcp://a:", "tcp://a:0",
     "tcp://a:65536", "tcp://a:-1", "tcp://a:1.5", "tcp://a:٥", "tcp://a: 5"],
)  # fmt: skip
@pytest.mark.parametrize("bind", [True, False])
def test_no_places(address: str, bind: bool) -> None:
    """Each is refused with an example of what would be right."""
    assert "like tcp://127.0.0.1:5555" in str(problem(address, bind=bind))


def test_a_path_has_the_length_of_a_unix_socket() -> None:
    """In bytes, not in letters."""
    for path in ("x" * (MAX_IPC_PATH_BYTES + 1), "ä" * 54):
        assert problem(f"ipc://{path}", bind=True) == "should have a path of at most 107 bytes"


@pytest.mark.parametrize(
    ("address", "local"),
    [("ipc:///run/x", True), ("tcp://127.0.0.1:1", True), ("tcp://127.1.2.3:*", True),
     ("tcp://[::1]:1", True), ("tcp://localhost:1", True), ("tcp://*:1", False),
     ("tcp://0.0.0.0:1", False), ("tcp://[::]:1", False), ("tcp://10.0.0.1:1", False),
     ("tcp://localhost.example:1", False), ("tcp://lo:1", False)],
)  # fmt: skip
def test_who_can_be_at_the_other_end(address: str, local: bool) -> None:
    """Loopback and paths are this machine's; a name is anybody's."""
    assert is_local(address) == local
