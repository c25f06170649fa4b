"""The decoder: frames in, a tile out. The encoder's screen, backwards.

bytes ─ decode ─► symbols ─ restore ─► latents ─ synthesize ─► components ─ uncondition ─► Tile
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from codec import masks
from codec.bundle import Bundle
from codec.conditioning import UNITS_PER_REFLECTANCE, Conditioning, fit_minmax
from codec.contexts import step_ratio
from codec.decoded_patch import DecodedPatch
from codec.errors import BitstreamError, FrameFieldError, TileError, WrongModelError
from codec.frame import Frame, PatchFrame, SideFrame, parse
from codec.klt_side import KltSide
from codec.lifting import inverse_wavelet
from codec.patch_grid import PatchExtent
from codec.quantize import dequantize
from codec.restoration import restore
from codec.shortcut import CHANNELS
from codec.symbol_coder import SymbolCoder
from codec.threads import each_of
from codec.tile import Samples, Tile, fill_value
from codec.tile_memory import memory_bytes

_SIDES_KNOWN: Final = 4


class Decoder:
    """Decodes frames of one model.

    The network always runs one patch at a time, in float32 on the CPU: equal frames give equal
    samples, whatever was decoded before or beside them.

    Args:
        bundle: The model, with its synthesis network.
        threads: Patches of a tile that are decoded at a time, each on a thread of its own.
        restores: Whether coefficients are restored. Beside the wavelet a flight bundle is enough
            where they are not; what comes back is then a little worse than on the ground.

    Raises:
        BundleTensorError: If it is a flight bundle, and what it lacks is needed.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, *, restores: bool = True) -> None:
        self.bundle = bundle
        self._each = each_of(threads, "decoder")
        needed = restores or bundle.network.shortcut != "wavelet"
        self._network = bundle.synthesis() if needed else None
        self._channels = bundle.scales.groups.size
        self._coder = SymbolCoder(bundle.tables, bundle.scales, bundle.contexts)
        if bundle.network.shortcut == "wavelet":
            self._components(np.zeros((CHANNELS, 1, 1), np.int32), (1, 1), 1.0)  # compiles it now
        self._known: dict[SideFrame, Conditioning] = {}
        self._knowing = threading.Lock()

    def decode(self, frames: Iterable[bytes]) -> Tile:
        """Restore a tile from its side frame and all of its patch frames, in any order.

        Raises:
            BitstreamError: If a frame is damaged, missing, too many, or of another tile or model.
        """
        parsed = [parse(raw) for raw in frames]
        side = _only_side(parsed)
        coded = {}
        for frame in parsed:
            if isinstance(frame, PatchFrame):
                position = frame.patch_row, frame.patch_col
                if position in coded:
                    raise BitstreamError(f"patch {position} came twice")
                coded[position] = frame
        self.conditioning(side)  # refused now, or good for every patch
        places = {position: self._extent(side, frame) for position, frame in coded.items()}
        # Counted, not listed: the grid is as large as the frame says, and the frame may lie.
        if missing := len(side.grid) - len(places):
            first = next(position for position in side.grid if position not in places)
            raise BitstreamError(f"{missing} patches are missing, the first {first}")
        samples = _room_for(side)

        def decode(position: tuple[int, int]) -> None:
            decoded = self.decode_patch(side, coded[position])
            samples[:, *places[position].slices] = decoded.samples

        for _ in self._each(decode, coded):
            pass  # each is in its place, or the first that is not is an error
        return Tile(samples=samples, info=side.info)

    def decode_patch(self, side: SideFrame, patch: PatchFrame) -> DecodedPatch:
        """Restore one patch.

        Raises:
            WrongModelError: If either frame names another model.
            BitstreamError: If the frames do not belong together or do not decode.
        """
        extent = self._extent(side, patch)
        conditioning = self.conditioning(side)
        channels = conditioning.levels.size * self._channels
        decode = self._coder.decode_quickly if patch.quick else self._coder.decode
        symbols = decode(patch.payload, channels, *extent.shape)
        step = conditioning.latent_step * step_ratio(patch.step_offset)
        restored = conditioning.restore(self._components(symbols, extent.shape, step))
        return DecodedPatch(
            patch_row=patch.patch_row,
            patch_col=patch.patch_col,
            samples=_place(side, patch, restored),
            step=side.step * step_ratio(patch.step_offset),
        )

    def _components(
        self, symbols: NDArray[np.int32], shape: tuple[int, int], step: float
    ) -> NDArray[np.float32]:
        """What symbols stand for; beside the wavelet, what the others tell of each included."""
        network = self._network
        if network is None:
            return inverse_wavelet(symbols * np.float32(step), *shape)
        if self.bundle.network.shortcut == "wavelet":
            restored = restore(symbols, *shape, network.branch)
            return inverse_wavelet(restored * np.float32(step), *shape)
        latents = torch.from_numpy(dequantize(symbols, step))
        with torch.inference_mode():
            return np.ascontiguousarray(network(latents[None], shape)[0].numpy())

    def conditioning(self, side: SideFrame) -> Conditioning:
        """Rebuild a tile's conditioning from its side frame, or remember it.

        The patches of a tile come one after another and share it.

        Raises:
            WrongModelError: If it names another model.
            BitstreamError: If it does not decode.
        """
        with self._knowing:  # threads decode patches of one tile
            if side not in self._known:
                known = self._conditioning(side)
                if len(self._known) >= _SIDES_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[side] = known
            return self._known[side]

    def _conditioning(self, side: SideFrame) -> Conditioning:
        if side.model != self.bundle.model:
            raise WrongModelError(f"coded by model {side.model.hex()}, this is {self.bundle.name}")
        _, rows, cols = side.shape
        unit = UNITS_PER_REFLECTANCE / side.info.reflectance_scale
        if self.bundle.conditioner.kind == "minmax":
            try:
                return fit_minmax(self.bundle.conditioner, side.valid_bands, unit, side.step)
            except TileError as error:
                raise FrameFieldError(str(error)) from None
        if len(side.levels) > self.bundle.conditioner.components:
            raise FrameFieldError(f"{len(side.levels)} components are more than the model sends")
        coded = np.flatnonzero(side.valid_bands)
        klt = KltSide.unpack(side.levels, side.payload, coded.size, self.bundle.tables)
        return klt.conditioning(coded, rows * cols, side.step, unit)

    def _extent(self, side: SideFrame, patch: PatchFrame) -> PatchExtent:
        if patch.model != side.model:
            raise WrongModelError(
                f"patch coded by model {patch.model.hex()}, its tile by {side.model.hex()}"
            )
        if patch.tile_id != side.tile_id:
            raise BitstreamError(
                f"patch of tile {patch.tile_id.hex()} meets side information of tile "
                f"{side.tile_id.hex()}"
            )
        try:
            return side.grid.extent(patch.patch_row, patch.patch_col)
        except TileError as error:
            raise FrameFieldError(str(error)) from None


def _only_side(frames: list[Frame]) -> SideFrame:
    sides = [frame for frame in frames if isinstance(frame, SideFrame)]
    if len(sides) != 1:
        raise BitstreamError(f"one side frame expected, got {len(sides)}")
    return sides[0]


def _room_for(side: SideFrame) -> Samples:
    """An array for a tile: some hundred bytes of frames may say that it holds gigabytes."""
    dtype = np.dtype(side.dtype)
    size_bytes = dtype.itemsize * math.prod(side.shape)
    if size_bytes > (most := memory_bytes()):
        raise BitstreamError(f"the tile holds {size_bytes} bytes, this machine has {most}")
    return np.empty(side.shape, dtype)


def _place(side: SideFrame, patch: PatchFrame, restored: NDArray[np.float32]) -> Samples:
    """Put restored bands among filled ones, in the tile's own type."""
    dtype = np.dtype(side.dtype)
    fill = fill_value(dtype, side.info.nodata)
    rows, cols = restored.shape[1:]
    values = _as_type(restored, dtype, side.info.nodata)
    valid = masks.unpack(patch.mask, restored.shape)
    if valid is not None:
        values[~valid] = fill
    if len(values) == side.shape[0]:
        return values
    samples = np.full((side.shape[0], rows, cols), fill, dtype=dtype)
    samples[side.valid_bands] = values
    return samples


def _as_type(values: NDArray[np.float32], dtype: np.dtype[Any], nodata: float | None) -> Samples:
    """Round and limit to the sample type, in place; a measured sample never becomes fill."""
    if not np.isfinite(values).all():
        np.nan_to_num(values, copy=False)
    if dtype.kind == "f":
        if nodata is not None and math.isfinite(nodata):
            away = -math.inf if nodata > 0 else math.inf
            values[values == np.float32(nodata)] = np.nextafter(
                np.float32(nodata), np.float32(away)
            )
        return values
    limits = np.iinfo(dtype)
    np.rint(values, out=values)
    typed = np.clip(values, limits.min, limits.max, out=values).astype(dtype)
    if nodata is not None and typed.min(initial=limits.max) <= nodata <= typed.max(initial=0):
        typed[typed == nodata] = nodata + 1 if nodata < limits.max else nodata - 1
    return typed
