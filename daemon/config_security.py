"""The section `security:` of both settings files: who may talk to whom, and how it is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Protocol, Self

from pydantic import model_validator

from daemon.addresses import is_local
from daemon.config_sections import File, NewFile, Section, holds
from daemon.keys import CurveKeys, curve_public, curve_secret, seal_key
from daemon.link.seal import OVERHEAD_BYTES

CurveSecret = Annotated[File, holds(curve_secret)]
SealKey = Annotated[File, holds(seal_key)]
PublicKeys = tuple[Annotated[File, holds(curve_public)], ...]


_SECTIONS: Final = {"uplink": "link.uplink"}
"""Where a socket is set, if not in a section of its name."""


class Socket(Protocol):
    """The section of a socket, named as its peers are in `curve_peers`."""

    @property
    def address(self) -> str:
        """Where it is."""
        ...

    @property
    def bind(self) -> bool:
        """Whether this side binds."""
        ...


class FlightPeers(Section):
    """Files of public keys, for each socket.

    Attributes:
        instrument: Of instruments.
        link: Of the ground.
        uplink: Of the ground, too, and of whoever else may command.
    """

    instrument: PublicKeys = ()
    link: PublicKeys = ()
    uplink: PublicKeys = ()


class GroundPeers(Section):
    """Files of public keys, for each socket.

    Attributes:
        link: Of the board.
        uplink: Of the board, too.
    """

    link: PublicKeys = ()
    uplink: PublicKeys = ()


class SecuritySettings(Section):
    """Keys, and whether it may go without.

    Attributes:
        curve_secret_key: File of this side's secret key for ZeroMQ (CURVE).
        curve_peers: Who is admitted where this side binds; who is there, where it connects.
        seal_key: File of the key that packets are sealed with; null: they are not.
        seal_state: File of the counters of what was sealed; those of what was opened are beside it,
            in one that ends in `.heard`, those of `prismlink command` in `.operator`.
        insecure: Whether sockets may be open to other machines without keys.
    """

    curve_secret_key: CurveSecret | None = None
    curve_peers: FlightPeers | GroundPeers = FlightPeers()
    seal_key: SealKey | None = None
    seal_state: NewFile | None = None
    insecure: bool = False

    @model_validator(mode="after")
    def _seal_has_its_counters(self) -> Self:
        if self.seal_key is not None and self.seal_state is None:
            raise ValueError("seal_state is needed where seal_key is given")
        return self

    @property
    def seal(self) -> tuple[bytes, Path] | None:
        """The seal's key and the file of its counters; None: packets are not sealed."""
        if self.seal_key is None or self.seal_state is None:
            return None
        return seal_key(self.seal_key), self.seal_state

    @property
    def seal_bytes(self) -> int:
        """By how much the seal makes a packet longer."""
        return OVERHEAD_BYTES if self.seal_key is not None else 0

    def curve(self, socket: str) -> CurveKeys | None:
        """The keys of a socket; None: it has no peers listed."""
        if self.curve_secret_key is None or not (peers := self._peers(socket)):
            return None
        return CurveKeys(
            secret=curve_secret(self.curve_secret_key), peers=tuple(map(curve_public, peers))
        )

    def exposed(self, sockets: Mapping[str, Socket]) -> tuple[str, ...]:
        """The addresses that others than this machine can reach, or be at, without keys."""
        return tuple(f"{_SECTIONS.get(name, name)}.address" for name in self._open_to_all(sockets))

    def check(self, sockets: Mapping[str, Socket]) -> None:
        """Hold the sockets against the keys.

        Raises:
            ValueError: With the key and the remedy.
        """
        for name, socket in sockets.items():
            peers = self._peers(name)
            if peers and self.curve_secret_key is None:
                raise ValueError(
                    f"security.curve_peers.{name} is of no use without security.curve_secret_key"
                )
            if len(peers) > 1 and not socket.bind:
                raise ValueError(
                    f"security.curve_peers.{name} should name one file: {name} connects, "
                    "and one peer is there"
                )
        if (names := self._open_to_all(sockets)) and not self.insecure:
            name, where = names[0], sockets[names[0]].address
            raise ValueError(
                f"{self.exposed(sockets)[0]}: {where} is open to other machines without keys; set "
                f"security.curve_secret_key and security.curve_peers.{name} (`prismlink keys` "
                "makes keys), or security.insecure to true"
            )

    def _open_to_all(self, sockets: Mapping[str, Socket]) -> list[str]:
        return [
            name
            for name, socket in sockets.items()
            if not is_local(socket.address) and not self._peers(name)
        ]

    def _peers(self, socket: str) -> tuple[Path, ...]:
        peers: tuple[Path, ...] = getattr(self.curve_peers, socket)
        return peers


class FlightSecuritySettings(SecuritySettings):
    """Keys of the board, and whether it may go without."""

    curve_peers: FlightPeers = FlightPeers()


class GroundSecuritySettings(SecuritySettings):
    """Keys of the ground, and whether it may go without."""

    curve_peers: GroundPeers = GroundPeers()
