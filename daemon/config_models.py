"""The sections `model:` of both settings files: what encodes or decodes, and where more are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from codec.backend_names import BackendName
from codec.speeds import FASTEST
from daemon.config_sections import Directory, File, Section
from daemon.guarded import check_folder
from daemon.link.commands import MAX_OCTAVES
from daemon.signatures import trusted_key

Speed = Annotated[int, Field(ge=0, le=FASTEST)]


def _is_safe(path: Path) -> Path:
    """A folder that is not there yet is made by whoever uses it."""
    try:
        is_there = path.exists() or path.is_symlink()
    except OSError as error:  # as where a folder on the way may not be entered
        raise ValueError(f"cannot be looked for: {error.strerror}") from None
    if is_there:
        check_folder(path)
    return path


def _holds_a_key(path: Path) -> Path:
    trusted_key(path)
    return path


class StoreSettings(Section):
    """A folder of models.

    Attributes:
        directory: Where they are; null: there are none. Made where it is not there.
        trusted_keys: Files of public keys, Ed25519 in PEM: a model is taken if one of them signed
            it. The ground may go without, and then takes what is in the folder.
        watch: Whether a file that appears there is loaded at once; otherwise on SIGHUP, and on
            board by command.
    """

    directory: Annotated[Directory, AfterValidator(_is_safe)] | None = None
    trusted_keys: tuple[Annotated[File, AfterValidator(_holds_a_key)], ...] = ()
    watch: bool = True


class FlightModelSettings(Section):
    """The model that encodes.

    Attributes:
        bundle: The bundle file.
        backend: What runs the network, see `codec.backend_names`; "auto": the fastest at hand.
        threads: Cores one computation may use; null: half of them, for two go on at a time.
        speed: 0 for the fewest bytes, to 3 for the least time, see `codec.speeds`.
        overload_speed: How fast tiles are encoded, at most, while others wait.
        step: Quantizer step of every tile.
        rate_bpppc: Bits per valid sample that tiles take on average, every byte of every frame
            counted; packet headers and repair packets come on top.
        psnr_db: PSNR that every tile should come to [dB].
        coarser_octaves: How far above its own the step may go so that what waits fits the spool
            and the passes of `link.passes`; 0: not at all.
        quality_every: One patch of so many is decoded on board and compared, beside the line;
            0: none is.
        store: Where models come from in flight; each has to be signed.
        self_test_s: Time between two tests of the model at work [s]; null: it is not tested.

    At most one of step, rate_bpppc and psnr_db; without any the step is the bundle's own.
    """

    bundle: File
    backend: BackendName = "auto"
    threads: PositiveInt | None = None
    speed: Speed = 0
    overload_speed: Speed = FASTEST
    step: Annotated[float, Field(ge=1e-6, le=1e8)] | None = None
    rate_bpppc: Annotated[float, Field(ge=1e-4, le=32)] | None = None
    psnr_db: Annotated[float, Field(ge=1, le=150)] | None = None
    coarser_octaves: Annotated[float, Field(ge=0, le=8)] = 0.0
    quality_every: NonNegativeInt = 256
    store: StoreSettings = StoreSettings()
    self_test_s: PositiveFloat | None = 60.0

    @field_validator("store")
    @classmethod
    def _takes_signed_models_alone(cls, value: StoreSettings) -> StoreSettings:
        if value.directory is not None and not value.trusted_keys:
            raise ValueError("needs trusted_keys, of whoever signs models; see docs/operations.md")
        return value

    @field_validator("overload_speed")
    @classmethod
    def _is_no_slower(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("speed", 0):
            raise ValueError("is below speed; tiles that wait are not encoded slower")
        return value

    @property
    def most_ordered_octaves(self) -> float:
        """How much coarser a command can make tiles: not at all where a target sets their step."""
        return MAX_OCTAVES if self.rate_bpppc is None and self.psnr_db is None else 0.0

    @field_validator("rate_bpppc", "psnr_db")
    @classmethod
    def _stands_alone(cls, value: float | None, info: ValidationInfo) -> float | None:
        others = [key for key in ("step", "rate_bpppc") if info.data.get(key) is not None]
        if value is not None and others:
            raise ValueError(f"cannot be met beside {others[0]}; leave one of them null")
        return value

    @field_validator("coarser_octaves")
    @classmethod
    def _has_no_target(cls, value: float, info: ValidationInfo) -> float:
        targets = [key for key in ("rate_bpppc", "psnr_db") if info.data.get(key) is not None]
        if value and targets:
            raise ValueError(f"leaves {targets[0]} unmet; leave one of them out")
        return value


class GroundModelSettings(Section):
    """The models that decode.

    Attributes:
        bundles: Every bundle the board may use; each frame names its own.
        store: Where more come from, as soon as they are there; these are kept there, too.
        threads: Cores one computation may use; null: half of them.
    """

    bundles: Annotated[tuple[File, ...], Field(min_length=1)]
    store: StoreSettings = StoreSettings()
    threads: PositiveInt | None = None
