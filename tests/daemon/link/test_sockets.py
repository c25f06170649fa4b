"""Rules of `daemon.link.sockets`, over the real libzmq."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zmq

from daemon.errors import AddressError, PacketError
from daemon.link import sockets
from daemon.link.packet import MAX_PACKET_BYTES, Packet
from daemon.link.sockets import (
    MAX_MESSAGE_BYTES,
    MAX_PARTS,
    Endpoint,
    PacketListener,
    PacketSender,
    Pattern,
    TileListener,
    TileSender,
)
from fakes.processes import until

SOON_S = 60.0  # longest a thing that does happen may take, however busy the machine
NEVER_S = 0.05  # how long is waited for a thing that must not happen
SLACK_S = 10.0  # what a busy machine may add to a linger
PATTERNS: list[Pattern] = ["sub", "pull"]

T = TypeVar("T")


@pytest.fixture
def keep() -> Iterator[Callable[[Any], Any]]:
    """Close every socket given to it when the test is over."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture(params=["ipc", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address to bind, over each transport."""
    return f"ipc://{tmp_path}/s" if request.param == "ipc" else "tcp://127.0.0.1:*"


def ipc(tmp_path: Path, *, bind: bool) -> Endpoint:
    """One end of an address in the test's own folder."""
    return Endpoint(address=f"ipc://{tmp_path}/s", bind=bind)


def meet(listener: TileListener, sender: TileSender) -> None:
    """Return once the sender knows of its listener.

    A bound SUB tells a new peer what it wants when its own thread next calls it, so a single
    thread must call both in turn.
    """
    while not sender.wait_for_listener(0.01):
        assert listener.recv(0.0) is None


def whole(parts: list[memoryview] | None) -> list[bytes] | None:
    """The bytes of a received message."""
    return None if parts is None else [bytes(part) for part in parts]


def sent_until_it_comes(send: Callable[[], object], come: Callable[[], T | None]) -> T:
    """Send over and over, for a connection is made anew; return the first thing that comes."""

    def sent_again() -> T | None:
        send()
        return come()

    return until(sent_again, "what was sent")


def drain(listener: PacketListener, count: int) -> list[bytes]:
    """Packets, until there are so many or none comes any more."""
    got: list[bytes] = []
    while len(got) < count and (more := listener.recv_many(100, SOON_S)):
        got += more
    return got


# ---------------------------------------------------------------- the endpoint


@pytest.mark.parametrize("address", ["", "localhost:5555", "udp://127.0.0.1:1", "inproc://x"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    """Only what works between processes is an address."""
    with pytest.raises(AddressError, match="should be like tcp://"):
        Endpoint(address=address, bind=True)


@pytest.mark.parametrize("port", ["70000", "0", "-1", "x", "", "//localhost"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    """Libzmq would quietly take another port."""
    with pytest.raises(AddressError, match="port from 1 to 65535"):
        Endpoint(address=f"tcp://localhost:{port}", bind=False)


def test_an_address_to_connect_to_is_one_place() -> None:
    """Settings are held to the same rule, so that what they pass is not refused here."""
    with pytest.raises(AddressError, match="should name one place"):
        Endpoint(address="tcp://127.0.0.1:*", bind=False)


@pytest.mark.parametrize("linger_s", [float("inf"), float("nan"), -1.0])
def test_linger_is_finite(linger_s: float) -> None:
    """No setting lets closing wait for ever."""
    with pytest.raises(AddressError, match="linger_s must be finite"):
        Endpoint(address="tcp://127.0.0.1:1", bind=True, linger_s=linger_s)


@pytest.mark.parametrize(
    ("address", "bind"),
    [("tcp://192.0.2.1:9", True),
     ("ipc:///no/such/folder/s", True), ("ipc://" + "x" * 200, False), ("tcp://a b:5", False)],
)  # fmt: skip
def test_what_cannot_be_bound_or_connected_is_named(address: str, bind: bool) -> None:
    """The error carries the address and what the system said."""
    with pytest.raises(AddressError) as caught:
        PacketSender(Endpoint(address=address, bind=bind))
    assert caught.value.address == address


def test_an_address_in_use_is_named(keep: Callable[[Any], Any]) -> None:
    """A second daemon on the same port says so."""
    first = keep(PacketListener(Endpoint(address="tcp://127.0.0.1:*", bind=True)))
    with pytest.raises(AddressError, match="in use"):
        PacketListener(Endpoint(address=first.address, bind=True))


def sockets_of_ours() -> list[type[Any]]:
    """Every class of a socket."""
    return sockets._Socket.__subclasses__()


@pytest.mark.parametrize("kind", sockets_of_ours(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_socket_is_bounded(
    kind: type[Any], pattern: Pattern, tmp_path: Path, keep: Callable[[Any], Any]
) -> None:
    """In messages, either way, and in the bytes of one; libzmq takes 0 and -1 for no limit."""
    words = {"pattern": pattern} if "pattern" in signature(kind).parameters else {}
    made = keep(kind(ipc(tmp_path, bind=True), **words))

    assert 0 < made._zmq.get(zmq.SocketOption.RCVHWM) <= 1000
    assert 0 < made._zmq.get(zmq.SocketOption.SNDHWM) <= 1000
    assert 0 < made._zmq.get(zmq.SocketOption.MAXMSGSIZE) <= 64 << 20
    assert 0 <= made._zmq.get(zmq.SocketOption.LINGER) <= 1000


def test_no_socket_is_missed() -> None:
    """The four that there are; nobody else opens one, see tests/test_imports.py."""
    assert set(sockets_of_ours()) == {TileListener, TileSender, PacketListener, PacketSender}


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + (3).to_bytes(4, "big") + b"SUB"
"""How a subscriber introduces itself. Source: ZMTP 3.0, RFC 23 of ZeroMQ."""


@contextmanager
def subscribed(address: str, topic: bytes) -> Iterator[None]:
    """A subscriber that libzmq did not make, of a topic of any length."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), SOON_S) as peer:
        peer.sendall(GREETING)
        heard = b""
        while len(heard) < len(GREETING):
            heard += peer.recv(len(GREETING) - len(heard))
        peer.sendall(bytes([4, len(READY)]) + READY)
        _, length = peer.recv(2)
        peer.recv(length)
        message = b"\1" + topic
        peer.sendall(b"\2" + len(message).to_bytes(8, "big") + message)
        yield


def test_a_topic_has_an_end(keep: Callable[[Any], Any]) -> None:
    """A subscriber of a megabyte, which would be kept until it leaves, is hung up on."""
    sender = keep(TileSender(Endpoint(address="tcp://127.0.0.1:*", bind=True)))
    with suppress(ConnectionError), subscribed(sender.address, b"t" * (1 << 20)):
        assert not sender.wait_for_listener(1.0)
    with subscribed(sender.address, b"tile"):
        assert sender.wait_for_listener(SOON_S)


# ---------------------------------------------------------------- packets


@pytest.mark.parametrize("listener_binds", [True, False])
def test_packets_cross_in_order(
    address: str, listener_binds: bool, keep: Callable[[Any], Any]
) -> None:
    """Either side may bind, over either transport; nothing is lost or reordered."""
    kinds = [PacketListener, PacketSender]
    first, second = kinds if listener_binds else kinds[::-1]
    bound = keep(first(Endpoint(address=address, bind=True)))
    connected = keep(second(Endpoint(address=bound.address, bind=False)))
    listener, sender = (bound, connected) if listener_binds else (connected, bound)
    sent = [b"%d" % i for i in range(500)]

    assert all(sender.send(raw, SOON_S) for raw in sent)
    assert drain(listener, 500) == sent
    assert listener.recv_many(10, 0.0) == []


def test_a_sender_without_a_peer_does_not_queue(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """What nobody takes stays with the caller."""
    sender = keep(PacketSender(ipc(tmp_path, bind=False)))

    assert not sender.send(b"x", NEVER_S)


def test_a_listener_that_stands_still_is_felt(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """A full queue refuses; every packet that was taken arrives."""
    listener = keep(PacketListener(ipc(tmp_path, bind=True), queued=2))
    sender = keep(PacketSender(ipc(tmp_path, bind=False), queued=2))
    sent = 0
    while sender.send(sent.to_bytes(60_000, "big"), SOON_S if sent == 0 else NEVER_S):
        sent += 1
        assert sent < 1000

    assert [int.from_bytes(raw, "big") for raw in drain(listener, sent)] == list(range(sent))


def test_no_more_packets_than_asked_for(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """A stage takes what it can hold."""
    listener = keep(PacketListener(ipc(tmp_path, bind=True)))
    sender = keep(PacketSender(ipc(tmp_path, bind=False)))
    for _ in range(5):
        assert sender.send(b"x", SOON_S)
    sizes: list[int] = []
    while sum(sizes) < 5:
        sizes.append(len(listener.recv_many(2, SOON_S)))
        assert sizes[-1] in (1, 2)


def test_an_oversized_packet_is_refused_and_the_link_goes_on(
    tmp_path: Path, keep: Callable[[Any], Any]
) -> None:
    """A packet too long comes, to be counted; far above, libzmq drops it and is connected anew."""
    listener = keep(PacketListener(ipc(tmp_path, bind=True)))
    sender = keep(PacketSender(ipc(tmp_path, bind=False)))
    assert sender.send(bytes(MAX_PACKET_BYTES + 1), SOON_S)
    (too_long,) = listener.recv_many(10, SOON_S)
    with pytest.raises(PacketError):
        Packet.unpack(too_long)

    assert sender.send(bytes(MAX_MESSAGE_BYTES + 1), SOON_S)
    got = sent_until_it_comes(
        lambda: sender.send(b"sound", NEVER_S), lambda: listener.recv_many(10, NEVER_S)
    )
    assert set(got) == {b"sound"}


def test_parts_count_as_packets(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """A message of several parts is no packet of ours, and does not stop the listener."""
    listener = keep(PacketListener(ipc(tmp_path, bind=True)))
    sender = keep(PacketSender(ipc(tmp_path, bind=False)))
    sender._send([b"a", b"", b"c"], SOON_S)

    assert drain(listener, 3) == [b"a", b"", b"c"]


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_tile_crosses_whole(address: str, pattern: Pattern, keep: Callable[[Any], Any]) -> None:
    """Parts keep their bounds and bytes, over either transport and pattern."""
    listener = keep(TileListener(Endpoint(address=address, bind=True), pattern=pattern))
    sender = keep(TileSender(Endpoint(address=listener.address, bind=False), pattern=pattern))
    samples = bytes(range(256)) * 4096
    meet(listener, sender)

    assert sender.send([b"tile", b"\x80", memoryview(samples)], SOON_S)
    assert whole(listener.recv(SOON_S)) == [b"tile", b"\x80", samples]
    assert listener.recv(0.0) is None


def test_received_samples_outlive_the_socket(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """A tile in the pipeline is not touched by the listener's closing."""
    with TileListener(ipc(tmp_path, bind=True)) as listener:
        sender = keep(TileSender(ipc(tmp_path, bind=False)))
        meet(listener, sender)
        sender.send([b"t", b"h", b"samples" * 100_000], SOON_S)
        parts = listener.recv(SOON_S)

    assert parts is not None
    assert parts[2] == b"samples" * 100_000


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_slow_listener_loses_nothing(
    tmp_path: Path, pattern: Pattern, keep: Callable[[Any], Any]
) -> None:
    """The sender is told to wait, at once and by either pattern; what it could send arrives."""
    listener = keep(TileListener(ipc(tmp_path, bind=True), pattern=pattern, queued=2))
    sender = keep(TileSender(ipc(tmp_path, bind=False), pattern=pattern, queued=2))
    meet(listener, sender)
    refused, received = 0, []
    for number in range(60):
        message = [b"t", b"h", number.to_bytes(500_000, "big")]
        while not sender.send(message, SOON_S if number == 0 else 0.01):
            refused += 1
            parts = listener.recv(SOON_S)
            assert parts is not None
            received.append(int.from_bytes(parts[2], "big"))
    while len(received) < 60 and (parts := listener.recv(SOON_S)) is not None:
        received.append(int.from_bytes(parts[2], "big"))

    assert refused > 0
    assert received == list(range(60))
    assert listener.recv(NEVER_S) is None


def test_nothing_is_sent_to_nobody(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """Before a subscriber is there, and after it has gone, the sender keeps its tile."""
    sender = keep(TileSender(ipc(tmp_path, bind=True)))
    assert not sender.wait_for_listener(0.0)
    assert not sender.send([b"t"], NEVER_S)

    with TileListener(ipc(tmp_path, bind=False)) as listener:
        assert sender.wait_for_listener(SOON_S)
        assert sender.send([b"t"], SOON_S)
        assert whole(listener.recv(SOON_S)) == [b"t"]

    until(lambda: not sender.wait_for_listener(0.0), "the goodbye")
    assert not sender.send([b"t"], NEVER_S)


def test_a_topic_filters(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """Only messages whose topic begins as asked come in."""
    listener = keep(TileListener(ipc(tmp_path, bind=True), topic=b"tile"))
    sender = keep(TileSender(ipc(tmp_path, bind=False)))
    meet(listener, sender)
    for topic in (b"housekeeping", b"tile.7"):
        assert sender.send([topic], SOON_S)

    assert whole(listener.recv(SOON_S)) == [b"tile.7"]
    assert listener.recv(NEVER_S) is None


def test_an_oversized_part_is_refused(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """A tile above the limit never takes our memory, and the next one comes through."""
    listener = keep(TileListener(ipc(tmp_path, bind=True), pattern="pull", max_part_bytes=1000))
    sender = keep(TileSender(ipc(tmp_path, bind=False), pattern="pull"))
    assert sender.send([b"t", bytes(1001)], SOON_S)
    parts = sent_until_it_comes(
        lambda: sender.send([b"t", bytes(1000)], NEVER_S), lambda: listener.recv(NEVER_S)
    )
    assert whole(parts) == [b"t", bytes(1000)]


def test_many_parts_are_cut_short(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """A message of a thousand parts is taken off the socket, but not kept."""
    listener = keep(TileListener(ipc(tmp_path, bind=True), pattern="pull"))
    sender = keep(TileSender(ipc(tmp_path, bind=False), pattern="pull"))
    sender.send([b"x"] * 1000, SOON_S)
    sender.send([b"next"], SOON_S)

    assert whole(listener.recv(SOON_S)) == [b"x"] * MAX_PARTS
    assert whole(listener.recv(SOON_S)) == [b"next"]


def test_received_memory_is_given_back(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """A thousand tiles take no more than the few in flight (pyzmq #1582 leaked every one)."""
    listener = keep(TileListener(ipc(tmp_path, bind=True), pattern="pull", queued=2))
    sender = keep(TileSender(ipc(tmp_path, bind=False), pattern="pull", queued=2))
    message = [b"t", b"h", bytes(500_000)]

    def cross(count: int) -> None:
        for _ in range(count):
            assert sender.send(message, SOON_S)
            assert listener.recv(SOON_S) is not None

    cross(100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cross(1000)

    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 100_000  # of 490,000 that crossed


# ---------------------------------------------------------------- peers that die

PEER = """
import sys, zmq
socket = zmq.Context().socket(int(sys.argv[1]))
if int(sys.argv[1]) == zmq.SUB:
    socket.subscribe(b"")
socket.setsockopt(zmq.RCVHWM, 1)
socket.connect(sys.argv[2])
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", [zmq.PULL, zmq.SUB], ids=["pull", "sub"])
def test_a_killed_peer_does_not_hold_up_closing(
    address: str, kind: int, keep: Callable[[Any], Any]
) -> None:
    """With its queue full and its peer killed, a sender closes within its linger."""
    pattern: Pattern = "sub" if kind == zmq.SUB else "pull"
    sender = TileSender(Endpoint(address=address, bind=True, linger_s=0.3), pattern=pattern)
    run = [sys.executable, "-c", PEER, str(int(kind)), sender.address]
    peer = keep(subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    try:
        sent = 0
        while sender.send([b"t", bytes(1_000_000)], SOON_S if sent == 0 else NEVER_S):
            sent += 1
            assert sent < 1000
        assert sent > 0
    finally:
        peer.kill()
        start_s = time.monotonic()
        sender.close()

    assert time.monotonic() - start_s < 0.3 + SLACK_S


@pytest.mark.parametrize("linger_s", [0.2, 60.0])
def test_a_queue_for_a_silent_peer_does_not_hold_up_closing(
    linger_s: float, tmp_path: Path, keep: Callable[[Any], Any]
) -> None:
    """A peer that lives but reads nothing costs the linger, no more; closing again is harmless.

    Whoever is in a hurry can make that shorter.
    """
    keep(TileListener(ipc(tmp_path, bind=True), pattern="pull", queued=1))
    sender = TileSender(Endpoint(address=f"ipc://{tmp_path}/s", bind=False, linger_s=linger_s),
                        pattern="pull")  # fmt: skip
    sent = 0
    while sender.send([bytes(1_000_000)], SOON_S if sent == 0 else 0.2):
        sent += 1
    assert sent > 0
    if linger_s > 0.2:
        sender.hurry(0.2)
    start_s = time.monotonic()
    sender.close()
    sender.close()

    assert 0.1 < time.monotonic() - start_s < 0.2 + SLACK_S


def test_closing_lets_the_queue_leave(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """What was accepted arrives, though the sender closes at once."""
    listener = keep(PacketListener(ipc(tmp_path, bind=True)))
    at = Endpoint(address=f"ipc://{tmp_path}/s", bind=False, linger_s=SOON_S)
    with PacketSender(at) as sender:
        assert all(sender.send(b"%d" % i, SOON_S) for i in range(50))

    assert drain(listener, 50) == [b"%d" % i for i in range(50)]


def test_a_restarted_listener_is_found_again(tmp_path: Path, keep: Callable[[Any], Any]) -> None:
    """The sender reconnects by itself, and the left-over socket file is no hindrance."""
    sender = keep(PacketSender(ipc(tmp_path, bind=False)))
    for word in (b"first", b"second"):
        with PacketListener(ipc(tmp_path, bind=True)) as listener:

            def comes(word: bytes = word, listener: PacketListener = listener) -> bool:
                return word in listener.recv_many(10, NEVER_S)

            sent_until_it_comes(partial(sender.send, word, NEVER_S), comes)


FULL_AND_GONE = """
import sys, time
import zmq
from daemon.link.sockets import Endpoint, PacketListener, TileListener
kind, address = sys.argv[1:]
here = Endpoint(address=address, bind=True, linger_s=0.0)
ours = {
    "tiles": lambda: TileListener(here, pattern="pull", max_part_bytes=1 << 30, queued=1),
    "packets": lambda: PacketListener(here, queued=1),
}[kind]()
context = zmq.Context()
for after_s in (0.0, 0.7, 1.4):
    peer = context.socket(zmq.PUSH)
    peer.setsockopt(zmq.LINGER, 0)
    peer.setsockopt(zmq.SNDHWM, 1)
    for option in (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TTL, zmq.HEARTBEAT_TIMEOUT):
        peer.setsockopt(option, 2000)
    peer.connect(address)
    time.sleep(after_s)
    while peer.poll(300, zmq.POLLOUT):
        peer.send(bytes(60_000))
    peer.close()
    time.sleep(2.5)
ours.close()
context.term()
print("alive")
"""
"""A peer, with heartbeats of its own, fills a socket of ours and goes; libzmq's timers run on."""


@pytest.mark.parametrize("kind", ["tiles", "packets"])
def test_a_peer_that_goes_while_all_is_full_does_no_harm(kind: str, tmp_path: Path) -> None:
    """An instrument is switched off while the board has too much to do: libzmq must not abort.

    It does with heartbeats of our own: a timer of a connection that is stopped and lost asserts.
    """
    ended = subprocess.run(
        (sys.executable, "-c", FULL_AND_GONE, kind, f"ipc://{tmp_path}/s"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\n", "")
