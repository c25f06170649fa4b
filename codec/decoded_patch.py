"""What the decoder makes of a patch frame; whoever only passes it on does not wait for PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from codec.tile import Samples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedPatch:
    """A patch as the ground has it.

    Attributes:
        patch_row: Position in the tile's grid.
        patch_col: Position in the tile's grid.
        samples: Shape (bands, rows, cols), the tile's type and units; fill where nothing was
            measured.
        step: Quantizer step [10⁻⁴ reflectance; min–max: latent units].
    """

    patch_row: int
    patch_col: int
    samples: Samples
    step: float
