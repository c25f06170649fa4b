"""The section of ground.yaml about the page that shows what comes."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from daemon.config_downlink import PassSettings, plan_of
from daemon.config_sections import MIB, File, Port, Section, holds
from daemon.keys import web_token
from daemon.link.passes import ContactPlan

LOOPBACK_NAME: Final = "localhost"
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:]{2,39}\]")


def _address(value: str) -> str:
    if value != LOOPBACK_NAME:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("should be an IP address, like 127.0.0.1, or localhost") from None
    return value


def _host(value: str) -> str:
    if _HOST.fullmatch(value) is None:
        raise ValueError("should be a host's name in small letters without a port, or [IPv6]")
    return value


HostName = Annotated[str, AfterValidator(_host)]
TokenFile = Annotated[File, holds(web_token)]


class WebSettings(Section):
    """The page that shows what comes, for people.

    Attributes:
        address: Where it listens: an IP address, or localhost. Beyond loopback a token is needed.
        port: 0: any that is free, named in the log; null: there is no page.
        token_file: File of the token that visitors need; null: whoever reaches it sees it.
        hosts: Names by which browsers may ask for it, beside those of loopback: of a proxy's host,
            for one. Of an address beyond loopback any will do, if none is given.
        max_tiles: Most tiles it tells of; of more, those changed least lately go.
        max_mib: Most memory that samples take which it keeps, and tiles read back [MiB].
        max_passes: Most passes it remembers, in a file in output.directory.
        kbit_per_s: What the link carries, to be shown beside what comes [kbit]; null: unknown.
        passes: The contact plan, as in flight.yaml, to be shown; none: unknown.
    """

    address: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    port: Port | None = 47180
    token_file: TokenFile | None = None
    hosts: tuple[HostName, ...] = ()
    max_tiles: Annotated[int, Field(gt=0, le=5000)] = 200
    max_mib: PositiveInt = 256
    max_passes: Annotated[int, Field(gt=0, le=10_000)] = 200
    kbit_per_s: PositiveFloat | None = None
    passes: tuple[PassSettings, ...] = ()

    @property
    def max_bytes(self) -> int:
        """`max_mib` in bytes."""
        return self.max_mib * MIB

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.address == LOOPBACK_NAME or ipaddress.ip_address(self.address).is_loopback

    @property
    def token(self) -> bytes | None:
        """What visitors must show; None: nothing."""
        return None if self.token_file is None else web_token(self.token_file)

    @property
    def plan(self) -> ContactPlan | None:
        """When the board is heard; None: not known."""
        return plan_of(self.passes, self.kbit_per_s) if self.passes else None

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if self.port is not None and not self.is_local and self.token_file is None:
            raise ValueError(
                f"address {self.address} is open to other machines: set token_file, too, or let it "
                "listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _plan_can_be(self) -> Self:
        self.plan  # noqa: B018  # says what is wrong with it
        return self
