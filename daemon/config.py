"""Settings files: YAML, read once, checked whole, handed out in sections.

Every default stands here and nowhere else; `deploy/flight.yaml` and `deploy/ground.yaml` show all
keys with their defaults. An unknown, repeated or mistyped key is an error, never a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from codec.patch_grid import PATCH_PX
from codec.tile import MAX_BANDS, MAX_EDGE_PX, SAMPLE_DTYPES
from daemon.config_archive import ArchiveSettings
from daemon.config_downlink import FlightLinkSettings, SpoolSettings
from daemon.config_models import FlightModelSettings, GroundModelSettings
from daemon.config_sections import (
    MIB,
    Address,
    Bind,
    Directory,
    LogSettings,
    MailboxSettings,
    MetricsSettings,
    Port,
    Section,
)
from daemon.config_security import FlightSecuritySettings, GroundSecuritySettings, Socket
from daemon.config_web import WebSettings
from daemon.link.commands import MAX_COMMAND_BYTES, MIN_COMMAND_BYTES
from daemon.link.packet import MAX_APID
from daemon.link.reports import ReportTimes
from daemon.mailbox import Policy
from daemon.settings_file import load

_PATH_KEYS: Final = (
    *("model.bundle", "model.bundles", "output.directory", "spool.directory", "archive.directory"),
    "web.token_file",
    *(f"security.{key}" for key in ("curve_secret_key", "seal_key", "seal_state")),
    *("model.store.directory", "model.store.trusted_keys"),
    *(f"security.curve_peers.{socket}" for socket in ("instrument", "link", "uplink")),
)


class TileLimits(Section):
    """Tiles above these are refused before anything is allocated.

    Attributes:
        max_bands: Most bands.
        max_rows: Most lines [px].
        max_cols: Most pixels across [px].
    """

    max_bands: Annotated[int, Field(gt=0, le=MAX_BANDS)] = 512
    max_rows: Annotated[int, Field(gt=0, le=MAX_EDGE_PX)] = 4096
    max_cols: Annotated[int, Field(gt=0, le=MAX_EDGE_PX)] = 4096


class InstrumentSettings(Section):
    """Where tiles come from.

    Attributes:
        address: ZeroMQ address of the instrument's socket.
        bind: Whether the daemon owns the address; otherwise it connects.
        pattern: "sub": the instrument publishes; "pull": it waits for us when we are slow.
        shared: Whether other processes take tiles of the same instruments; a gap in their sequence
            then is no loss, and only the ground can tell what is missing.
        topic: What to subscribe to, by its beginning; "" for everything.
        max_message_mib: Tiles above this are refused [MiB]; a message four times as long is not
            even received, nor counted, and the connection is closed.
        limits: Bounds on a tile.
    """

    address: Address = "tcp://127.0.0.1:47100"
    bind: Bind = True
    pattern: Literal["sub", "pull"] = "sub"
    shared: bool = False
    topic: str = ""
    max_message_mib: PositiveInt = 256
    limits: TileLimits = TileLimits()


_SAMPLE_BYTES: Final = max(np.dtype(name).itemsize for name in SAMPLE_DTYPES)
_LEAST_COLLECTED_MIB: Final = 10
"""Memory of the longest frame and its packets [MiB]."""


class BatchSettings(Section):
    """When a batch of patches is closed: by count, by age, or as large as its mailbox takes.

    Attributes:
        max_patches: Patches encoded together at most.
        max_age_ms: Time the first one waits for others at most [ms].
    """

    max_patches: Annotated[int, Field(gt=0, le=1024)] = 8
    max_age_ms: PositiveFloat = 50.0


class TilesMailbox(MailboxSettings):
    """Tiles off the instrument: it does not wait, so what does not fit is dropped here."""

    max_items: PositiveInt = 32
    max_mib: PositiveInt = 512
    policy: Policy = Policy.DROP_NEWEST


class PatchesMailbox(MailboxSettings):
    """Patches with all their samples."""

    max_mib: PositiveInt = 256


class BatchesMailbox(MailboxSettings):
    """Batches of patches, with all their samples."""

    max_items: PositiveInt = 2
    max_mib: PositiveInt = 256


class RestoredTilesMailbox(MailboxSettings):
    """Restored tiles, whole."""

    max_items: PositiveInt = 16
    max_mib: PositiveInt = 512


class PacketsMailbox(MailboxSettings):
    """Packets off the link, small and many."""

    max_items: PositiveInt = 65_536


class FlightMailboxes(Section):
    """The mailboxes between the flight stages, in the direction of the data.

    Attributes:
        tiles: Before tiles are cut.
        patches: Before patches are gathered.
        batches: Before batches are encoded.
        frames: Before frames are cut into packets.
        packets: Before packets are spooled; an item is all packets of a frame.
    """

    tiles: TilesMailbox = TilesMailbox()
    patches: PatchesMailbox = PatchesMailbox()
    batches: BatchesMailbox = BatchesMailbox()
    frames: MailboxSettings = MailboxSettings()
    packets: MailboxSettings = MailboxSettings()


class FlightSettings(Section):
    """All of flight.yaml.

    Attributes:
        shutdown_deadline_s: Time from SIGTERM to the end, at most [s].
    """

    instrument: InstrumentSettings = InstrumentSettings()
    model: FlightModelSettings
    batch: BatchSettings = BatchSettings()
    mailboxes: FlightMailboxes = FlightMailboxes()
    spool: SpoolSettings = SpoolSettings()
    link: FlightLinkSettings = FlightLinkSettings()
    security: FlightSecuritySettings = FlightSecuritySettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    shutdown_deadline_s: PositiveFloat = 20.0

    @model_validator(mode="after")
    def _tiles_fit(self) -> Self:
        if self.instrument.max_message_mib > self.mailboxes.tiles.max_mib:
            raise ValueError(
                "instrument.max_message_mib should not be above mailboxes.tiles.max_mib: "
                "such tiles would be received and never encoded"
            )
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        instrument, limits = self.instrument, self.instrument.limits
        largest = _SAMPLE_BYTES * limits.max_bands
        largest *= min(PATCH_PX, limits.max_rows) * min(PATCH_PX, limits.max_cols)
        least_mib = min(-(-largest // MIB), instrument.max_message_mib)
        for name in ("patches", "batches"):
            if getattr(self.mailboxes, name).max_mib < least_mib:
                raise ValueError(
                    f"mailboxes.{name}.max_mib should be at least {least_mib}, or "
                    "instrument.limits.max_bands lower: the largest patches would never be encoded"
                )
        return self

    @model_validator(mode="after")
    def _sockets_are_safe(self) -> Self:
        self.security.check(self._sockets)
        if self.instrument.shared and self.security.seal_key is not None:
            raise ValueError(
                "security.seal_key should be null where instrument.shared is true: "
                "two processes under one key would use its counters twice"
            )
        return self

    @property
    def exposed(self) -> tuple[str, ...]:
        """Addresses that are open to other machines without keys."""
        return self.security.exposed(self._sockets)

    @property
    def _sockets(self) -> dict[str, Socket]:
        up = self.link.uplink
        sockets: dict[str, Socket] = {"instrument": self.instrument, "link": self.link}
        return sockets if up is None else {**sockets, "uplink": up}


class GroundMetricsSettings(MetricsSettings):
    """The HTTP endpoint, as on board; its port is another, for both on one machine."""

    port: Port = 47191


class GroundUplinkSettings(Section):
    """How the ground reports what came, and asks for what did not.

    Attributes:
        address: ZeroMQ address of the board's uplink.
        bind: Whether the daemon owns the address; otherwise it connects.
        apid: The board's application process identifier.
        mtu_bytes: The longest message [bytes].
        report_s: Time between two reports while the board is heard [s].
        reorder_s: How much later than what was sent after it a packet may come [s].
        retry_s: Time in contact after which a report that the board is silent about is lost [s].
        contact_s: Longest silence within a contact [s].
    """

    address: Address = "tcp://127.0.0.1:47102"
    bind: Bind = False
    apid: Annotated[int, Field(ge=0, le=MAX_APID)] = 100
    mtu_bytes: Annotated[int, Field(ge=MIN_COMMAND_BYTES, le=MAX_COMMAND_BYTES)] = 1024
    report_s: PositiveFloat = 1.0
    reorder_s: PositiveFloat = 0.5
    retry_s: PositiveFloat = 5.0
    contact_s: PositiveFloat = 5.0

    @property
    def times(self) -> ReportTimes:
        """When the ground speaks."""
        return ReportTimes(
            report_s=self.report_s,
            reorder_s=self.reorder_s,
            retry_s=self.retry_s,
            contact_s=self.contact_s,
        )


class GroundLinkSettings(Section):
    """Where packets come from.

    Attributes:
        address: ZeroMQ address of the link.
        bind: Whether the daemon owns the address; otherwise it connects.
        uplink: Where reports go; null: the board gets none, and repeats nothing.
    """

    address: Address = "tcp://127.0.0.1:47101"
    bind: Bind = True
    uplink: GroundUplinkSettings | None = None


class CollectSettings(Section):
    """Frames that wait for their packets.

    Attributes:
        max_frames: Most frames that wait.
        max_mib: Most memory their packets take [MiB].
        max_age_s: Time without a packet of a frame until it is given up [s]. With an archive it
            begins anew with the process; with link.uplink there is no such time.
    """

    max_frames: PositiveInt = 4096
    max_mib: PositiveInt = 256
    max_age_s: PositiveFloat = 10.0


class OutputSettings(Section):
    """Where tiles and scenes go.

    Attributes:
        directory: Made where it is not there.
        format: What a tile is written as, and a scene.
        cog: Whether GeoTIFFs are cloud-optimized, with overviews: slower to write.
        scenes: Whether tiles of one scene are also put together.
        scene_deadline_s: Time without news of a scene until that is done [s].
        scene_max_mib: No scene whose samples take more [MiB].
    """

    directory: Directory
    format: Literal["geotiff", "envi", "zarr", "npy"] = "geotiff"
    cog: bool = False
    scenes: bool = True
    scene_deadline_s: PositiveFloat = 10.0
    scene_max_mib: PositiveInt = 8192

    @field_validator("cog")
    @classmethod
    def _is_of_a_geotiff(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("format") != "geotiff":
            raise ValueError("is of GeoTIFFs; set output.format to geotiff, or leave it out")
        return value

    @property
    def kind(self) -> str:
        """The format's name for `codec.tile_files.write_tile`."""
        return "cog" if self.cog else self.format


class GroundMailboxes(Section):
    """The mailboxes between the ground stages, in the direction of the data.

    Attributes:
        packets: Before frames are put together.
        collected: Before frames are archived.
        frames: Before frames are decoded.
        patches: Before tiles are put together.
        tiles: Before tiles are written.
    """

    packets: PacketsMailbox = PacketsMailbox()
    collected: MailboxSettings = MailboxSettings()
    frames: MailboxSettings = MailboxSettings()
    patches: PatchesMailbox = PatchesMailbox()
    tiles: RestoredTilesMailbox = RestoredTilesMailbox()


class GroundSettings(Section):
    """All of ground.yaml.

    Attributes:
        tile_deadline_s: Time without news of a tile until it is written with what is there, if
            any patch is, and until a patch whose side information has not come is given up [s].
        shutdown_deadline_s: Time from SIGTERM to the end, at most [s].
    """

    link: GroundLinkSettings = GroundLinkSettings()
    security: GroundSecuritySettings = GroundSecuritySettings()
    model: GroundModelSettings
    collect: CollectSettings = CollectSettings()
    archive: ArchiveSettings = ArchiveSettings()
    tile_deadline_s: PositiveFloat = 30.0
    output: OutputSettings
    mailboxes: GroundMailboxes = GroundMailboxes()
    web: WebSettings = WebSettings()
    metrics: GroundMetricsSettings = GroundMetricsSettings()
    log: LogSettings = LogSettings()
    shutdown_deadline_s: PositiveFloat = 20.0

    @model_validator(mode="after")
    def _frames_can_be_collected(self) -> Self:
        if self.link.uplink is not None and self.collect.max_mib < _LEAST_COLLECTED_MIB:
            raise ValueError(
                f"collect.max_mib should be at least {_LEAST_COLLECTED_MIB} where link.uplink is "
                "set: the longest frame would be asked for and never kept"
            )
        return self

    @model_validator(mode="after")
    def _frames_come_before_tiles_close(self) -> Self:
        if self.tile_deadline_s < self.collect.max_age_s:
            raise ValueError(
                "tile_deadline_s should not be below collect.max_age_s: "
                "frames would be waited for that no tile waits for"
            )
        return self

    @model_validator(mode="after")
    def _sockets_are_safe(self) -> Self:
        self.security.check(self._sockets)
        return self

    @property
    def exposed(self) -> tuple[str, ...]:
        """Addresses that are open to other machines without keys."""
        return self.security.exposed(self._sockets)

    @property
    def _sockets(self) -> dict[str, Socket]:
        up = self.link.uplink
        return {"link": self.link} if up is None else {"link": self.link, "uplink": up}


def load_flight(path: Path | str, overrides: Sequence[str] = ()) -> FlightSettings:
    """Read flight.yaml.

    Args:
        path: The file. Relative paths in it start at its folder.
        overrides: "link.address=tcp://127.0.0.1:5000" and the like; they win. Relative paths in
            them start at the working directory.

    Raises:
        ConfigError: With one line for each problem: file, key, value, remedy.
    """
    return load(path, FlightSettings, overrides, path_keys=_PATH_KEYS)


def load_ground(path: Path | str, overrides: Sequence[str] = ()) -> GroundSettings:
    """Read ground.yaml; see `load_flight`."""
    return load(path, GroundSettings, overrides, path_keys=_PATH_KEYS)
