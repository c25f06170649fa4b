"""The only door to ZeroMQ.

Each socket has a context of its own, so that `close` returns when what was queued is sent or given
up, after `Endpoint.linger_s` at the latest, whatever became of the peer. A socket belongs to one
thread: the one that makes it uses and closes it, or hands it over whole.

Why XPUB and not PUB: at its high-water mark PUB drops in silence. With XPUB_NODROP the sender
waits, and it sees who subscribes, so nothing is sent before anybody listens. A subscriber that
stands still thus holds up all others.

MAXMSGSIZE bounds one part, not all parts of a message together; libzmq closes the connection to a
peer that exceeds it, which reconnects, and tells the receiver nothing that could be counted. It is
therefore a backstop for memory, well above the limits that are checked, counted and logged.

With `Endpoint.curve` connections are encrypted, and both sides know each other (CurveZMQ). The one
that binds asks a thread of ours, through ZAP, about every client; without an answer libzmq admits
nobody, because the domain is enforced.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import zmq
from zmq.auth.thread import ThreadAuthenticator

from daemon.addresses import problem
from daemon.errors import AddressError
from daemon.keys import CurveKeys
from daemon.link.packet import MAX_PACKET_BYTES

log = logging.getLogger(__name__)

Pattern: TypeAlias = Literal["sub", "pull"]
"""What the daemon's end of the instrument's stream is; the instrument's is its counterpart.
"sub": any number of listeners. "pull": one takes each tile, and the instrument feels it waiting."""

MAX_PARTS: Final = 8
"""Parts of a message that are kept; the rest of a longer one is thrown away unseen."""

MAX_MESSAGE_BYTES: Final = 16 * MAX_PACKET_BYTES
"""Message on the link above which libzmq hangs up."""

_DOMAIN: Final = "prismlink"
"""ZAP's name for what is guarded; the protocol wants one."""

_MAX_REFUSED: Final = 64
"""Keys that are named in the log when they are refused; whoever has more is not worth lines."""

_MAX_WORD_BYTES: Final = 4096
"""What is said to a socket that only sends: a subscription, of a topic of some bytes."""

_COMMON: Final[Mapping[zmq.SocketOption, int]] = {
    # Those that receive have limits of their own.
    zmq.SocketOption.MAXMSGSIZE: _MAX_WORD_BYTES,
    zmq.SocketOption.TCP_KEEPALIVE: 1,
    zmq.SocketOption.TCP_KEEPALIVE_IDLE: 6,
    zmq.SocketOption.TCP_KEEPALIVE_INTVL: 2,
    zmq.SocketOption.TCP_KEEPALIVE_CNT: 3,
    # A peer whose machine is gone says no goodbye; TCP finds out. ZMTP's own heartbeats are not an
    # option: when one is due on a connection that is full and whose peer has gone, libzmq 4.3.5
    # aborts the process ("!_io_error", tests/daemon/link/test_sockets.py), and a peer that is only
    # slow to take what is sent counts as gone.
    zmq.SocketOption.HEARTBEAT_IVL: 0,
    zmq.SocketOption.RECONNECT_IVL: 100,
    zmq.SocketOption.RECONNECT_IVL_MAX: 1_000,
}
"""For every socket; times in ms, keepalive in s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a socket is, and which side waits there.

    Attributes:
        address: `tcp://host:port` or `ipc://path`.
        bind: Whether this side binds; the other connects.
        linger_s: Longest that closing waits for queued messages to leave [s].
        curve: Keys of this side and its peers; None: anybody, in clear.

    Raises:
        AddressError: If the address is of another kind, linger is not finite, or keys have no peer.
    """

    address: str
    bind: bool
    linger_s: float = 1.0
    curve: CurveKeys | None = None

    def __post_init__(self) -> None:
        if wrong := problem(self.address, bind=self.bind):
            raise AddressError(self.address, wrong)
        if self.curve is not None and not self.curve.peers:
            raise AddressError(self.address, "CURVE needs the public key of a peer")
        if not (math.isfinite(self.linger_s) and self.linger_s >= 0):
            raise AddressError(self.address, f"linger_s must be finite, got {self.linger_s}")


class _Socket:
    """One socket with its context; every option is set before it binds or connects.

    Raises:
        AddressError: If it cannot bind or connect.
    """

    def __init__(
        self, kind: zmq.SocketType, endpoint: Endpoint, options: Mapping[zmq.SocketOption, int]
    ) -> None:
        self._context = zmq.Context(io_threads=1)
        self._gate: ThreadAuthenticator | None = None
        self._zmq: zmq.Socket[bytes] = self._context.socket(kind)
        # Linger as well: set only on closing, it does not reach connections that exist, and if a
        # peer dies at that moment closing hangs for ever (libzmq #3252; 1 of about 20 runs here).
        linger = {zmq.SocketOption.LINGER: _milliseconds(endpoint.linger_s)}
        try:
            for option, value in {**_COMMON, **linger, **options}.items():
                self._zmq.set(option, value)
            if endpoint.curve is not None:
                self._secure(endpoint.curve, server=endpoint.bind)
            if endpoint.bind:
                self._zmq.bind(endpoint.address)
            else:
                self._zmq.connect(endpoint.address)
        except zmq.ZMQError as error:
            self._close_gate()
            self._context.destroy(linger=0)
            raise AddressError(endpoint.address, str(error)) from None
        self.address: Final = self._zmq.get_string(zmq.SocketOption.LAST_ENDPOINT).rstrip("\0")

    def hurry(self, linger_s: float) -> None:
        """Have `close` wait no longer than this for what is queued."""
        self._zmq.set(zmq.SocketOption.LINGER, _milliseconds(linger_s))

    def close(self) -> None:
        """Close, after what was queued has left or `linger_s` is over. Again is harmless."""
        self._close_gate()
        self._context.destroy()

    def _secure(self, keys: CurveKeys, *, server: bool) -> None:
        self._zmq.curve_secretkey = keys.secret
        if server:
            self._gate = ThreadAuthenticator(self._context)
            self._gate.configure_curve_callback(_DOMAIN, _Admission(keys.peers))
            self._gate.start()
            self._zmq.curve_server = True
            self._zmq.zap_domain = _DOMAIN.encode()
            self._zmq.set(zmq.SocketOption.ZAP_ENFORCE_DOMAIN, 1)
        else:
            self._zmq.curve_publickey = zmq.curve_public(keys.secret)
            self._zmq.curve_serverkey = keys.peers[0]

    def _close_gate(self) -> None:
        if self._gate is not None:
            self._gate.stop()
            self._gate = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _readable(self, timeout_s: float) -> bool:
        return bool(self._zmq.poll(_milliseconds(timeout_s), zmq.POLLIN))

    def _send(
        self, parts: Sequence[bytes | memoryview], timeout_s: float, *, copy: bool = True
    ) -> bool:
        # Polling for POLLOUT would not do: XPUB always reports it.
        self._zmq.set(zmq.SocketOption.SNDTIMEO, _milliseconds(timeout_s))
        try:
            self._zmq.send_multipart(parts, copy=copy)
        except zmq.Again:
            return False
        return True


class _Admission:
    """Answers ZAP: who is listed may come in."""

    def __init__(self, peers: Sequence[bytes]) -> None:
        self._peers, self._refused = frozenset(peers), set[bytes]()

    def callback(self, domain: str, key: bytes) -> bool:
        """Tell whether a client with this public key is admitted; pyzmq names the method."""
        admitted = domain == _DOMAIN and key in self._peers
        if not (admitted or key in self._refused or len(self._refused) == _MAX_REFUSED):
            self._refused.add(key)
            log.warning("client refused", extra={"key": key.decode()})
        return admitted


class TileListener(_Socket):
    """The daemon's end of the instrument's stream.

    Args:
        endpoint: Where.
        pattern: "sub" or "pull".
        topic: Beginning of the topics wanted; "sub" only.
        max_part_bytes: Part of a message above which libzmq hangs up, and nothing is counted.
        queued: Messages libzmq may hold for us: memory is this times a tile.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        pattern: Pattern = "sub",
        topic: bytes = b"",
        max_part_bytes: int = 64 << 20,
        queued: int = 4,
    ) -> None:
        kind = zmq.SocketType.SUB if pattern == "sub" else zmq.SocketType.PULL
        options = {
            zmq.SocketOption.RCVHWM: queued,
            zmq.SocketOption.MAXMSGSIZE: max_part_bytes,
        }
        super().__init__(kind, endpoint, options)
        if pattern == "sub":
            self._zmq.subscribe(topic)

    def recv(self, timeout_s: float) -> list[memoryview] | None:
        """Return the parts of one message, or None if none came in time.

        Returns:
            Views of libzmq's own memory, which lives as long as they do; at most `MAX_PARTS`.
        """
        if not self._readable(timeout_s):
            return None
        parts: list[memoryview] = []
        more = True
        while more:
            frame = self._zmq.recv(zmq.NOBLOCK, copy=False)
            more = frame.more
            if len(parts) < MAX_PARTS:
                parts.append(frame.buffer)
        return parts


class TileSender(_Socket):
    """The instrument's end of its stream.

    Args:
        endpoint: Where.
        pattern: What the listener is: "sub" or "pull".
        queued: Messages libzmq may hold for each listener.
    """

    def __init__(self, endpoint: Endpoint, *, pattern: Pattern = "sub", queued: int = 4) -> None:
        self._topics: set[bytes] | None = set() if pattern == "sub" else None
        if pattern == "sub":
            kind, options = zmq.SocketType.XPUB, {zmq.SocketOption.XPUB_NODROP: 1}
        else:
            kind, options = zmq.SocketType.PUSH, {zmq.SocketOption.IMMEDIATE: 1}
        super().__init__(kind, endpoint, {zmq.SocketOption.SNDHWM: queued, **options})

    def wait_for_listener(self, timeout_s: float) -> bool:
        """Wait for a subscriber; True if there is one. With "pull", sending itself waits."""
        if self._topics is None:
            return True
        self._hear_subscriptions()
        if not self._topics and self._readable(timeout_s):
            self._hear_subscriptions()
        return bool(self._topics)

    def send(self, parts: Sequence[bytes | memoryview], timeout_s: float) -> bool:
        """Hand one message over; False if nobody listened or took it in time.

        Parts above 64 KiB are not copied, which takes milliseconds for a tile: they must not change
        from now on.
        """
        return self.wait_for_listener(timeout_s) and self._send(parts, timeout_s, copy=False)

    def _hear_subscriptions(self) -> None:
        while self._topics is not None and self._readable(0):
            event = self._zmq.recv(zmq.NOBLOCK)
            if event[:1] == b"\1":
                self._topics.add(event[1:])
            elif event[:1] == b"\0":
                self._topics.discard(event[1:])


class PacketSender(_Socket):
    """The board's end of the link; packets queue only while somebody is connected.

    Args:
        endpoint: Where.
        queued: Packets libzmq may hold. They are lost if the peer dies, so not many.
    """

    def __init__(self, endpoint: Endpoint, *, queued: int = 64) -> None:
        options = {
            zmq.SocketOption.SNDHWM: queued,
            zmq.SocketOption.IMMEDIATE: 1,
            # Of what is under way to a machine that is gone; else TCP tries for a quarter hour.
            zmq.SocketOption.TCP_MAXRT: 20_000,
        }
        super().__init__(zmq.SocketType.PUSH, endpoint, options)

    def send(self, raw: bytes, timeout_s: float) -> bool:
        """Hand one packet over; False if the link did not take it in time."""
        return self._send([raw], timeout_s)


class PacketListener(_Socket):
    """The ground's end of the link.

    What is longer than a packet still comes, to be refused and counted; above `MAX_MESSAGE_BYTES`
    libzmq hangs up.

    Args:
        endpoint: Where.
        queued: Packets libzmq may hold for us.
    """

    def __init__(self, endpoint: Endpoint, *, queued: int = 1000) -> None:
        options = {
            zmq.SocketOption.RCVHWM: queued,
            zmq.SocketOption.MAXMSGSIZE: MAX_MESSAGE_BYTES,
        }
        super().__init__(zmq.SocketType.PULL, endpoint, options)

    def recv_many(self, max_items: int, timeout_s: float) -> list[bytes]:
        """Return what has come, at most `max_items`; empty if nothing did in time.

        A message of several parts counts as so many items: no packet has parts.
        """
        items: list[bytes] = []
        if self._readable(timeout_s):
            try:
                while len(items) < max_items:
                    items.append(self._zmq.recv(zmq.NOBLOCK))
            except zmq.Again:
                pass
        return items


def new_curve_pair() -> tuple[bytes, bytes]:
    """A new public and secret key, Z85."""
    return zmq.curve_keypair()


def _milliseconds(seconds: float) -> int:
    """A timeout for libzmq, rounded up; not infinite, which would be −1 there."""
    return math.ceil(min(max(seconds, 0.0), 86_400.0) * 1000)
