"""Tiles on a GPU: samples go up once, symbols come down; only the entropy coder stays on the host.

    tile ─ upload ─► samples ─ covariance, eigenvectors, coding rotation ─► KLT ─► host: side frame
                        └───── projection ─ shortcut, branch ─ rounding ─► symbols ─► host: coder

The branch runs in bfloat16, channels last, recorded as a graph for each shape and size of a batch;
all else in float32. A tile stays on the device for as long as one of its patches waits on the host.

What it computes is shown on the processor, in tests; that CUDA runs it is not shown yet.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.backends.device_rounding import (
    best_rounding,
    narrowed,
    round_off,
    rounding_errors,
    shares,
)
from codec.backends.device_tile import DeviceConditioning, DeviceSamples, DeviceTile
from codec.backends.staging import Recorded, Runtime, Staging
from codec.bundle import Bundle
from codec.conditioning import ConditionerSpec
from codec.errors import BackendError
from codec.jobs import PatchJob, Rounded
from codec.klt import Effort, fit_source
from codec.klt_side import KltSide
from codec.network import SHORTCUTS, branch_input
from codec.shortcut import CHANNELS, mirrored
from codec.tile import Samples

_MOST_RECORDED: Final = 32
"""Of all shapes and sizes together; beyond it the oldest makes room."""


class DeviceBackend:
    """Conditions tiles, runs a bundle's analysis network and rounds, all on one device.

    Several threads may use it at a time: what they start is computed one after the other.

    Args:
        bundle: The model.
        runtime: The device.

    Attributes:
        runtime: Likewise.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self.name, self.precision = f"torch-{runtime.device.type}", "bfloat16"
        self.runtime, self._staging = runtime, Staging(runtime)
        self._spec, self._is_klt = bundle.network, bundle.conditioner.kind == "klt"
        with self._work():
            network = bundle.analysis()
            self._runs_branch = network.runs_branch
            branch = network.branch.to(runtime.device, torch.bfloat16)
            self._branch = branch.to(memory_format=torch.channels_last)
            self._shares = shares(bundle.scales).to(runtime.device)
        self._strips: dict[int, Tensor] = {}
        self._recorded: dict[torch.Size, Recorded] = {}
        self._replaying = threading.Lock()

    @property
    def device(self) -> DeviceBackend:
        """Itself."""
        return self

    @property
    def weights(self) -> list[NDArray[Any]]:
        """As the network has them, copied from the device; float32 holds bfloat16 exactly."""
        with self._work():
            return [t.float().cpu().numpy() for t in self._branch.state_dict().values()]

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
    ) -> KltSide:
        """See `codec.jobs.TileDevice`."""
        with self._work():
            raw = self._staging.upload(samples)
            on_device = DeviceSamples(
                raw,
                samples.dtype.kind == "u",
                torch.from_numpy(bands).to(raw.device),
                None if valid is None else self._staging.upload(valid),
                sample_unit,
            )
            side = fit_source(spec, DeviceTile(on_device), step, effort.turns)
            first = 0
            for strip in strips:
                self._keep(strip, raw[:, first : first + strip.shape[1]])
                first += strip.shape[1]
            return side

    def symbols(self, patches: Sequence[PatchJob]) -> list[Rounded]:
        """See `codec.jobs.TileDevice`."""
        with self._work():
            # What is uploaded is held here until the symbols have come.
            raws = [self._of(patch.strip) for patch in patches]
            masks = [None if p.valid is None else self._staging.upload(p.valid) for p in patches]
            distinct = {id(way): way for way in (patch.conditioning for patch in patches)}
            device = self.runtime.device
            ways = {key: DeviceConditioning(way, device) for key, way in distinct.items()}
            found: dict[int, Rounded] = {}
            shapes = [patch.extent.shape for patch in patches]
            for shape in dict.fromkeys(shapes):
                alike = [i for i, other in enumerate(shapes) if other == shape]
                components = [
                    _components(patches[i], ways[id(patches[i].conditioning)], raws[i], masks[i])
                    for i in alike
                ]
                latents = self._latents(components)
                group = self._rounded([patches[i] for i in alike], latents)
                found.update(zip(alike, group, strict=True))
            return [found[i] for i in range(len(patches))]

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run the network on components of shape (k, rows, cols) each, any mix of shapes."""
        with self._work():
            components = [self._staging.upload(patch) for patch in patches]
            return self._staging.download([self._latents([one])[0] for one in components])

    @contextmanager
    def _work(self) -> Iterator[None]:
        """Within, work is started on the device.

        Raises:
            BackendError: For whatever the device raises: out of memory, lost, or misused.
        """
        try:
            with torch.inference_mode(), self.runtime.computing():
                yield
        except RuntimeError as error:  # PyTorch's own all are
            reason = str(error).split("\n")[0]
            raise BackendError(f"{self.name}: {reason}; remedy: torch-cpu") from error

    def _keep(self, strip: Samples, raw: Tensor) -> None:
        """Keep a strip on the device for as long as it is there on the host."""
        key = id(strip)
        self._strips[key] = raw
        weakref.finalize(strip, self._strips.pop, key, None).atexit = False

    def _of(self, strip: Samples) -> Tensor:
        """A strip on the device: as it was when its tile was opened there, else from now on."""
        raw = self._strips.get(id(strip))
        if raw is None:
            raw = self._staging.upload(strip)
            self._keep(strip, raw)
        return raw

    def _latents(self, components: Sequence[Tensor]) -> list[Tensor]:
        """Latents of patches of one shape, (channels, ⌈rows/8⌉, ⌈cols/8⌉) each, float32."""
        spec, direct = self._spec, list[Tensor]()
        if spec.shortcut != "none":
            together = SHORTCUTS[spec.shortcut].forward(torch.cat([*components])[None])[0]
            direct = [*together.split_with_sizes([CHANNELS * len(patch) for patch in components])]
            if not self._runs_branch:
                return direct
        seen = [branch_input(patch[None], spec.components, spec.squash) for patch in components]
        branch = self._run_branch(mirrored(torch.cat(seen)))
        if spec.shortcut == "none":
            return [*branch]
        for latents, correction in zip(direct, branch, strict=True):
            shared = min(len(latents), len(correction))
            latents[:shared] += correction[:shared]
        return direct

    def _run_branch(self, seen: Tensor) -> Tensor:
        """Run the branch, as recorded for the next power of two patches; float32, new."""
        count = len(seen)
        shape = torch.Size((1 << (count - 1).bit_length(), *seen.shape[1:]))
        with self._replaying:
            recorded = self._recorded.get(shape)
            if recorded is None:
                if len(self._recorded) >= _MOST_RECORDED:
                    # Not all: the memory they share lives as long as one of them does.
                    del self._recorded[next(iter(self._recorded))]
                source = torch.zeros(shape, dtype=torch.bfloat16, device=seen.device)
                source = source.contiguous(memory_format=torch.channels_last)
                recorded = self.runtime.record(self._branch, source)
                self._recorded[shape] = recorded
            recorded.source[:count] = seen  # in the places behind them are others, or were
            recorded.replay()
            return recorded.result[:count].float()

    def _rounded(self, patches: Sequence[PatchJob], latents: Sequence[Tensor]) -> list[Rounded]:
        """Round latents of patches of one shape, and bring them to the host."""
        sizes = [len(one) for one in latents]
        together = torch.cat([*latents])
        steps = np.repeat([patch.latent_step for patch in patches], sizes)
        per_step = torch.from_numpy(np.float32(1 / steps)).to(together.device)[:, None, None]
        symbols = round_off(together, per_step)
        if not self._is_klt:
            (whole,) = self._staging.download([narrowed(symbols)])
            return [Rounded(part) for part in np.split(whole, np.cumsum(sizes)[:-1])]
        symbols = round_off(together, per_step, best_rounding(symbols, self._shares))
        down = [narrowed(symbols)]
        if not all(patch.quick for patch in patches):
            down.append(rounding_errors(together, symbols, per_step))
        parts = [np.split(whole, np.cumsum(sizes)[:-1]) for whole in self._staging.download(down)]
        return [
            Rounded(*(part[i] for part in parts[: 1 if patch.quick else 2]))
            for i, patch in enumerate(patches)
        ]


def _components(
    patch: PatchJob, way: DeviceConditioning, raw: Tensor, valid: Tensor | None
) -> Tensor:
    samples = DeviceSamples(
        raw[:, :, patch.extent.slices[1]],
        patch.strip.dtype.kind == "u",
        way.bands,
        valid,
        way.way.sample_unit,
    )
    return way.components(samples)
