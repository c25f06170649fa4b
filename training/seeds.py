"""One seed for everything random."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; each run with the same seed and threads repeats itself."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # fastai draws from the global generator
    torch.manual_seed(seed)
