"""Sections and values that the settings of flight and ground have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
)

from daemon.addresses import problem
from daemon.log import BURST, PERIOD_S
from daemon.mailbox import Policy

MIB: Final = 1 << 20


def _address(value: str) -> str:
    if wrong := problem(value, bind=True):
        raise ValueError(wrong)
    return value


def _bind(value: bool, info: ValidationInfo) -> bool:
    """Check the address of the same section, which stands before, once more."""
    address = info.data.get("address")  # absent where it was refused itself
    if address is not None and (wrong := problem(address, bind=value)):
        raise ValueError(f"makes of {address} an address that {wrong}")
    return value


def _path(value: Path, info: ValidationInfo) -> Path:
    """Relative paths start at the settings file, so that a daemon may be started anywhere."""
    base = info.context["base"] if info.context else Path()
    return Path(base) / value.expanduser()


def _file(value: Path) -> Path:
    try:
        is_file = value.is_file()
    except OSError as error:  # as where a folder on the way may not be entered
        raise ValueError(f"cannot be looked for: {error.strerror}; looked for {value}") from None
    if not is_file:
        raise ValueError(f"names no file; looked for {value}")
    return value


def holds(read: Callable[[Path], bytes]) -> AfterValidator:
    """Have a file read, so that what is wrong with it is said with the key that names it."""

    def check(path: Path) -> Path:
        read(path)
        return path

    return AfterValidator(check)


Address = Annotated[str, AfterValidator(_address)]
Bind = Annotated[bool, AfterValidator(_bind), Field(validate_default=True)]
Directory = Annotated[Path, AfterValidator(_path)]
NewFile = Annotated[Path, AfterValidator(_path)]
File = Annotated[Path, AfterValidator(_path), AfterValidator(_file)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Section(BaseModel):
    """Frozen, and strict: no unknown key, no text for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MailboxSettings(Section):
    """Bounds of one mailbox, and what happens when it is full.

    Attributes:
        max_items: Most items that wait.
        max_mib: Most memory that waits [MiB].
        max_age_s: Age past which an item is dropped [s]; null: never.
        policy: block: the stage before waits; drop_newest, drop_oldest: counted, and gone.
    """

    max_items: PositiveInt = 64
    max_mib: PositiveInt = 64
    max_age_s: PositiveFloat | None = None
    policy: Policy = Policy.BLOCK

    @property
    def max_bytes(self) -> int:
        """`max_mib` in bytes."""
        return self.max_mib * MIB


class MetricsSettings(Section):
    """The HTTP endpoint: /metrics for Prometheus, /healthz and /readyz for who starts processes.

    Attributes:
        address: Where it listens.
        port: 0: any that is free, named in the log.
    """

    address: str = "127.0.0.1"
    port: Port = 47190


class LogSettings(Section):
    """Log lines on standard error.

    Attributes:
        level: The least that is written.
        as_json: One JSON object a line, not a text for people; `json` in the file.
        burst: Lines of one kind of warning written in a period; the others are counted, and
            summed up in one line.
        period_s: That period [s].
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    as_json: Annotated[bool, Field(alias="json")] = False
    burst: PositiveInt = BURST
    period_s: PositiveFloat = PERIOD_S
