"""The encoder network on PyTorch: CPU or CUDA.

On the CPU patches run one at a time: a 128×128 patch fills two cores, and a latent then never
depends on what else was in its batch, so stream and file give the same bytes. On CUDA patches of
one shape run as a batch in bfloat16, channels last; the shortcut stays in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bundle import Bundle
from codec.lifting import direct_latents


class TorchBackend:
    """Runs a bundle's analysis network.

    Args:
        bundle: The model.
        device: "cpu" or "cuda".
    """

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.name = f"torch-{device}"
        self.precision = "bfloat16" if device == "cuda" else "float32"
        self._device = torch.device(device)
        self._network = bundle.analysis().to(self._device).to(memory_format=torch.channels_last)

    @property
    def weights(self) -> list[NDArray[Any]]:
        """As the network has them, copied from a GPU."""
        return [tensor.cpu().numpy() for tensor in self._network.state_dict().values()]

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run the network on patches of shape (components, rows, cols) each, any mix of shapes.

        Returns:
            Latents of each patch, shape (channels, rows/8, cols/8), same order.
        """
        if self._device.type == "cpu" and not self._network.runs_branch:
            return [direct_latents(self._network.spec.shortcut, patch) for patch in patches]
        if self._device.type == "cpu":
            return [self._run(patch[None])[0] for patch in patches]
        latents: dict[int, NDArray[np.float32]] = {}
        shapes = [patch.shape for patch in patches]
        for shape in dict.fromkeys(shapes):
            chosen = [i for i, other in enumerate(shapes) if other == shape]
            batch = self._run(np.stack([patches[i] for i in chosen]))
            latents.update(zip(chosen, batch, strict=True))
        return [latents[i] for i in range(len(patches))]

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with (
            torch.inference_mode(),
            torch.autocast("cuda", torch.bfloat16, enabled=self._device.type == "cuda"),
        ):
            latents = self._network(torch.from_numpy(batch).to(self._device))
        result: NDArray[np.float32] = latents.float().cpu().numpy()
        return result
