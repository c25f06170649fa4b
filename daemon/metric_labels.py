"""The closed sets that labels of metrics take their values from, and the series that begin at 0.

`increase()` does not see the first event of a series that was not there. What is not named here, an
error of `codec` in a stage for one, has a series from its first event on.
"""

from __future__ import annotations

from typing import Final

from daemon.errors import DaemonError, PacketError, TileMessageError
from daemon.link.commands import Kind
from daemon.mailbox import AGE, FULL_BYTES, FULL_ITEMS, OVERSIZE
from daemon.stage import INTERNAL_ERROR


def _reasons(tree: type[DaemonError]) -> tuple[str, ...]:
    return (tree.reason, *(error.reason for error in tree.__subclasses__()))


CHANNELS: Final = ("side", "patch")
PACKET_CHANNELS: Final = (*CHANNELS, "housekeeping")
PACKET_REASONS: Final = _reasons(PacketError)
INTERNAL: Final = (INTERNAL_ERROR,)
FLIGHT_STAGES: Final = ("patches", "batches", "encode", "packets", "spool")
GROUND_STAGES: Final = ("collect", "keep", "decode", "mosaic", "write")
"""Those behind a mailbox."""
DROP_REASONS: Final = (FULL_ITEMS, FULL_BYTES, AGE, OVERSIZE, *INTERNAL)
"""Why a mailbox or a stage drops an item while the process runs."""
BITSTREAM_REASONS: Final = (
    *("bitstream", "truncated", "checksum", "frame_version", "frame_field", "payload"),
    "wrong_model",
)
"""As `codec` refuses a frame."""
DECODE_REASONS: Final = (*BITSTREAM_REASONS, "no_side")
"""Why a patch frame is not decoded: as `codec` refuses it, or without its tile."""

MODEL_REASONS: Final = (
    *("model_file", "model_signature", "bundle", "bundle_truncated", "bundle_digest"),
    *("bundle_tensor", "bundle_version", "bundle_answer", "backend", "tile", "output"),
)
"""Why a model is refused: its file, its signature, what it holds, or what it does here."""

SCENE_REASONS: Final = ("scene_unlike", "scene_place", "scene_size", "scene_tile", "output")
"""Why tiles are not put together: what they are, where, how large, one of them, or the disk."""

Series = tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
"""Attributes of `daemon.metrics` and, of each label, its values: a series for each combination."""

PROCESS_SERIES: Final[Series] = (
    ("seal_degraded", (("seal", "open"),)),
    ("models_refused", (MODEL_REASONS,)),
)

FLIGHT_SERIES: Final[Series] = (
    (
        "stage_errors",
        (("ingest", "models", *FLIGHT_STAGES, "downlink", "commands", "quality"), INTERNAL),
    ),
    ("dropped_patches", (FLIGHT_STAGES, DROP_REASONS)),
    ("dropped_tiles", (FLIGHT_STAGES, DROP_REASONS)),
    ("quality_failures", ((*BITSTREAM_REASONS, *INTERNAL),)),
    ("tile_messages_refused", (_reasons(TileMessageError),)),
    ("frames", (CHANNELS,)),
    ("packets", (PACKET_CHANNELS,)),
    ("bytes_out", (PACKET_CHANNELS,)),
    ("commands", (tuple(kind.name.lower() for kind in Kind),)),
    ("commands_refused", (PACKET_REASONS,)),
    ("model_loads", (("load", "rollback", "mended"),)),
    ("model_tests", (("passed", "bundle_digest", "bundle_answer", "backend"),)),
    ("spool_dropped_packets", (("evicted", "unacknowledged", "damaged", "ended"),)),
)

GROUND_SERIES: Final[Series] = (
    ("stage_errors", (("receive", "models", *GROUND_STAGES, "scenes", "web"), INTERNAL)),
    ("dropped_packets", (("collect",), DROP_REASONS)),
    ("dropped_frames", (("keep", "decode", "mosaic"), DROP_REASONS)),
    ("dropped_patches", (("mosaic", "write"), DROP_REASONS)),
    ("dropped_patches", (("mosaic",), ("late", "repeated"))),
    ("dropped_tiles", (("write",), DROP_REASONS)),
    ("dropped_tiles", (("mosaic",), ("empty",))),
    ("packets_received", (PACKET_CHANNELS,)),
    ("packets_received_bytes", (PACKET_CHANNELS,)),
    ("packets_refused", (PACKET_REASONS,)),
    ("packets_missing", (("gap", "before_start"),)),
    ("reports", (("sent", "not_taken"),)),
    ("frames_complete", (CHANNELS,)),
    ("frames_incomplete", (CHANNELS,)),
    ("frames_read_back", (CHANNELS,)),
    ("archive_dropped_frames", (("written", "unwritten", "damaged"),)),
    ("patches_failed", ((*DROP_REASONS, *DECODE_REASONS),)),
    ("tiles_written", (("complete", "partial"),)),
    ("scenes_written", (("complete", "partial"),)),
    ("scene_errors", (SCENE_REASONS,)),
)
