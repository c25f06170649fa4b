"""The model on board: loaded, checked, and warmed up before the first tile."""

from __future__ import annotations

from typing import Final

import numpy as np

from codec.bundle import load_bundle
from codec.encoder import Encoder, Timer
from codec.errors import BundleError
from codec.patch_grid import PATCH_PX
from codec.tile import Tile, TileInfo
from daemon.config import FlightModelSettings
from daemon.errors import ConfigError

_WARM_UP_BANDS: Final = 64
"""Bands of the tile that warms up a model which takes any number."""


def load_encoder(settings: FlightModelSettings, timer: Timer) -> Encoder:
    """Load the bundle and encode one made-up patch, so that the first real one finds it warm.

    Raises:
        ConfigError: If the bundle cannot be used: a restart would not help.
    """
    try:
        bundle = load_bundle(settings.bundle)
        encoder = Encoder(
            bundle,
            step=settings.step,
            backend=settings.backend,
            threads=settings.threads or 0,
            timer=timer,
        )
    except BundleError as error:
        raise ConfigError(settings.bundle, (f"model.bundle: {error}",)) from None
    conditioner = bundle.conditioner
    bands = conditioner.components if conditioner.kind == "minmax" else _WARM_UP_BANDS
    ramp = np.arange(bands * PATCH_PX * PATCH_PX, dtype=np.float32) % 997
    samples = ramp.reshape(bands, PATCH_PX, PATCH_PX).astype(np.int16)
    # Through the codec, not through its timers: what is measured is work for the instrument.
    Encoder(bundle, backend=settings.backend, threads=settings.threads or 0).encode(
        Tile(samples=samples, info=TileInfo())
    )
    return encoder
