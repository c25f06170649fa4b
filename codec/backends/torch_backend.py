"""The encoder network on PyTorch and the processor.

Patches run one at a time: a 128×128 patch fills two cores, and a latent then never depends on what
else was in its batch, so stream and file give the same bytes.
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
    """

    name, precision, device = "torch-cpu", "float32", None

    def __init__(self, bundle: Bundle) -> None:
        self._network = bundle.analysis().to(memory_format=torch.channels_last)

    @property
    def weights(self) -> list[NDArray[Any]]:
        """As the network has them."""
        return [tensor.numpy() for tensor in self._network.state_dict().values()]

    def analyze(self, patches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Run the network on patches of shape (components, rows, cols) each, any mix of shapes.

        Returns:
            Latents of each patch, shape (channels, rows/8, cols/8), same order.
        """
        if not self._network.runs_branch:
            return [direct_latents(self._network.spec.shortcut, patch) for patch in patches]
        with torch.inference_mode():
            return [self._network(torch.from_numpy(patch[None]))[0].numpy() for patch in patches]
