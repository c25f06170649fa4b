"""A radio link on the desk: between flight and ground, losing, repeating and reordering packets."""

from __future__ import annotations

import heapq
import random
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from daemon.errors import PacketError
from daemon.link.packet import Packet
from daemon.link.sockets import Endpoint, PacketListener, PacketSender

_WAIT_S: Final = 0.05
_AT_ONCE: Final = 64


@dataclass(slots=True, kw_only=True)
class LossyLink:
    """Delivers packets late, twice, or not at all; the seed decides.

    Attributes:
        seed: The same seed does the same to the same packets.
        loss: Share of packets lost, 0 to 1.
        repeat: Share of the rest that comes twice.
        reorder: Share of what comes that is held back.
        depth: Most packets that may overtake one that is held back.
        lost: Packets lost so far, those the radio gave up in the end included.
        repeated: Packets that came twice so far.
    """

    seed: int
    loss: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    depth: int = 8
    lost: int = field(default=0, init=False)
    repeated: int = field(default=0, init=False)
    _random: random.Random = field(init=False)
    _held: list[tuple[float, int, bytes]] = field(default_factory=list, init=False)
    _order: count[int] = field(default_factory=count, init=False)
    _place: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def carry(self, packet: bytes) -> list[bytes]:
        """Take one packet; return what arrives now."""
        if self._random.random() < self.loss:
            self.lost += 1
        else:
            twice = self._random.random() < self.repeat
            self.repeated += twice
            for _ in range(1 + twice):
                due = self._place + self._delay()
                heapq.heappush(self._held, (due, next(self._order), packet))
        self._place += 1
        return self._arrived(before=self._place)

    def flush(self) -> list[bytes]:
        """Return what is still held back."""
        return self._arrived(before=float("inf"))

    def _arrived(self, *, before: float) -> list[bytes]:
        arrived = []
        while self._held and self._held[0][0] < before:
            arrived.append(heapq.heappop(self._held)[2])
        return arrived

    def _delay(self) -> float:
        if self._random.random() >= self.reorder:
            return 0.0
        return self._random.uniform(1.0, self.depth + 1.0)


class Radio:
    """Carries packets from one socket to another on a thread of its own.

    Args:
        board: Where the board sends to; bound here.
        ground: Where the ground listens.
        link: What happens on the way.

    Attributes:
        packets: Packets the board sent.
        bytes_down: Their bytes, headers, repair packets and lost ones included.
        link: What happens on the way, and what it has lost.
        frame_bytes: The same by frame: (boot_id, frame_id) to bytes.
    """

    def __init__(self, *, board: str, ground: str, link: LossyLink) -> None:
        self.packets = self.bytes_down = 0
        self.frame_bytes: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.link = link
        self._board = PacketListener(Endpoint(address=board, bind=True))
        self._ground = PacketSender(Endpoint(address=ground, bind=False))
        self._stopping, self._gone = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="radio", daemon=True)

    def start(self) -> None:
        """Begin to carry."""
        self._thread.start()

    def stop(self) -> None:
        """Carry what the board has sent, then close; again, or never started, is harmless.

        What the ground does not take by then is lost, and counted.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._board.close()
        self._ground.close()

    def _run(self) -> None:
        while True:
            sent = self._board.recv_many(_AT_ONCE, _WAIT_S)
            for raw in sent:
                self._count(raw)
                self._pass_on(self.link.carry(raw))
            if not sent:
                self._pass_on(self.link.flush())
                if self._stopping.is_set():
                    return

    def _count(self, raw: bytes) -> None:
        self.packets += 1
        self.bytes_down += len(raw)
        try:
            packet = Packet.unpack(raw)
        except PacketError:
            return
        self.frame_bytes[packet.boot_id, packet.frame_id] += len(raw)

    def _pass_on(self, packets: list[bytes]) -> None:
        for raw in packets:
            while not self._ground.send(raw, 0.0 if self._gone else _WAIT_S):
                if self._stopping.is_set():
                    self._gone = True
                    self.link.lost += 1
                    break
