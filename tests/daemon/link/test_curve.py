"""CURVE over the real libzmq: who has a listed key comes in, nobody else does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import AddressError
from daemon.keys import CurveKeys
from daemon.link.sockets import (
    Endpoint,
    PacketListener,
    PacketSender,
    TileListener,
    TileSender,
    new_curve_pair,
)
from fakes.processes import until

SOON_S = 60.0  # longest a thing that does happen may take, however busy the machine
NEVER_S = 0.5  # how long is waited for a thing that must not happen
GROUND, BOARD, STRANGER = (new_curve_pair() for _ in range(3))
PUBLIC, SECRET = 0, 1


def keys(own: tuple[bytes, bytes], *peers: tuple[bytes, bytes]) -> CurveKeys:
    """What one side has, who knows the others by their public keys."""
    return CurveKeys(secret=own[SECRET], peers=tuple(peer[PUBLIC] for peer in peers))


@pytest.fixture
def keep() -> Iterator[Callable[[Any], Any]]:
    """Close every socket given to it when the test is over."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture(params=["ipc", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address to bind, over each transport."""
    return f"ipc://{tmp_path}/s" if request.param == "ipc" else "tcp://127.0.0.1:*"


@pytest.mark.parametrize("listener_binds", [True, False])
def test_a_listed_peer_comes_in(
    address: str, listener_binds: bool, keep: Callable[[Any], Any]
) -> None:
    """Whichever side binds, among other peers; in order, and whole."""
    kinds = [(PacketListener, GROUND, BOARD), (PacketSender, BOARD, GROUND)]
    (first, own, other), (second, *_) = kinds if listener_binds else kinds[::-1]
    bound = keep(first(Endpoint(address=address, bind=True, curve=keys(own, STRANGER, other))))
    connected = keep(second(Endpoint(address=bound.address, bind=False, curve=keys(other, own))))
    listener, sender = (bound, connected) if listener_binds else (connected, bound)
    sent = [b"%d" % i for i in range(200)]

    assert all(sender.send(raw, SOON_S) for raw in sent)
    got: list[bytes] = []
    while len(got) < len(sent) and (more := listener.recv_many(100, SOON_S)):
        got += more
    assert got == sent


@pytest.mark.parametrize(
    "curve",
    [None, keys(STRANGER, GROUND), keys(BOARD, STRANGER)],
    ids=["no key", "a key that is not listed", "another server's key"],
)
def test_nobody_else_comes_in(
    address: str, curve: CurveKeys | None, keep: Callable[[Any], Any]
) -> None:
    """A client without the right keys gets nothing through; then one that has them does."""
    listener = keep(PacketListener(Endpoint(address=address, bind=True, curve=keys(GROUND, BOARD))))
    at = listener.address
    stranger = keep(PacketSender(Endpoint(address=at, bind=False, curve=curve, linger_s=0.0)))

    stranger.send(b"forged", NEVER_S)
    assert listener.recv_many(10, NEVER_S) == []
    board = keep(PacketSender(Endpoint(address=at, bind=False, curve=keys(BOARD, GROUND))))
    assert board.send(b"sound", SOON_S)
    assert listener.recv_many(10, SOON_S) == [b"sound"]
    assert not stranger.send(b"forged", 0.0)
    assert listener.recv_many(10, NEVER_S) == []


def test_a_board_with_keys_sends_nothing_in_clear(
    tmp_path: Path, keep: Callable[[Any], Any]
) -> None:
    """Whoever sits at the ground's address without its key is told nothing."""
    at = f"ipc://{tmp_path}/s"
    impostors = keep(PacketListener(Endpoint(address=at, bind=True)))
    board = keep(
        PacketSender(Endpoint(address=at, bind=False, curve=keys(BOARD, GROUND), linger_s=0.0))
    )

    assert not board.send(b"secret", NEVER_S)
    assert impostors.recv_many(10, 0.0) == []


def test_tiles_cross_by_key_too(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """The instrument's stream, in its default pattern: one that is not listed is not heard."""
    at = f"ipc://{tmp_path}/s"
    listener = keep(TileListener(Endpoint(address=at, bind=True, curve=keys(BOARD, GROUND))))
    stranger = keep(TileSender(Endpoint(address=at, bind=False, curve=keys(STRANGER, BOARD))))
    assert not stranger.send([b"forged"], NEVER_S)
    instrument = keep(TileSender(Endpoint(address=at, bind=False, curve=keys(GROUND, BOARD))))
    while not instrument.wait_for_listener(0.01):
        assert listener.recv(0.0) is None

    assert instrument.send([b"t", bytes(1_000_000)], SOON_S)
    parts = listener.recv(SOON_S)
    assert parts is not None
    assert [len(part) for part in parts] == [1, 1_000_000]


def test_a_restarted_listener_is_found_again(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """The sender shakes hands anew by itself."""
    at = f"ipc://{tmp_path}/s"
    sender = keep(PacketSender(Endpoint(address=at, bind=False, curve=keys(BOARD, GROUND))))
    for word in (b"first", b"second"):
        with PacketListener(Endpoint(address=at, bind=True, curve=keys(GROUND, BOARD))) as listener:

            def comes(word: bytes = word, listener: PacketListener = listener) -> bool:
                sender.send(word, 0.05)
                return word in listener.recv_many(10, 0.05)

            until(comes, "what is sent over and over")


def test_who_is_refused_is_named_once(
    tmp_path: Path, keep: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """By its public key, however often it tries: an operator may have forgotten to list it."""
    at = f"ipc://{tmp_path}/s"
    keep(PacketListener(Endpoint(address=at, bind=True, curve=keys(GROUND, BOARD))))

    def refused() -> list[str]:
        said = [record for record in caplog.records if record.levelno >= logging.WARNING]
        return [record.__dict__["key"] for record in said]

    for _ in range(2):
        with PacketSender(
            Endpoint(address=at, bind=False, curve=keys(STRANGER, GROUND), linger_s=0.0)
        ) as stranger:
            stranger.send(b"forged", NEVER_S)
            until(refused, "a refusal")

    assert refused() == [STRANGER[PUBLIC].decode()]


def test_an_address_that_cannot_be_had_leaves_no_thread(tmp_path: Path) -> None:
    """The thread that admits clients ends with the error."""
    at = f"ipc://{tmp_path}/no/such"
    with pytest.raises(AddressError, match="no/such"):
        PacketListener(Endpoint(address=at, bind=True, curve=keys(GROUND, BOARD)))


def test_keys_without_a_peer_are_refused() -> None:
    """A socket that would admit nobody is a mistake."""
    with pytest.raises(AddressError, match="public key of a peer"):
        Endpoint(address="ipc://x", bind=True, curve=keys(GROUND))


def test_a_secret_is_not_printed() -> None:
    """Whatever prints an endpoint, a log or an error, does not tell its key."""
    endpoint = Endpoint(address="ipc://x", bind=True, curve=keys(GROUND, BOARD))

    assert GROUND[SECRET].decode() not in repr(endpoint)
