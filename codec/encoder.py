"""The encoder: a tile in, frames out. The whole path is `encode`, `open` and `encode_batch`.

Tile ─ condition ─► components ─ analyze ─► latents ─ quantize ─► symbols ─ entropy-code ─► bytes

With a GPU all up to the symbols happens there, see `codec.backends.device_backend`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import Any, Final, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from codec import masks
from codec.backend_names import BackendName
from codec.bundle import Bundle
from codec.conditioning import UNITS_PER_REFLECTANCE, Conditioning, fit_minmax
from codec.errors import BackendError, TileError
from codec.frame import PatchFrame, SideFrame
from codec.jobs import PatchJob, Rounded, TileDevice, TileJob
from codec.klt import EFFORTS, fit_klt
from codec.klt_side import KltSide
from codec.patch_grid import PatchGrid
from codec.quantize import best_rounding, quantize, rounding_errors
from codec.speeds import FASTEST
from codec.symbol_coder import SymbolCoder
from codec.threads import each_of
from codec.tile import Samples, Tile

Timer = Callable[[str], AbstractContextManager[None]]
"""Times a named stage: condition, analyze, quantize, entropy_code. Clocks belong to the caller."""

_COARSER: Final = math.sqrt(2)
"""How much larger steps are at the fastest speed: of the tile, not of its patches alone, which took
0.4 to 9 % more bytes at equal PSNR on five scenes, for more components are sent."""

NO_TIMER: Final[Timer] = lambda _: nullcontext()  # noqa: E731  # a constant of a function type


class AnalysisBackend(Protocol):
    """Something that runs a bundle's analysis network."""

    @property
    def name(self) -> str:
        """As settings name it."""
        ...

    @property
    def precision(self) -> str:
        """Type of the network's products."""
        ...

    @property
    def device(self) -> TileDevice | None:
        """Where tiles are before that, and after; None: in the host's memory."""
        ...

    @property
    def weights(self) -> Sequence[NDArray[Any]]:
        """The weights at work, where they can be read: a compiled network's cannot."""
        ...

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Components of shape (k, rows, cols) to latents (channels, ⌈rows/8⌉, ⌈cols/8⌉)."""
        ...


class Encoder:
    """Encodes tiles under one bundle; several threads may use it at a time.

    Args:
        bundle: The model; a flight bundle is enough.
        step: Quantizer step, units as in `SideFrame.step`; the bundle's own if None.
        backend: What runs the network; "auto" takes CUDA where there is one, else OpenVINO where
            the bundle has int8 ranges, else PyTorch on the CPU.
        threads: Threads of one inference on the CPU; 0 leaves it to the runtime.
        coders: Patches of a batch that are worked on at a time, each on a thread of its own.
        speed: See `codec.speeds`.
        timer: Called with the name of each stage; the context it returns times it.

    Raises:
        TileError: If the step or the speed is out of range.
        BackendError: If the backend asked for is not there.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        step: float | None = None,
        backend: BackendName = "auto",
        threads: int = 0,
        coders: int = 1,
        speed: int = 0,
        timer: Timer = NO_TIMER,
    ) -> None:
        if not 0 <= speed <= FASTEST:
            raise TileError(f"speed {speed}: there are 0 to {FASTEST}")
        self.speed = speed
        self.step = _usable(bundle.default_step if step is None else step)
        self.bundle = bundle
        self.backend = make_backend(bundle, backend, threads, coders)
        self._scales, self._timer = bundle.scales, timer
        self.coder = SymbolCoder(bundle.tables, bundle.scales, bundle.contexts)
        self._each = each_of(coders, "coder")
        self._row: tuple[Conditioning, int, NDArray[np.float32]] | None = None

    def encode(
        self, tile: Tile, step: float | None = None, speed: int | None = None
    ) -> list[bytes]:
        """Compress a tile: the side frame, then one frame per patch; arguments as of `open`."""
        job = self.open(tile, step, speed)
        return [job.side_frame, *self.encode_batch(job.patches)]

    def open(self, tile: Tile, step: float | None = None, speed: int | None = None) -> TileJob:
        """Fit the conditioner to a tile.

        Args:
            tile: The tile.
            step: Quantizer step of this tile; the encoder's own if None.
            speed: Of this tile and its patches; likewise.

        Raises:
            TileError: If the tile does not fit the bundle, or the step is out of range.
        """
        with self._timer("condition"):
            return self._open(
                tile,
                self.step if step is None else _usable(step),
                self.speed if speed is None else speed,
            )

    def encode_batch(self, patches: Sequence[PatchJob]) -> list[bytes]:
        """Compress patches of any tiles; one frame each, same order."""
        rounded = self._on_device(patches) or self._on_host(patches)
        with self._timer("entropy_code"):
            return [*self._each(self._frame, patches, rounded)]

    def fingerprint(self) -> bytes:
        """SHA-256 over weights and tables as they are in memory: it changes with any of their bits.

        Of what a runtime has compiled nothing can be read; only its answers tell.
        """
        tensors = self.bundle.tensors.values()
        digest = sha256()
        for array in (*tensors, *self.backend.weights, *self.coder.tables):
            digest.update(np.ascontiguousarray(array).data)
        return digest.digest()

    def _on_device(self, patches: Sequence[PatchJob]) -> list[Rounded] | None:
        """All up to the symbols at once, if there is a device, and it has not failed."""
        if (device := self.backend.device) is None:
            return None
        with self._timer("analyze"):
            return device.symbols(patches)

    def _on_host(self, patches: Sequence[PatchJob]) -> list[Rounded]:
        with self._timer("condition"):
            components = [self._components(patch) for patch in patches]
        with self._timer("analyze"):
            latents = self.backend.analyze(components)
        with self._timer("quantize"):  # what is coded quickly is rounded as it is coded
            each = map if all(patch.quick for patch in patches) else self._each
            return [*each(self._quantize, patches, latents)]

    def _components(self, patch: PatchJob) -> NDArray[np.float32]:
        way = patch.conditioning
        if patch.valid is not None or way.basis is None:
            return way.condition(patch.samples, patch.valid, self._each)
        # All that lies beside it, too: the last bits would depend on how much of that is asked for.
        row = self._row  # what another thread puts there meanwhile is of no concern
        if row is None or (row[0], row[1]) != (way, patch.patch_row):
            row = way, patch.patch_row, way.condition(patch.strip, None, self._each)
            self._row = row
        return row[2][:, :, patch.extent.slices[1]]

    def _open(self, tile: Tile, step: float, speed: int) -> TileJob:
        spec, (band_count, rows, cols) = self.bundle.conditioner, tile.samples.shape
        step = _usable(step * _COARSER) if speed == FASTEST else step
        unit = UNITS_PER_REFLECTANCE / tile.info.reflectance_scale
        valid_bands, valid = masks.validity(tile)
        payload, levels = b"", tuple[int, ...]()
        grid = PatchGrid(tile_rows=rows, tile_cols=cols)
        rows_of = {row: grid.extent(row, 0).slices[0] for row, _ in grid}
        strips = {row: tile.samples[:, lines] for row, lines in rows_of.items()}
        if spec.kind == "klt":
            bands = np.flatnonzero(valid_bands)
            side = self._fit(
                tile.samples,
                [*strips.values()],
                bands=bands,
                valid=valid,
                sample_unit=unit,
                step=step,
                effort=EFFORTS[min(speed, len(EFFORTS) - 1)],
            )
            payload, levels = side.pack(self.bundle.tables), side.levels
            conditioning = side.conditioning(bands, rows * cols, step, unit)
        else:
            conditioning = fit_minmax(spec, valid_bands, unit, step)
        frame = SideFrame(
            model=self.bundle.model,
            info=tile.info,
            dtype=tile.samples.dtype.name,
            shape=(band_count, rows, cols),
            patch_px=grid.patch_px,
            valid_bands=valid_bands,
            step=step,
            levels=levels,
            payload=payload,
        )
        patches = tuple(
            PatchJob(
                sensor=tile.info.sensor,
                tile_id=frame.tile_id,
                patch_row=row,
                patch_col=col,
                extent=(extent := grid.extent(row, col)),
                strip=strips[row],
                conditioning=conditioning,
                valid=None if valid is None else valid[(slice(None), *extent.slices)],
                quick=speed > 0 and self.bundle.contexts is not None,
            )
            for row, col in grid
        )
        empty = not valid_bands.any()
        return TileJob(side_frame=frame.pack(), empty=empty, patches=patches)

    def _fit(self, samples: Samples, strips: Sequence[Samples], **how: Any) -> KltSide:
        """Fit the KLT where the tile is to be analyzed; the rest as of `fit_klt`."""
        spec, device = self.bundle.conditioner, self.backend.device
        side = None if device is None else device.fit(spec, samples, strips, **how)
        return fit_klt(spec, samples, **how) if side is None else side

    def _quantize(self, patch: PatchJob, latents: NDArray[np.float32]) -> Rounded:
        """Round once to see how large each group is, then again as is best for that."""
        if patch.quick:
            return Rounded(latents)
        step = patch.latent_step
        symbols = quantize(latents, step)
        if patch.conditioning.basis is None or not symbols.any():
            return Rounded(symbols)  # of a network alone: what an error in them costs is unknown
        means = self._scales.channel_means(symbols)
        symbols = quantize(latents, step, best_rounding(means)[:, None, None])
        return Rounded(symbols, rounding_errors(latents, symbols, step))

    def _frame(self, patch: PatchJob, rounded: Rounded) -> bytes:
        shape, values, errors = patch.extent.shape, rounded.values, rounded.errors
        if patch.quick:
            # Symbols are latents in steps that no rounding changes.
            step = patch.latent_step if values.dtype.kind == "f" else 1.0
            latents = values.astype(np.float32, copy=False)
            payload = self.coder.encode_quickly(latents, *shape, step)
        else:
            symbols = values.astype(np.int32, copy=False)
            left = None if errors is None else errors.astype(np.int32, copy=False)
            payload = self.coder.encode(symbols, *shape, left)
        return PatchFrame(
            model=self.bundle.model,
            tile_id=patch.tile_id,
            patch_row=patch.patch_row,
            patch_col=patch.patch_col,
            step_offset=0,
            mask=b"" if patch.valid is None else masks.pack(patch.valid),
            payload=payload,
            quick=patch.quick,
        ).pack()


def _usable(step: float) -> float:
    """What travels is the step as float32; both ends must start from the same number."""
    travels = float(np.float32(step))
    if not 0 < travels < 1e9:
        raise TileError(f"step must be positive and below 1e9, got {step}")
    return travels


def make_backend(
    bundle: Bundle, name: BackendName, threads: int, streams: int = 1
) -> AnalysisBackend:
    """Choose what runs the network, see `Encoder`.

    Raises:
        BackendError: If it is not there, or there is none of that name.
    """
    if name not in (names := get_args(BackendName)):
        raise BackendError(f"{name}: no such backend; remedy: one of {', '.join(names)}")
    from codec.backends.torch_backend import TorchBackend  # noqa: PLC0415

    has_cuda = torch.cuda.is_available()
    if name == "torch-cuda" and not has_cuda:
        raise BackendError("torch-cuda: there is no CUDA device; remedy: auto or torch-cpu")
    if has_cuda and name in ("auto", "torch", "torch-cuda"):
        from codec.backends.cuda_runtime import CudaRuntime  # noqa: PLC0415
        from codec.backends.device_backend import DeviceBackend  # noqa: PLC0415

        return DeviceBackend(bundle, CudaRuntime())
    if name == "openvino" or (name == "auto" and "analysis_ranges" in bundle.tensors):
        # Loading OpenVINO takes a second and 100 MB; who does not use it does not pay.
        from codec.backends.openvino_backend import OpenvinoBackend  # noqa: PLC0415

        return OpenvinoBackend(bundle, threads, streams)
    return TorchBackend(bundle)
