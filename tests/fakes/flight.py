"""Things that pass between the flight stages, without the stages before."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from codec.encoder import Encoder
from daemon.link.lanes import Lane
from daemon.onboard.items import EncodedFrame, OpenedPatch
from daemon.onboard.models import Model
from daemon.onboard.pace import Pace
from daemon.onboard.steps import StepControl
from fakes.bundles import klt_bundle
from fakes.cubes import tile


@cache
def encoder() -> Encoder:
    """The untrained linear codec, on PyTorch wherever the tests run."""
    return Encoder(klt_bundle(), backend="torch-cpu")


@cache
def model() -> Model:
    """The same as a model at work."""
    return Model(encoder(), StepControl(encoder()), Path("linear.safetensors"))


def calm() -> Pace:
    """Nothing waits, and nothing is hurried."""
    return Pace(0, 0, lambda: 0.0, lambda _: None)


def side(raw: bytes = b"side", received_s: float = 0.0) -> EncodedFrame:
    """A frame of side information."""
    return EncodedFrame(raw=raw, lane=Lane.SIDE, received_s=received_s)


def opened(rows: int = 9, cols: int = 8, received_s: float = 0.0) -> tuple[OpenedPatch, ...]:
    """The patches of an opened tile."""
    job = encoder().open(tile(bands=4, rows=rows, cols=cols))
    return tuple(
        OpenedPatch(job=patch, model=model(), received_s=received_s) for patch in job.patches
    )
