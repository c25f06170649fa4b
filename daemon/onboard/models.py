"""The model on board: loaded, checked, and warmed up before the first tile."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import numpy as np

from codec.bundle import load_bundle
from codec.encoder import Encoder, Timer
from codec.errors import BackendError, BundleError, TileError
from codec.known_answer import check_encoder
from codec.patch_grid import PATCH_PX
from codec.targets import Target
from codec.tile import Tile, TileInfo
from daemon.config import FlightModelSettings
from daemon.cores import WORKERS_PER_THREAD, claim
from daemon.errors import ConfigError
from daemon.onboard.steps import StepControl

_WARM_UP_BANDS: Final = 64
"""Bands of the tile that warms up a model which takes any number."""


def control_steps(settings: FlightModelSettings, encoder: Encoder) -> StepControl:
    """Make what gives each tile its step.

    Raises:
        ConfigError: If the model can meet no target: a restart would not help.
    """
    target = None
    if settings.rate_bpppc is not None:
        target = Target(kind="rate", value=settings.rate_bpppc)
    elif settings.psnr_db is not None:
        target = Target(kind="psnr", value=settings.psnr_db)
    try:
        return StepControl(encoder, target)
    except BundleError as error:
        remedy = "set model.step instead of a target"
        raise ConfigError(settings.bundle, (f"{error}; {remedy}",)) from None


def load_encoder(settings: FlightModelSettings, timer: Timer) -> Encoder:
    """Load the bundle, let it answer, and encode a made-up patch: the first real one finds it warm.

    Raises:
        ConfigError: If bundle or step cannot be used: a restart would not help.
    """
    threads = claim(settings.threads)
    warm = False

    def time_when_warm(stage: str) -> AbstractContextManager[None]:
        """What is measured is work for the instrument."""
        return timer(stage) if warm else nullcontext()

    try:
        bundle = load_bundle(settings.bundle)
        encoder = Encoder(
            bundle,
            step=settings.step,
            backend=settings.backend,
            threads=threads,
            coders=WORKERS_PER_THREAD * threads,
            timer=time_when_warm,
        )
        check_encoder(encoder)
    except (BackendError, BundleError, TileError) as error:
        reason = str(error).removeprefix(f"{settings.bundle}: ")
        remedy = "change model.bundle, backend or step"
        raise ConfigError(settings.bundle, (f"{reason}; {remedy}",)) from None
    conditioner = bundle.conditioner
    bands = conditioner.components if conditioner.kind == "minmax" else _WARM_UP_BANDS
    ramp = np.arange(bands * PATCH_PX * PATCH_PX, dtype=np.float32) % 997
    samples = ramp.reshape(bands, PATCH_PX, PATCH_PX).astype(np.int16)
    encoder.encode(Tile(samples=samples, info=TileInfo()))
    warm = True
    return encoder
