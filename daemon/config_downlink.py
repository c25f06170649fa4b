"""Sections of flight.yaml about what waits for the link, and when it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, Field, PositiveFloat, PositiveInt, model_validator

from daemon.config_sections import Address, Bind, Directory, Section
from daemon.link.fec import MAX_MINIMUM, MAX_RATIO, RepairPolicy
from daemon.link.lanes import Level
from daemon.link.packet import MAX_APID, MAX_PACKET_BYTES, Channel
from daemon.link.passes import ContactPlan, Pass, TokenBucket

MIN_MTU_BYTES: Final = 256
"""Below this, headers are most of a packet."""

Ratio = Annotated[float, Field(ge=0, le=MAX_RATIO)]
Apid = Annotated[int, Field(ge=0, le=MAX_APID)]
Count = Annotated[int, Field(ge=0, le=MAX_MINIMUM)]


class SpoolSettings(Section):
    """What waits for the link.

    Attributes:
        kind: "memory" forgets with the process; "disk" does not, and sends only what is durable.
        max_mib: Most that may wait [MiB]; past it the oldest of the least urgent goes first. Beside
            what waits on a disk each packet takes 66 to 123 bytes of memory.
        directory: Of a disk's files; made where it is not there.
        segment_mib: Size of a file [MiB].
        sync_packets: So many packets are brought to the disk together.
        sync_ms: None waits longer for others to be brought there with [ms].
        max_memory_mib: Most that may wait in memory while the disk fails [MiB].
        retry_s: Time between two tries of a disk that failed [s].
    """

    kind: Literal["memory", "disk"] = "memory"
    max_mib: PositiveInt = 256
    directory: Directory | None = None
    segment_mib: PositiveInt = 16
    sync_packets: PositiveInt = 64
    sync_ms: PositiveFloat = 50.0
    max_memory_mib: PositiveInt = 256
    retry_s: PositiveFloat = 10.0

    @model_validator(mode="after")
    def _disk_has_a_place(self) -> Self:
        if self.kind == "disk" and self.directory is None:
            raise ValueError("directory is needed where kind is disk")
        return self


class RepairSettings(Section):
    """Repair packets: any as many packets as a frame has source packets restore it.

    Where the ground reports how much is lost, those of patches are the most: as that asks for.

    Attributes:
        side_ratio: Repair packets per source packet, side information.
        patch_ratio: Repair packets per source packet, patches.
        min_side: Repair packets added to every frame of side information.
        min_patch: Repair packets added to every patch.
    """

    side_ratio: Ratio = 0.5
    patch_ratio: Ratio = 0.1
    min_side: Count = 1
    min_patch: Count = 1

    @property
    def policies(self) -> dict[Channel, RepairPolicy]:
        """By channel."""
        return {
            Channel.SIDE: RepairPolicy(ratio=self.side_ratio, minimum=self.min_side),
            Channel.PATCH: RepairPolicy(ratio=self.patch_ratio, minimum=self.min_patch),
        }


def _bits(kbit_per_s: float | None) -> float | None:
    return None if kbit_per_s is None else 1000 * kbit_per_s


class PassSettings(Section):
    """A time in which the ground hears the board.

    Attributes:
        opens: Acquisition of signal, with its offset from UTC, as in 2026-11-26T10:15:00Z.
        closes: Loss of signal.
        kbit_per_s: Most in any second [kbit]; null: as the link's.
    """

    opens: AwareDatetime
    closes: AwareDatetime
    kbit_per_s: PositiveFloat | None = None


def plan_of(passes: Sequence[PassSettings], kbit_per_s: float | None) -> ContactPlan:
    """When the link is open, and how much it then takes.

    Args:
        passes: As settings have them; always, if there are none.
        kbit_per_s: Most in any second [kbit] of those that say nothing; None: as the link takes it.

    Raises:
        ValueError: If one ends before it begins, or two overlap.
    """
    return ContactPlan(
        [
            Pass(
                opens_utc_s=one.opens.timestamp(),
                closes_utc_s=one.closes.timestamp(),
                bits_per_s=_bits(one.kbit_per_s or kbit_per_s),
            )
            for one in passes
        ],
        _bits(kbit_per_s),
    )


class FlightUplinkSettings(Section):
    """Where reports and commands come from. With it, what was sent is kept until acknowledged.

    Attributes:
        address: ZeroMQ address of the uplink.
        bind: Whether the daemon owns the address; otherwise it connects.
        beacon_s: Time between two beacons while the link is open [s].
        housekeeping_apid: Application process identifier of beacons and notes of quality; not
            that of other packets.
    """

    address: Address = "tcp://127.0.0.1:47102"
    bind: Bind = True
    beacon_s: PositiveFloat = 1.0
    housekeeping_apid: Apid = 101


class ScenesSettings(Section):
    """Scenes that are more or less urgent than others, by patterns as of file names.

    Attributes:
        high: Leave first.
        low: Leave last, and give way first.
        high_apid: Application process identifier of packets of the first, which have own counts.
        low_apid: Of the others, likewise.
    """

    high: tuple[str, ...] = ()
    low: tuple[str, ...] = ()
    high_apid: Apid = 102
    low_apid: Apid = 103

    def level_of(self, scene: str) -> Level:
        """How urgent a scene is."""
        for level, patterns in ((Level.HIGH, self.high), (Level.LOW, self.low)):
            if any(fnmatchcase(scene, pattern) for pattern in patterns):
                return level
        return Level.NORMAL


class FlightLinkSettings(Section):
    """Where packets go, and when.

    Attributes:
        address: ZeroMQ address of the link.
        bind: Whether the daemon owns the address; otherwise it connects.
        apid: Application process identifier of our packets (CCSDS 133.0-B-2).
        mtu_bytes: The longest packet, headers and checksum included [bytes].
        kbit_per_s: Most in any second [kbit]; null: as fast as the link takes it.
        passes: When the link is open; always, if there are none.
        uplink: Where the ground answers; null: it does not.
        scenes: Which are urgent.
        repair: Repair packets.
    """

    address: Address = "tcp://127.0.0.1:47101"
    bind: Bind = False
    apid: Apid = 100
    mtu_bytes: Annotated[int, Field(ge=MIN_MTU_BYTES, le=MAX_PACKET_BYTES)] = 1024
    kbit_per_s: PositiveFloat | None = None
    passes: tuple[PassSettings, ...] = ()
    uplink: FlightUplinkSettings | None = None
    scenes: ScenesSettings = ScenesSettings()
    repair: RepairSettings = RepairSettings()

    @property
    def apids(self) -> dict[Level, int]:
        """Application process identifier of the packets of each level."""
        scenes = self.scenes
        return {
            Level.HIGH: scenes.high_apid,
            Level.NORMAL: self.apid,
            Level.LOW: scenes.low_apid,
        }

    @property
    def plan(self) -> ContactPlan:
        """When it is open, and how much it then takes."""
        return plan_of(self.passes, self.kbit_per_s)

    @model_validator(mode="after")
    def _plan_can_be_kept(self) -> Self:
        self.plan  # noqa: B018  # says what is wrong with it
        apids = [*self.apids.values()]
        if self.uplink is not None:
            apids.append(self.uplink.housekeeping_apid)
        if len(set(apids)) < len(apids):
            raise ValueError("each apid must be another: packets of each have their own count")
        for limit in (self.kbit_per_s, *(one.kbit_per_s for one in self.passes)):
            if limit is not None:
                TokenBucket(1000 * limit, 8 * self.mtu_bytes)
        return self
