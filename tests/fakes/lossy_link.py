"""A link that loses, repeats and reorders packets; the seed decides."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class LossyLink:
    """Deliver packets late, twice, or not at all.

    Attributes:
        seed: The same seed does the same to the same packets.
        loss: Share of packets lost, 0 to 1.
        repeat: Share of the rest that comes twice.
        reorder: Share of what comes that is held back.
        depth: Most packets that may overtake one that is held back.
        lost: Packets lost so far.
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

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def carry(self, packets: Iterable[bytes]) -> list[bytes]:
        """Return what arrives, in the order it does."""
        arriving: list[tuple[float, bytes]] = []
        for place, packet in enumerate(packets):
            if self._random.random() < self.loss:
                self.lost += 1
                continue
            twice = self._random.random() < self.repeat
            self.repeated += twice
            arriving += [(place + self._delay(), packet) for _ in range(1 + twice)]
        return [packet for _, packet in sorted(arriving, key=lambda item: item[0])]

    def _delay(self) -> float:
        if self._random.random() >= self.reorder:
            return 0.0
        return self._random.uniform(0.5, self.depth + 0.5)
