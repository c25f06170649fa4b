"""The quantizer step of each tile on board: given, or chosen so that a target is met.

There is no time to encode a tile twice, so a step is judged by a look at a part of each patch
(`codec.estimates`). A tile is opened at the step of the one before it, of the same instrument, and
again at a better one only where the estimate says that it would miss. What the encoder then makes
of the patches corrects the estimates of rates; of a quality the board learns nothing.

A rate is met on average: what a tile may miss, the next ones make up for. Where a target is out of
reach, the nearest step is taken.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from codec.bundle import Bundle
from codec.conditioning import UNITS_PER_REFLECTANCE
from codec.encoder import Encoder
from codec.errors import BundleError, TileError
from codec.estimates import PatchProbe
from codec.jobs import PatchJob, TileJob
from codec.speeds import FASTEST
from codec.targets import StepRange, Target, search
from codec.tile import Tile

_HOLD: Final = 0.5
"""A step is kept if it comes within this share of the tolerance."""
_NEAR: Final = 1 / 32
"""A step is kept if a better one is within this distance [octaves]."""
_MOST_REOPENED: Final = 3
_MOST_TRIALS: Final = 8
_FARTHEST: Final = 2.0
"""A look is not trusted further from its own step [octaves]: others send other components."""
_SIDE_SLOPE: Final = 0.5
_LEFT_OUT_SLOPE: Final = 1.4
"""Octaves of side information, and of squared error by components not sent, for an octave of step:
about, for the next look puts it right."""
_MOST_LOOKS: Final = 16
"""Patches of a tile that are looked at, evenly spread."""
_FORGET: Final = 1 - 1 / 32
"""What a correction keeps, from one patch to the next, of what it learned."""
_PRIOR_BYTES: Final = 2000.0
"""Weight of the estimate itself before there is anything to learn from."""
_MOST_OWED: Final = 0.1
"""Share of a tile's bits that the next one makes up for."""
_WORTHLESS: Final = 0.1
"""A finer step gains nothing where rounding adds less than this share to what is left out."""
_MOST_INSTRUMENTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedTile:
    """A tile at its step.

    Attributes:
        job: The opened tile.
        expected_bytes: What each patch's frame should take, not corrected; None where nobody
            looked.
    """

    job: TileJob
    expected_bytes: tuple[float | None, ...]


@dataclass(slots=True)
class _Instrument:
    """What is remembered of an instrument.

    Attributes:
        step: Of its last tile.
        owed: Share of a tile's bits spent too much.
        expected_bytes: What frames should have taken, the latest counting most.
        coded_bytes: What they took.
    """

    step: float
    owed: float = 0.0
    expected_bytes: float = _PRIOR_BYTES
    coded_bytes: float = _PRIOR_BYTES


class StepControl:
    """Opens tiles and learns from their frames; called from the threads of two stages.

    Args:
        encoder: What encodes them; its own step is that of the first tile, and without a target
            of all.
        target: What tiles should come to.

    Raises:
        BundleError: If nothing can be estimated with the model.
    """

    def __init__(self, encoder: Encoder, target: Target | None = None) -> None:
        bundle = encoder.bundle
        if target is not None and bundle.network.shortcut == "none":
            raise BundleError(f"model {bundle.name} has no shortcut: it takes a step, no target")
        self._encoder, self._target = encoder, target
        self._range = StepRange.of(bundle)
        self._lock = threading.Lock()
        self._instruments: OrderedDict[str, _Instrument] = OrderedDict()

    def open(self, tile: Tile, speed: int = 0, octaves: float = 0.0) -> OpenedTile:
        """Open a tile at the step that suits it.

        Args:
            tile: The tile.
            speed: See `codec.speeds`.
            octaves: How far above the encoder's own a step without a target should be.

        Raises:
            TileError: If the tile does not fit the model.
        """
        if self._target is None:
            job = self._encoder.open(tile, self._encoder.step * 2.0**octaves, speed)
            return OpenedTile(job=job, expected_bytes=(None,) * len(job.patches))
        speed = min(speed, FASTEST - 1)  # larger steps would be against the target
        with self._lock:
            memory = replace(self._memory(tile.info.sensor))
        job = self._open_near(tile, memory.step, speed)
        if job.empty:
            return OpenedTile(job=job, expected_bytes=(None,) * len(job.patches))
        target, owed = self._target, memory.owed
        if target.kind == "rate":
            target = replace(target, value=target.value * (1 - owed))
        correction = memory.coded_bytes / memory.expected_bytes
        look = _Look(self._encoder.bundle, job, target, correction)
        look = self._improved(tile, look, speed)
        # Bits for each that the target allows.
        spent = (1 - owed) * 2.0 ** min(max(look.excess, -1.0), 1.0)
        with self._lock:
            memory = self._memory(tile.info.sensor)
            memory.step = look.step
            memory.owed = min(max(owed + spent - 1, -_MOST_OWED), _MOST_OWED)
        return OpenedTile(job=look.job, expected_bytes=look.expected_bytes())

    def learn(self, patch: PatchJob, expected_bytes: float | None, size_bytes: int) -> None:
        """Hear what a patch's frame took."""
        if expected_bytes is None:
            return
        with self._lock:
            memory = self._memory(patch.sensor)
            memory.expected_bytes = _FORGET * memory.expected_bytes + expected_bytes
            memory.coded_bytes = _FORGET * memory.coded_bytes + size_bytes

    def _memory(self, sensor: str) -> _Instrument:
        """What is remembered of an instrument; the one not seen for longest is forgotten."""
        memory = self._instruments.setdefault(sensor, _Instrument(step=self._encoder.step))
        self._instruments.move_to_end(sensor)
        if len(self._instruments) > _MOST_INSTRUMENTS:
            self._instruments.popitem(last=False)
        return memory

    def _open_near(self, tile: Tile, step: float, speed: int) -> TileJob:
        """Open a tile at the step of the one before, which may be too fine for this one."""
        try:
            return self._encoder.open(tile, step, speed)
        except TileError:
            if step >= self._encoder.step:
                raise
            return self._encoder.open(tile, speed=speed)

    def _improved(self, tile: Tile, look: _Look, speed: int) -> _Look:
        """Open a tile again while it would miss the target."""
        for _ in range(_MOST_REOPENED):
            step = look.step if look.is_close else look.better_step(self._range)
            if abs(math.log2(step / look.step)) < _NEAR:
                break
            try:
                look = look.reopened(self._encoder.open(tile, step, speed))
            except TileError:
                break  # too fine for this tile: what is at hand is the nearest
        return look


class _Look:
    """What some patches say about an opened tile.

    Attributes:
        job: The opened tile.
        step: Its step.
        excess: How far above the target it should come out, as `Target.height`.
    """

    def __init__(self, bundle: Bundle, job: TileJob, target: Target, correction: float) -> None:
        self._bundle, self._target, self._correction = bundle, target, correction
        self.job = job
        self.step = job.patches[0].conditioning.component_unit
        samples = [_valid_samples(patch) for patch in job.patches]
        self._samples = sum(samples)
        side = job.patches[0].conditioning
        self._sends_all = side.levels.size >= min(bundle.conditioner.components, side.bands.size)
        looked_at = [i for i, count in enumerate(samples) if count]
        every = -(-len(looked_at) // _MOST_LOOKS)
        self._probes = {i: PatchProbe(bundle, job.patches[i]) for i in looked_at[::every]}
        self._share = len(looked_at) / len(self._probes)
        self.excess = self._excess(self.step)

    @property
    def is_close(self) -> bool:
        """Whether the step may stay."""
        return abs(self.excess) <= _HOLD * self._target.tolerance

    def reopened(self, job: TileJob) -> _Look:
        """Look again, at another step."""
        return _Look(self._bundle, job, self._target, self._correction)

    def better_step(self, steps: StepRange) -> float:
        """Step at which the tile should meet the target."""
        here = math.log2(self.step)
        near = StepRange(
            finest=max(steps.finest, here - _FARTHEST),
            coarsest=min(steps.coarsest, here + _FARTHEST),
        )
        close = self._target.tolerance / 10
        return search(self._excess, self.step, near, close=close, most_trials=_MOST_TRIALS)

    def expected_bytes(self) -> tuple[float | None, ...]:
        """What each patch's frame should take, not corrected."""
        known = {i: probe.frame_bytes(self.step) for i, probe in self._probes.items()}
        return tuple(known.get(i) for i in range(len(self.job.patches)))

    def _excess(self, step: float) -> float:
        value = self._bpppc(step) if self._target.kind == "rate" else self._psnr_db(step)
        return self._target.octaves(value) - self._target.height

    def _bpppc(self, step: float) -> float:
        patches = sum(probe.frame_bytes(step) for probe in self._probes.values()) * self._share
        side = len(self.job.side_frame) * math.pow(self.step / step, _SIDE_SLOPE)
        return 8 * (side + self._correction * patches) / self._samples

    def _psnr_db(self, step: float) -> float:
        """PSNR of the patches, averaged; infinite where a finer step would gain nothing."""
        left_out = np.array([probe.left_out for probe in self._probes.values()])
        rounding = np.array([probe.rounding_error(step) for probe in self._probes.values()])
        if step > self.step or not self._sends_all:
            left_out *= (step / self.step) ** _LEFT_OUT_SLOPE
        elif rounding.sum() < _WORTHLESS * left_out.sum():
            return math.inf
        return float(np.mean(10 * np.log10(UNITS_PER_REFLECTANCE**2 / (left_out + rounding))))


def _valid_samples(patch: PatchJob) -> int:
    rows, cols = patch.extent.shape
    if patch.valid is None:
        return patch.conditioning.bands.size * rows * cols
    return int(np.count_nonzero(patch.valid))
