"""What an opened tile becomes: patches ready to be encoded, by whatever is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.conditioning import ConditionerSpec, Conditioning
from codec.klt import Effort
from codec.klt_side import KltSide
from codec.patch_grid import PatchExtent
from codec.tile import Samples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchJob:
    """One patch of an opened tile, ready to be encoded in any batch."""

    sensor: str
    tile_id: bytes
    patch_row: int
    patch_col: int
    extent: PatchExtent
    strip: Samples = field(repr=False)
    """All of the tile in the patch's rows, shape (bands, rows, any), a view; the same object for
    all patches of these rows, since lines lie together in memory, those of a patch apart."""
    conditioning: Conditioning
    valid: NDArray[np.bool_] | None
    """Shape (coded bands, rows, cols); None if all of them are valid."""
    quick: bool = False
    """Whether it is coded by `codec.quick_coder`."""

    @property
    def samples(self) -> Samples:
        """Shape (bands, rows, cols), a view of the tile's."""
        return self.strip[:, :, self.extent.slices[1]]

    @property
    def latent_step(self) -> float:
        """Quantizer step, in units of the latents."""
        return self.conditioning.latent_step

    @property
    def size_bytes(self) -> int:
        """Bytes of its samples."""
        return self.samples.nbytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TileJob:
    """A tile whose conditioner is fitted.

    Attributes:
        side_frame: What the ground needs before any patch.
        empty: Whether no sample is valid; the tile then comes back as fill.
        patches: The patches, row by row.
    """

    side_frame: bytes
    empty: bool
    patches: tuple[PatchJob, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A patch on its way into the entropy coder.

    Attributes:
        values: Symbols, shape (channels, ⌈rows/8⌉, ⌈cols/8⌉), any integers; or latents, float32,
            which the quick coder rounds when it is their turn.
        errors: What rounding left [1/256 step], same shape, for the coder to round small symbols a
            last time; None where it does not.
    """

    values: NDArray[Any]
    errors: NDArray[Any] | None = None


class TileDevice(Protocol):
    """What conditions, analyzes and rounds tiles in a memory of its own."""

    def fit(
        self,
        spec: ConditionerSpec,
        samples: Samples,
        strips: Sequence[Samples],
        *,
        bands: NDArray[np.int64],
        valid: NDArray[np.bool_] | None,
        sample_unit: float,
        step: float,
        effort: Effort,
    ) -> KltSide | None:
        """Take a tile and fit its KLT, as `codec.klt.fit_klt` does.

        Args:
            spec: Limits of the bundle.
            samples: Shape (bands, rows, cols), in the tile's units.
            strips: Views of them that are those of the tile's patches, from the first row on.
            bands: Positions of the bands with any valid sample, shape (coded,).
            valid: Shape (coded, rows, cols), or None if all coded samples are valid.
            sample_unit: 10⁻⁴ reflectance per sample unit.
            step: Quantizer step [10⁻⁴ reflectance].
            effort: Of it the turns; a device looks at all pixels.

        Returns:
            None if the device has failed, and something else takes over.

        Raises:
            TileError: If the samples are too large for the step.
            BackendError: If the device has failed.
        """
        ...

    def symbols(self, patches: Sequence[PatchJob]) -> list[Rounded] | None:
        """Return what to code of patches of any tiles, same order; else as of `fit`."""
        ...
