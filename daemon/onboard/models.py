"""Models on board: made of a bundle, checked, and warmed up before their first tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from codec.bundle import Bundle, load_bundle
from codec.encoder import Encoder, Timer, make_backend
from codec.errors import (
    BackendError,
    BundleAnswerError,
    BundleDigestError,
    BundleError,
    CodecError,
    TileError,
)
from codec.known_answer import check_encoder, known_tile
from codec.patch_grid import PATCH_PX
from codec.speeds import FASTEST
from codec.targets import Target
from codec.tile import Tile, TileInfo
from daemon.config_models import FlightModelSettings
from daemon.cores import WORKERS_PER_THREAD, claim
from daemon.errors import ConfigError
from daemon.model_store import refused_by_runtime
from daemon.onboard.fallback import Fallback
from daemon.onboard.steps import StepControl

_WARM_UP_BANDS: Final = 64
"""Bands of the tile that warms up a model which takes any number."""

_ASIDE: ContextVar[bool] = ContextVar("aside", default=False)

OnFailure = Callable[[str, str, str], object]
"""Told the names of a model, of the backend that failed, and of the one that took over."""


class Model:
    """A model that can be put to work.

    Args:
        encoder: Encodes.
        steps: Gives each tile its step.
        origin: The file it was read from.
    """

    def __init__(self, encoder: Encoder, steps: StepControl, origin: Path) -> None:
        self.encoder, self.steps, self.origin = encoder, steps, origin
        self._proof: _Proof | None = None

    @property
    def name(self) -> str:
        """As frames carry it, in hexadecimal digits."""
        return self.encoder.bundle.name

    def test(self) -> None:
        """See that it is as it was, to the last bit; the first time, note how it is.

        Raises:
            BackendError: If nothing runs it any more.
            BundleDigestError: If a weight or a table in memory is another one.
            BundleAnswerError: If it makes something else of the known tile, or nothing.
        """
        with aside(), refused_by_runtime():
            proof = self._proof
            if proof is None:
                self._proof = _proof_of(self.encoder)
            elif proof.backend != self.encoder.backend.name:  # another has taken over
                check_encoder(self.encoder)
                self._proof = _proof_of(self.encoder)
            elif self.encoder.fingerprint() != proof.memory:
                if self.encoder.backend.name == proof.backend:  # else it is another's memory
                    raise BundleDigestError("a weight or a table has changed in memory")
            else:
                answer = _answer(self.encoder)
                if answer != proof.answer and self.encoder.backend.name == proof.backend:
                    raise BundleAnswerError(
                        f"{proof.backend} makes something else of the known tile"
                    )


@dataclass(frozen=True, slots=True)
class _Proof:
    """How a model is: what is in memory, what it makes of the known tile, and what runs it."""

    memory: bytes
    answer: bytes
    backend: str


def _proof_of(encoder: Encoder) -> _Proof:
    answer, memory = _answer(encoder), encoder.fingerprint()
    return _Proof(memory, answer, encoder.backend.name)


def _answer(encoder: Encoder) -> bytes:
    tile, answer = known_tile(encoder.bundle), sha256()
    try:
        for speed in (0, FASTEST):  # of either coder
            for frame in encoder.encode(tile, encoder.bundle.default_step, speed):
                answer.update(frame)
    except CodecError as error:
        raise BundleAnswerError(f"the known tile is not encoded: {error}") from None
    return answer.digest()


@contextmanager
def aside() -> Iterator[None]:
    """What this thread encodes in here is not timed: it is no work for the instrument."""
    token = _ASIDE.set(True)
    try:
        yield
    finally:
        _ASIDE.reset(token)


def make_encoder(bundle: Bundle, settings: FlightModelSettings, timer: Timer) -> Encoder:
    """Let a model answer, and encode a made-up patch: the first real one finds it warm.

    Raises:
        BackendError: If what should run it is not there, or cannot.
        BundleError: If it does not answer as it should.
        TileError: If the step is out of range.
    """
    threads = claim(settings.threads)

    def time(stage: str) -> AbstractContextManager[None]:
        return nullcontext() if _ASIDE.get() else timer(stage)

    with aside(), refused_by_runtime():
        encoder = Encoder(
            bundle,
            step=settings.step,
            backend=settings.backend,
            threads=threads,
            coders=WORKERS_PER_THREAD * threads,
            timer=time,
        )
        check_encoder(encoder)
        conditioner = bundle.conditioner
        bands = conditioner.components if conditioner.kind == "minmax" else _WARM_UP_BANDS
        ramp = np.arange(bands * PATCH_PX * PATCH_PX, dtype=np.float32) % 997
        samples = ramp.reshape(bands, PATCH_PX, PATCH_PX).astype(np.int16)
        encoder.encode(Tile(samples=samples, info=TileInfo()))
    return encoder


def load_encoder(settings: FlightModelSettings, timer: Timer) -> Encoder:
    """Load the settings' bundle; see `make_encoder`.

    Raises:
        ConfigError: If bundle or step cannot be used: a restart would not help.
    """
    try:
        return make_encoder(load_bundle(settings.bundle), settings, timer)
    except (BackendError, BundleError, TileError) as error:
        raise _config_error(settings, error, "change model.bundle, backend or step") from None


def control_steps(settings: FlightModelSettings, encoder: Encoder) -> StepControl:
    """Make what gives each tile its step.

    Raises:
        ConfigError: If the model can meet no target: a restart would not help.
    """
    try:
        return StepControl(encoder, _target(settings))
    except BundleError as error:
        raise _config_error(settings, error, "set model.step instead of a target") from None


def load_model(settings: FlightModelSettings, timer: Timer, on_failure: OnFailure) -> Model:
    """Load the settings' model, ready for work.

    Raises:
        ConfigError: As of `load_encoder` and `control_steps`.
    """
    encoder = load_encoder(settings, timer)
    return _ready(encoder, control_steps(settings, encoder), settings.bundle, on_failure)


def make_model(
    bundle: Bundle,
    settings: FlightModelSettings,
    timer: Timer,
    on_failure: OnFailure,
    *,
    origin: Path,
) -> Model:
    """Make a model of any bundle, ready for work.

    Raises:
        BackendError, BundleError, TileError: As of `make_encoder`; or if it can meet no target.
    """
    encoder = make_encoder(bundle, settings, timer)
    return _ready(encoder, StepControl(encoder, _target(settings)), origin, on_failure)


def _ready(encoder: Encoder, steps: StepControl, origin: Path, on_failure: OnFailure) -> Model:
    bundle = encoder.bundle
    encoder.backend = Fallback(
        encoder.backend,
        partial(make_backend, bundle, "torch-cpu", 0),
        partial(on_failure, bundle.name),
    )
    model = Model(encoder, steps, origin)
    model.test()
    return model


def _target(settings: FlightModelSettings) -> Target | None:
    if settings.rate_bpppc is not None:
        return Target(kind="rate", value=settings.rate_bpppc)
    if settings.psnr_db is not None:
        return Target(kind="psnr", value=settings.psnr_db)
    return None


def _config_error(settings: FlightModelSettings, error: Exception, remedy: str) -> ConfigError:
    reason = str(error).removeprefix(f"{settings.bundle}: ")
    return ConfigError(settings.bundle, (f"{reason}; {remedy}",))
