"""Errors the daemon raises on purpose.

DaemonError
├── ConfigError              a settings file is wrong, or names something that is not there
├── LinkError                the link to the other process cannot be used
│   ├── AddressError             a socket cannot be bound or connected
│   ├── FrameSizeError           a frame is larger than segments and repair symbols can carry
│   ├── ReassemblyError          packets of one frame contradict each other
│   └── RepairError              repair symbols do not give the frame back
├── SpoolError               what waits for the downlink cannot be kept
│   ├── SpoolFullError
│   └── DamagedRecordError
├── ModelError               a model cannot be taken out of the store
│   ├── ModelFileError           its file, or its folder, is not what may be trusted
│   └── ModelSignatureError      nobody who is trusted has signed it
├── OutputError              a file cannot be written
├── SceneError               tiles cannot be put together
│   ├── SceneUnlikeError         they are not of one kind
│   ├── ScenePlaceError          they do not lie side by side
│   ├── SceneSizeError           it would be too large
│   ├── SceneTileError           one of them cannot be read
│   └── SceneChangedError        one of them was replaced meanwhile
├── FeedError                nothing of a feed was taken
├── DemoError                a process of the demo did not do its part
├── BenchError               what was to be measured cannot be, or did not arrive whole
├── ShutdownError            the process had to end before its work was done
├── PacketError              the bytes are not a packet of ours
│   ├── TruncatedPacketError
│   ├── PacketChecksumError
│   ├── PacketVersionError       a later build wrote it
│   ├── PacketFieldError         a field is out of range or contradicts another
│   ├── SealError                it is not sealed with a key of ours
│   └── ReplayError              its seal is sound and was opened before
└── TileMessageError         the message of the instrument is not a tile
    ├── MessageTruncatedError
    ├── MessageVersionError      a later build wrote it
    ├── MessageFieldError        a field is missing, of another type or out of range
    └── MessageSizeError         it is above a limit, or its samples do not fill its shape

Every class has a `reason`, the value it takes as a metrics label: a closed set. `exit_code` is
what a command ends with when the error reaches it; the codes are those of BSD's sysexits.h.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Final

EXIT_FAILURE: Final = 1
EXIT_DATA: Final = 65
"""EX_DATAERR: the input is wrong."""
EXIT_UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE: something the process needs cannot be had now; a restart may help."""
EXIT_OUTPUT: Final = 73
"""EX_CANTCREAT: an output cannot be written."""
EXIT_CONFIG: Final = 78
"""EX_CONFIG: a settings file is wrong; the systemd unit does not restart on it."""


class DaemonError(Exception):
    """Base of every error below; catch this at the edge of a process."""

    reason: ClassVar[str] = "daemon"
    exit_code: ClassVar[int] = EXIT_FAILURE


class ConfigError(DaemonError):
    """A settings file is wrong, or names something that is not there.

    Attributes:
        path: The settings file.
        problems: One line each: the key, the value, and what would be right.
    """

    reason = "config"
    exit_code = EXIT_CONFIG

    def __init__(self, path: Path | str, problems: tuple[str, ...]) -> None:
        super().__init__(path, problems)
        self.path, self.problems = Path(path), problems

    def __str__(self) -> str:
        return "\n".join(f"{self.path}: {problem}" for problem in self.problems)


class LinkError(DaemonError):
    """The link to the other process cannot be used."""

    reason = "link"
    exit_code = EXIT_UNAVAILABLE


class AddressError(LinkError):
    """A socket cannot be bound or connected.

    Attributes:
        address: The ZeroMQ address that was asked for.
        cause: What the system said.
    """

    reason = "link_address"

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(address, cause)
        self.address, self.cause = address, cause

    def __str__(self) -> str:
        return f"{self.address}: {self.cause}"


class FrameSizeError(LinkError):
    """A frame is larger than segments and repair symbols can carry.

    Attributes:
        frame_bytes: Length of the frame.
        limit_bytes: The most that can be carried.
    """

    reason = "frame_size"

    def __init__(self, frame_bytes: int, limit_bytes: int) -> None:
        super().__init__(frame_bytes, limit_bytes)
        self.frame_bytes, self.limit_bytes = frame_bytes, limit_bytes

    def __str__(self) -> str:
        return f"frame of {self.frame_bytes} bytes is not within 1 to {self.limit_bytes}"


class ReassemblyError(LinkError):
    """Packets of one frame contradict each other."""

    reason = "reassembly"


class RepairError(LinkError):
    """Repair symbols do not give the frame back."""

    reason = "repair"


class SpoolError(DaemonError):
    """What waits for the downlink cannot be kept."""

    reason = "spool"


class DamagedRecordError(SpoolError):
    """What a file of the spool holds is not what was written."""

    reason = "damaged"

    def __init__(self, path: Path, offset: int) -> None:
        super().__init__(path, offset)
        self.path, self.offset = path, offset

    def __str__(self) -> str:
        return f"{self.path}: the record at byte {self.offset} is damaged"


class SpoolFullError(SpoolError):
    """The packets of a frame are larger than the spool itself.

    Attributes:
        frame_bytes: All packets of the frame.
        limit_bytes: The most that may wait.
    """

    reason = "spool_full"

    def __init__(self, frame_bytes: int, limit_bytes: int) -> None:
        super().__init__(frame_bytes, limit_bytes)
        self.frame_bytes, self.limit_bytes = frame_bytes, limit_bytes

    def __str__(self) -> str:
        return f"packets of {self.frame_bytes} bytes; the spool holds {self.limit_bytes}"


class ModelError(DaemonError):
    """A model cannot be taken out of the store.

    Attributes:
        path: Its file, or where it should be.
        cause: What is wrong, and the remedy.
    """

    reason = "model"

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


class ModelFileError(ModelError):
    """The file, or its folder, is not what may be trusted, or is not there."""

    reason = "model_file"


class ModelSignatureError(ModelError):
    """Nobody who is trusted has signed the file."""

    reason = "model_signature"


class OutputError(DaemonError):
    """A file cannot be written.

    Attributes:
        path: The file that was to be written.
        cause: What the system said.
    """

    reason = "output"
    exit_code = EXIT_OUTPUT

    def __init__(self, path: Path | str, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = Path(path), cause

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}"


class SceneError(DaemonError):
    """Tiles of a scene cannot be put together as they are."""

    reason = "scene"
    exit_code = EXIT_DATA


class SceneUnlikeError(SceneError):
    """They are not of one kind."""

    reason = "scene_unlike"


class ScenePlaceError(SceneError):
    """They do not lie side by side."""

    reason = "scene_place"


class SceneSizeError(SceneError):
    """It would be larger than is allowed."""

    reason = "scene_size"


class SceneTileError(SceneError):
    """The product of one of them cannot be read."""

    reason = "scene_tile"


class SceneChangedError(SceneError):
    """The product of one of them was replaced, or taken away, while it was read."""

    reason = "scene_changed"


class ShutdownError(DaemonError):
    """The process had to end before its work was done; what it gave up is counted."""

    reason = "shutdown"


class FeedError(DaemonError):
    """Nothing of a feed was taken."""

    reason = "feed"


class DemoError(DaemonError):
    """A process of the demo did not do its part."""

    reason = "demo"


class BenchError(DaemonError):
    """What was to be measured cannot be, or did not arrive whole."""

    reason = "bench"


class PacketError(DaemonError):
    """The bytes are not a packet of ours."""

    reason = "packet"
    exit_code = EXIT_DATA


class TruncatedPacketError(PacketError):
    """Fewer bytes arrived than the packet's header promises.

    Attributes:
        needed_bytes: Length the header promises, or the least a packet has.
        got_bytes: Length that arrived.
    """

    reason = "packet_truncated"

    def __init__(self, needed_bytes: int, got_bytes: int) -> None:
        super().__init__(needed_bytes, got_bytes)
        self.needed_bytes, self.got_bytes = needed_bytes, got_bytes

    def __str__(self) -> str:
        return f"needed {self.needed_bytes} bytes, got {self.got_bytes}"


class PacketChecksumError(PacketError):
    """The packet does not match its CRC32C."""

    reason = "packet_checksum"


class PacketVersionError(PacketError):
    """A later build wrote the packet."""

    reason = "packet_version"


class PacketFieldError(PacketError):
    """A field of the packet is out of range or contradicts another."""

    reason = "packet_field"


class SealError(PacketError):
    """The packet is not sealed with a key of ours, or not as it was sealed."""

    reason = "seal"


class ReplayError(PacketError):
    """The seal is sound, and was opened before or is too old to tell.

    Attributes:
        spi: The key's index.
        counter: The counter of its IV.
    """

    reason = "replay"

    def __init__(self, spi: int, counter: int) -> None:
        super().__init__(spi, counter)
        self.spi, self.counter = spi, counter

    def __str__(self) -> str:
        return f"counter {self.counter} of SPI {self.spi} has come before, or is too old to tell"


class TileMessageError(DaemonError):
    """The message of the instrument is not a tile."""

    reason = "message"
    exit_code = EXIT_DATA


class MessageTruncatedError(TileMessageError):
    """The message has fewer parts or bytes than its layout promises."""

    reason = "message_truncated"


class MessageVersionError(TileMessageError):
    """A later build wrote the message."""

    reason = "message_version"


class MessageFieldError(TileMessageError):
    """A field of the message's header is missing, of another type or out of range."""

    reason = "message_field"


class MessageSizeError(TileMessageError):
    """The message is above a limit, or its samples do not fill its shape."""

    reason = "message_size"


def reason_of(error: Exception) -> str:
    """The metrics label an error is counted under.

    Returns:
        The `reason` of a DaemonError; of any other class its name in snake case, without "Error".
    """
    if isinstance(error, DaemonError):
        return error.reason
    return re.sub(
        r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")
    ).lower()
