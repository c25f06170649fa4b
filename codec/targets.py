"""What a tile should come to, and the quantizer step that gets it there.

The search encodes the tile for real, and for a quality decodes it again, so what it promises is
measured: a rate within 5 %, a PSNR within 0.3 dB. Where a tile cannot be brought there, a miss
that costs nothing is taken (fewer bits than asked for, or a better PSNR) and any other is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import TileError
from codec.patch_grid import PatchGrid
from codec.patching import split
from codec.quality import psnr_db
from codec.tile import Tile

RATE_TOLERANCE: Final = 0.05
PSNR_TOLERANCE_DB: Final = 0.3
"""How far from its target a tile may end."""

DB_PER_OCTAVE: Final = 20 * math.log10(2)
"""What half the error is worth [dB]."""

_MOST_TRIALS: Final = 24
_NARROWEST: Final = 1 / 64
"""A bracket this narrow holds a jump [octaves]: components come and go with the step."""
_LONGEST_MOVE: Final = 2.0
"""Before there is a bracket [octaves]."""
_FIRST_MOVE: Final = 1.5
"""Octaves of step for one of rate or error, and by how much longer each further move is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What every tile should come to.

    Attributes:
        kind: "rate" or "psnr".
        value: Bits per valid sample, every byte of every frame counted; or PSNR of the patches,
            averaged, over valid samples, MAX = reflectance 1.0 [dB].
    """

    kind: Literal["rate", "psnr"]
    value: float

    def __post_init__(self) -> None:
        if self.kind not in ("rate", "psnr"):
            raise TileError(f"a target is a rate or a psnr, not a {self.kind}")
        if not 0 < self.value < 1e9:
            raise TileError(f"{self.kind} must be positive and below 1e9, got {self.value}")

    def __str__(self) -> str:
        return f"{self.value:g} {'bits per sample' if self.kind == 'rate' else 'dB'}"

    @property
    def height(self) -> float:
        """The target in octaves of rate, or of error: it grows as the step shrinks."""
        return self.octaves(self.value)

    @property
    def tolerance(self) -> float:
        """How far from `height` is on target."""
        if self.kind == "psnr":
            return PSNR_TOLERANCE_DB / DB_PER_OCTAVE
        return math.log2(1 + RATE_TOLERANCE)

    def value_of(self, coded: CodedTile) -> float:
        """What a tile came to, in the target's unit."""
        if self.kind == "rate":
            return coded.bpppc
        return math.nan if coded.psnr_db is None else coded.psnr_db

    def height_of(self, coded: CodedTile) -> float:
        """What a tile came to, as `height`."""
        return self.octaves(self.value_of(coded))

    def is_met_by(self, coded: CodedTile) -> bool:
        """Whether a tile is within the tolerance."""
        return abs(self.height_of(coded) - self.height) <= self.tolerance

    def is_bettered_by(self, coded: CodedTile) -> bool:
        """Whether a tile needs fewer bits than asked for, or has the better PSNR."""
        excess = self.height_of(coded) - self.height
        return excess < 0 if self.kind == "rate" else excess > 0

    def octaves(self, value: float) -> float:
        """A rate, or a PSNR [dB], as `height`."""
        return value / DB_PER_OCTAVE if self.kind == "psnr" else math.log2(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRange:
    """Steps worth a look, as log₂ of them."""

    finest: float
    coarsest: float

    @classmethod
    def of(cls, bundle: Bundle) -> StepRange:
        """Return the steps that a model's tiles may need.

        With a KLT, integers in 10⁻⁴ reflectance come back exactly at a step of ¼, and at 2²⁰ not
        even the mean of a tile is left. What the step of latents alone means, only the model knows.
        """
        if bundle.conditioner.kind == "klt":
            return cls(finest=-2.0, coarsest=20.0)
        own = math.log2(bundle.default_step)
        return cls(finest=own - 12, coarsest=own + 12)

    def nearest(self, octave: float) -> float:
        """The octave itself, or the end it is beyond."""
        return min(max(octave, self.finest), self.coarsest)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedTile:
    """A tile's frames and what they come to.

    Attributes:
        frames: The side frame, then one frame per patch.
        step: The tile's quantizer step.
        samples: Valid samples in it.
        psnr_db: PSNR of its patches, averaged [dB]; None if nobody decoded it.
    """

    frames: tuple[bytes, ...] = field(repr=False)
    step: float
    samples: int
    psnr_db: float | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all frames."""
        return sum(map(len, self.frames))

    @property
    def bpppc(self) -> float:
        """Bits per valid sample; NaN if there is none."""
        return 8 * self.size_bytes / self.samples if self.samples else math.nan


def mean_psnr_db(reference: Tile, restored: Tile) -> float:
    """PSNR of each patch, averaged, MAX = reflectance 1.0 [dB]; NaN if no sample is valid.

    Patches without any error have no number and stay out of the mean; infinite if all are so.
    """
    _, rows, cols = reference.samples.shape
    grid = PatchGrid(tile_rows=rows, tile_cols=cols)
    parts = (split(part, grid) for part in (reference.samples, restored.samples, reference.valid()))
    peak = reference.info.reflectance_scale
    values = np.array(
        [psnr_db(before, after, valid, peak) for before, after, valid in zip(*parts, strict=True)]
    )
    finite = values[np.isfinite(values)]
    if finite.size:
        return float(finite.mean())
    return math.nan if np.isnan(values).all() else math.inf


def code(
    encoder: Encoder, tile: Tile, target: Target | None = None, decoder: Decoder | None = None
) -> CodedTile:
    """Encode a tile so that it meets a target.

    Args:
        encoder: Its own step is where the search starts, and what counts without a target.
        tile: The tile.
        target: What it should come to.
        decoder: Of the same model; only a PSNR needs it.

    Raises:
        TileError: If the tile does not fit the model, or cannot be brought to the target.
    """
    samples = int(np.count_nonzero(tile.valid()))
    measured = decoder if target is not None and target.kind == "psnr" else None

    def at(step: float) -> CodedTile:
        frames = tuple(encoder.encode(tile, step))
        quality = None if measured is None else mean_psnr_db(tile, measured.decode(frames))
        return CodedTile(frames=frames, step=step, samples=samples, psnr_db=quality)

    if target is None or not samples:  # without samples nothing depends on the step
        return at(encoder.step)
    if target.kind == "psnr" and decoder is None:
        raise ValueError("a PSNR is met by decoding: give the decoder of the model")
    made: list[CodedTile] = []

    def excess(step: float) -> float:
        try:
            made.append(at(step))
        except TileError:
            if not made:
                raise  # of any step, not of this one
            return math.inf  # too fine for the tile
        return target.height_of(made[-1]) - target.height

    close, steps = target.tolerance / 5, StepRange.of(encoder.bundle)
    search(excess, encoder.step, steps, close=close, most_trials=_MOST_TRIALS)
    return _choose(made, target)


def search(
    excess: Callable[[float], float],
    first_step: float,
    steps: StepRange,
    *,
    close: float,
    most_trials: int,
) -> float:
    """Look for the step that meets a target.

    Args:
        excess: How far above the target a step comes out, as `Target.height`; infinite where the
            step is too fine.
        first_step: Where to begin.
        steps: Where to stay.
        close: Excess, or lack, that ends the search.
        most_trials: Most steps looked at.

    Returns:
        The step looked at last: close, or as near as a jump or an end of the range lets it be.
    """
    octave = steps.nearest(math.log2(first_step))
    trials = [_Trial(octave, excess(2.0**octave))]
    while len(trials) < most_trials and abs(trials[-1].excess) > close:
        if (further := _next(trials, steps)) is None:
            break
        trials.append(_Trial(further, excess(2.0**further)))
    return float(2.0 ** trials[-1].octave)


class _Trial(NamedTuple):
    """A step looked at: log₂ of it, and how far above the target it came out."""

    octave: float
    excess: float


def _next(trials: Sequence[_Trial], steps: StepRange) -> float | None:
    """Octave to look at next: between the trials about the target, or beyond all of them."""
    finer = max((t for t in trials if t.excess > 0), default=None)
    coarser = min((t for t in trials if t.excess <= 0), default=None)
    if finer is None or coarser is None:
        last = trials[-1]
        move = min(max(last.excess, -_LONGEST_MOVE), _LONGEST_MOVE) * _FIRST_MOVE ** len(trials)
        octave = steps.nearest(last.octave + move)
        return None if octave == last.octave else octave
    width, fall = coarser.octave - finer.octave, finer.excess - coarser.excess
    if width < _NARROWEST:
        return None
    # False position, but never near an end: a bent curve would be approached from one side only.
    share = min(max(finer.excess / fall, 0.1), 0.9) if fall < math.inf else 0.5
    return finer.octave + share * width


def _choose(made: Sequence[CodedTile], target: Target) -> CodedTile:
    """Take what came nearest to the target, or nearest of what misses it for the better.

    Raises:
        TileError: If all miss it for the worse.
    """

    def miss(coded: CodedTile) -> float:
        return abs(target.height_of(coded) - target.height)

    nearest = min(made, key=miss)
    if target.is_met_by(nearest):
        return nearest
    better = [coded for coded in made if target.is_bettered_by(coded)]
    if better:
        return min(better, key=miss)
    raise TileError(
        f"{target} is out of reach; the nearest is {target.value_of(nearest):.4g}, at a step of "
        f"{nearest.step:.4g}"
    )
