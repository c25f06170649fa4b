"""Frames in, parts of tiles out; patches wait here for their tile's side information."""

from __future__ import annotations

import contextlib
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from codec.decoder import Decoder
from codec.errors import CodecError, WrongModelError
from codec.frame import PatchFrame, SideFrame, parse
from daemon.clock import Clock
from daemon.errors import reason_of
from daemon.ground.items import CollectedFrame, TilePart
from daemon.link.sequence import SequenceTracker
from daemon.metrics import GroundMetrics

NO_SIDE: Final = "no_side"
"""Why a patch failed whose side information never came."""

_SIDES_KEPT: Final = 1024
"""Side frames remembered for patches still to come: at EnMAP's rate, minutes."""


class _Parked(NamedTuple):
    frame: PatchFrame
    collected: CollectedFrame
    parked_s: float


class _Side(NamedTuple):
    frame: SideFrame
    sent_as: tuple[int, int]
    """(boot_id, frame_id): the same side information under another id is a tile sent anew."""


class DecodeWorker:
    """Decodes frames of any model at hand.

    Args:
        decoders: Decoder by the model's name in frames.
        max_parked_bytes: Most bytes of patches that wait for side information; beyond it the
            oldest is given up.
        max_age_s: How long a patch waits for side information [s].
        clock: Measures ages.
        metrics: Counts what was decoded and what failed, by reason.
    """

    def __init__(
        self,
        decoders: Mapping[bytes, Decoder],
        *,
        max_parked_bytes: int,
        max_age_s: float,
        clock: Clock,
        metrics: GroundMetrics,
    ) -> None:
        self._decoders, self._clock, self._metrics = decoders, clock, metrics
        self._max_parked_bytes, self._max_age_s = max_parked_bytes, max_age_s
        self._sides: OrderedDict[bytes, _Side] = OrderedDict()
        self._sequences = SequenceTracker()
        self._parked: deque[_Parked] = deque()
        self._parked_bytes = 0

    def accept(self, item: CollectedFrame) -> Iterator[TilePart]:
        """Decode a frame, and with a side frame the patches that waited for it.

        Raises:
            CodecError: If it does not parse or decode; the caller counts it.
        """
        frame = parse(item.raw)
        if isinstance(frame, SideFrame):
            yield from self._side(frame, item)
        elif frame.tile_id in self._sides:
            yield self._decode(frame, item)
        else:
            with self._counting_failures():  # of an unknown model, it need not wait for anything
                self._decoder(frame.model)
            self._park(frame, item)

    def tick(self) -> tuple[()]:
        """Give up patches that waited too long."""
        oldest_s = self._clock.monotonic_s() - self._max_age_s
        while self._parked and self._parked[0].parked_s <= oldest_s:
            self._give_up()
        return ()

    def finish(self) -> tuple[()]:
        """Give up what still waits."""
        while self._parked:
            self._give_up()
        return ()

    def _side(self, side: SideFrame, collected: CollectedFrame) -> Iterator[TilePart]:
        self._decoder(side.model).conditioning(side)  # refused now, or good for every patch
        sent_as = collected.boot_id, collected.frame_id
        known = self._sides.get(side.tile_id)
        if known is not None and known.sent_as == sent_as:
            side = known.frame
        self._sides[side.tile_id] = _Side(side, sent_as)
        self._sides.move_to_end(side.tile_id)
        if len(self._sides) > _SIDES_KEPT:
            self._sides.popitem(last=False)
        self._note_sequence(side)
        yield TilePart(side=side, patch=None, frame=collected)
        waiting = [parked for parked in self._parked if parked.frame.tile_id == side.tile_id]
        self._parked = deque(p for p in self._parked if p.frame.tile_id != side.tile_id)
        self._parked_bytes -= sum(parked.collected.size_bytes for parked in waiting)
        for parked in waiting:
            with contextlib.suppress(CodecError):  # counted, and no reason to lose the others
                yield self._decode(parked.frame, parked.collected)

    def _note_sequence(self, side: SideFrame) -> None:
        """Count tiles of which nothing came, whether the board was down or the link."""
        instrument = zlib.crc32(side.info.sensor.encode())
        self._sequences.note(instrument, side.info.sequence)
        self._metrics.tiles_missing.set(self._sequences.counts.missing)

    def _decode(self, frame: PatchFrame, collected: CollectedFrame) -> TilePart:
        side = self._sides[frame.tile_id].frame
        with self._counting_failures():
            patch = self._decoder(side.model).decode_patch(side, frame)
        self._metrics.patches_decoded.inc()
        return TilePart(side=side, patch=patch, frame=collected)

    @contextlib.contextmanager
    def _counting_failures(self) -> Iterator[None]:
        try:
            yield
        except CodecError as error:
            self._metrics.patches_failed.labels(reason_of(error)).inc()
            raise

    def _decoder(self, model: bytes) -> Decoder:
        if model not in self._decoders:
            known = ", ".join(name.hex() for name in self._decoders)
            raise WrongModelError(f"no bundle of model {model.hex()} at hand, only of {known}")
        return self._decoders[model]

    def _park(self, frame: PatchFrame, collected: CollectedFrame) -> None:
        self._parked.append(_Parked(frame, collected, self._clock.monotonic_s()))
        self._parked_bytes += collected.size_bytes
        while self._parked_bytes > self._max_parked_bytes:
            self._give_up()

    def _give_up(self) -> None:
        parked = self._parked.popleft()
        self._parked_bytes -= parked.collected.size_bytes
        self._metrics.patches_failed.labels(NO_SIDE).inc()
