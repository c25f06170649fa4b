"""Frames in, parts of tiles out; patches wait here for their tile's side information."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from operator import attrgetter
from typing import Final, NamedTuple

from codec.decoder import Decoder
from codec.errors import CodecError, FrameFieldError, WrongModelError
from codec.frame import PatchFrame, SideFrame, parse
from codec.threads import pool_of
from daemon.clock import Clock
from daemon.errors import reason_of
from daemon.ground.items import CollectedFrame, TilePart
from daemon.ground.metrics import GroundMetrics
from daemon.link.packet import Channel
from daemon.link.sequence import TileSequences
from daemon.stage import INTERNAL_ERROR

log = logging.getLogger(__name__)

NO_SIDE: Final = "no_side"
"""Why a patch failed whose side information never came."""

_SIDES_KEPT: Final = 1024
"""Tiles whose side frames are remembered for patches still to come: at EnMAP's rate, minutes."""

_ANEW_KEPT: Final = 2
"""Side frames remembered of one tile, should the board send it anew."""

_REORDER_TILES: Final = 64
"""How far a link may swap tiles: their side frames leave before all patches, back to back."""


class _Parked(NamedTuple):
    frame: PatchFrame
    collected: CollectedFrame
    parked_s: float


class _Side(NamedTuple):
    frame_id: int
    frame: SideFrame
    decoded: set[int]
    """Patch frames that were decoded with it."""


class _Begun(NamedTuple):
    item: CollectedFrame
    part: Future[TilePart]


class DecodeWorker:
    """Decodes frames of any model at hand.

    A board sends side information before the patches that need it, and a tile that is sent anew
    may be coded otherwise. So a patch belongs to the last side frame of its tile that the same
    boot sent before it, and waits until there is one.

    Patches go on in the order they came.

    Args:
        decoders: Decoder by the model's name in frames.
        threads: Patches decoded at a time. With one a call returns what it decoded; with more, all
            but one may be under way when it returns, and come with the next call or a tick.
        max_parked_bytes: Most bytes of patches that wait for side information; beyond it the
            oldest is given up.
        max_age_s: How long a patch waits for side information [s].
        clock: Measures ages.
        metrics: Counts what was decoded, what waits, and what failed after it had to wait.
        on_give_up: Told each patch whose side information did not come. Must not raise.
    """

    def __init__(
        self,
        decoders: Mapping[bytes, Decoder],
        *,
        threads: int,
        max_parked_bytes: int,
        max_age_s: float,
        clock: Clock,
        metrics: GroundMetrics,
        on_give_up: Callable[[CollectedFrame], object] = lambda _: None,
    ) -> None:
        self._on_give_up = on_give_up
        self._decoders, self._clock, self._metrics = decoders, clock, metrics
        self._max_parked_bytes, self._max_age_s = max_parked_bytes, max_age_s
        self._sides: OrderedDict[tuple[int, bytes], list[_Side]] = OrderedDict()
        self._begun: deque[_Begun] = deque()
        self._ready: deque[tuple[_Side, _Parked]] = deque()
        self._threads, self._pool = threads, pool_of(threads, "decoder")
        self._sequences = TileSequences(reorder=_REORDER_TILES)
        self._parked: deque[_Parked] = deque()
        self._parked_bytes = 0

    def accept(self, item: CollectedFrame) -> Iterator[TilePart]:
        """Decode a frame, and with a side frame the patches that waited for it.

        Raises:
            CodecError: If it does not parse, or, on one thread, decode; the caller counts it.
        """
        frame = parse(item.raw)
        if isinstance(frame, SideFrame) != (item.channel is Channel.SIDE):
            raise FrameFieldError(f"{type(frame).__name__} on channel {item.channel.name}")
        if isinstance(frame, SideFrame):
            self._take_side(frame, item)
        elif side := self._side_of(frame, item):
            self._begin(side, frame, item)
        else:
            self._decoder(frame.model)  # of an unknown model, it need not wait for anything
            self._park(frame, item)
        while len(self._begun) >= self._threads or self._ready:
            yield from self._ended(in_hand=item)
            # Not all at once: whoever gives up would have to wait for them.
            while self._ready and len(self._begun) < self._threads:
                side, parked = self._ready.popleft()
                self._begin(side, parked.frame, parked.collected)

    def tick(self) -> list[TilePart]:
        """Return what is decoded by now; give up patches that waited too long."""
        ready = list[TilePart]()
        while self._begun and self._begun[0].part.done():
            ready += self._ended()
        oldest_s = self._clock.monotonic_s() - self._max_age_s
        while self._parked and self._parked[0].parked_s <= oldest_s:
            self._give_up()
        return ready

    def finish(self) -> list[TilePart]:
        """Return what was begun; give up what still waits."""
        while self._parked:
            self._give_up()
        return [part for _ in range(len(self._begun)) for part in self._ended()]

    def _take_side(self, frame: SideFrame, item: CollectedFrame) -> None:
        self._decoder(frame.model).conditioning(frame)  # refused now, or good for every patch
        side = self._remember(frame, item)
        announced = Future[TilePart]()
        announced.set_result(
            TilePart(side=side.frame, side_frame_id=side.frame_id, patch=None, frame=item)
        )
        self._begun.append(_Begun(item, announced))
        found = [(self._side_of(p.frame, p.collected), p) for p in self._parked]
        self._parked = deque(waiting for ready, waiting in found if ready is None)
        self._parked_bytes = sum(waiting.collected.size_bytes for waiting in self._parked)
        self._metrics.patches_waiting.set(len(self._parked))
        for ready, waiting in found:
            if ready is not None:
                self._ready.append((ready, waiting))

    def _remember(self, frame: SideFrame, item: CollectedFrame) -> _Side:
        """Keep a side frame, or return the one known: the same that has come before."""
        key = item.boot_id, frame.tile_id
        sides = self._sides.setdefault(key, [])
        self._sides.move_to_end(key)
        if len(self._sides) > _SIDES_KEPT:
            self._sides.popitem(last=False)
        for known in sides:
            if known.frame_id == item.frame_id:
                return known
        sides.append(side := _Side(item.frame_id, frame, set()))
        sides.sort(key=attrgetter("frame_id"))
        del sides[:-_ANEW_KEPT]
        if not item.replayed:  # an older one says nothing of what is missing now
            self._sequences.note(frame.info.sensor, frame.info.sequence)
            self._metrics.tiles_missing.set(self._sequences.missing)
        return side

    def _side_of(self, patch: PatchFrame, item: CollectedFrame) -> _Side | None:
        """The last side frame before a patch, of the same boot and tile."""
        sides = self._sides.get((item.boot_id, patch.tile_id), [])
        return next((s for s in reversed(sides) if s.frame_id < item.frame_id), None)

    def _begin(self, side: _Side, frame: PatchFrame, item: CollectedFrame) -> None:
        decoder = self._decoder(side.frame.model)

        def decode() -> TilePart:
            patch = decoder.decode_patch(side.frame, frame)
            self._metrics.patches_decoded.inc()
            if item.frame_id not in side.decoded:
                side.decoded.add(item.frame_id)
                self._metrics.patches_decoded_once.inc()
            return TilePart(side=side.frame, side_frame_id=side.frame_id, patch=patch, frame=item)

        self._begun.append(_Begun(item, self._pool.submit(decode)))

    def _ended(self, in_hand: CollectedFrame | None = None) -> Iterator[TilePart]:
        """Wait for what was begun first; the error of the item in hand is the caller's."""
        item, part = self._begun.popleft()
        try:
            ended = part.result()
        except CodecError as error:
            if item is in_hand:
                raise
            fields = {"reason": reason_of(error), "error": str(error)}
            log.warning("patch not decoded", extra=fields)
            self._count_failed(reason_of(error))
        except BaseException:  # as in `daemon.stage`: a bug costs one item
            if item is in_hand:
                raise
            log.exception("internal error")
            self._count_failed(INTERNAL_ERROR)
        else:
            yield ended
        finally:
            del part  # an error of it would hold on to itself, and to the pool's threads

    def _count_failed(self, reason: str) -> None:
        """Count a patch that failed while another was in hand, as its stage would have."""
        self._metrics.failed("decode", reason)
        self._metrics.patches_failed.labels(reason).inc()

    def _decoder(self, model: bytes) -> Decoder:
        if model not in self._decoders:
            known = ", ".join(name.hex() for name in self._decoders)
            raise WrongModelError(f"no bundle of model {model.hex()} at hand, only of {known}")
        return self._decoders[model]

    def _park(self, frame: PatchFrame, collected: CollectedFrame) -> None:
        self._parked.append(_Parked(frame, collected, self._clock.monotonic_s()))
        self._parked_bytes += collected.size_bytes
        self._metrics.patches_waiting.set(len(self._parked))
        while self._parked_bytes > self._max_parked_bytes:
            self._give_up()

    def _give_up(self) -> None:
        parked = self._parked.popleft()
        self._parked_bytes -= parked.collected.size_bytes
        self._metrics.patches_waiting.set(len(self._parked))
        self._metrics.patches_failed.labels(NO_SIDE).inc()
        self._on_give_up(parked.collected)
