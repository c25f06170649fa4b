"""What the ground process tells Prometheus, beside what every process does.

Every patch frame is followed, and once a process has ended (before, what is
in its mailboxes and open tiles comes on the right side) these are exact, unless `stage_errors`
counts an internal error:
frames_complete{channel="patch"} + frames_read_back{channel="patch"}
= patches_decoded + patches_failed + patches_waiting + frames_set_aside{channel="patch"};
patches_decoded = patches_written + dropped_patches, over all stages.
"""

from __future__ import annotations

from daemon.metric_labels import GROUND_SERIES
from daemon.metrics import ProcessMetrics, Registry


class GroundMetrics(ProcessMetrics):
    """What the ground process tells. Each attribute is one metric."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.dropped_packets = self._dropped("packets")
        # Of side information: patch frames are counted in patches, as all that becomes of them.
        self.dropped_frames = self._dropped("frames")
        self.packets_received = self._counter(
            "packets_received_total", "Sound packets, repeated ones too, by channel.", "channel"
        )
        self.packets_received_bytes = self._counter(
            "packets_received_bytes_total", "Bytes of sound packets, by channel.", "channel"
        )
        self.packets_refused = self._counter(
            "packets_refused_total", "Bytes received that are no packet, by reason.", "reason"
        )
        self.packets_duplicate = self._counter(
            "packets_duplicate_total", "Packets received before."
        )
        self.packets_late = self._counter(
            "packets_late_total", "Packets overtaken by later ones, no longer missing."
        )
        self.reports = self._counter(
            "reports_total", "Reports to the board, by what became of them.", "state"
        )
        self.frames_asked = self._counter(
            "frames_asked_total", "Frames asked for again, in whole or in part, each time."
        )
        self.frames_mended = self._counter(
            "frames_mended_total", "Frames put together after they were asked for again."
        )
        self.frames_lost = self._counter(
            "frames_lost_total", "Frames that the board can never send again."
        )
        self.frames_lost_before = self._counter(
            "frames_lost_before_total",
            "Frames likewise, sent before this process began: an earlier one may have them.",
        )
        self.link_loss = self._gauge("link_loss_ratio", "Share of packets that do not come.")
        # A gauge: a packet that comes late is missing no more.
        self.packets_missing = self._gauge(
            "packets_missing", "Packets sent and not received, by where the gap is.", "reason"
        )
        self.frames_complete = self._counter(
            "frames_complete_total", "Frames put together, by channel.", "channel"
        )
        self.frames_incomplete = self._counter(
            "frames_incomplete_total", "Frames given up for want of packets.", "channel"
        )
        self.frames_repaired = self._counter(
            "frames_repaired_total", "Frames put together with the help of repair packets."
        )
        self.frames_evicted = self._counter(
            "frames_evicted_total", "Incomplete frames given up early, to make room."
        )
        self.frames_set_aside = self._counter(
            "frames_set_aside_total",
            "Frames put together and not decoded then: they, or their tile, were here before, or "
            "they wait for others of it, for its model, or for room.",
            *("channel", "reason"),
        )
        self.frames_deferred = self._gauge(
            "frames_deferred", "Frames in the archive that wait for room to be decoded."
        )
        self.frames_read_back = self._counter(
            "frames_read_back_total", "Frames read from the archive to be decoded.", "channel"
        )
        self.tiles_without_model = self._gauge(
            "tiles_without_model", "Tiles in the archive that wait for their model."
        )
        self.archive_frames = self._gauge("archive_frames", "Frames in the archive.")
        self.archive_bytes = self._gauge("archive_bytes", "Bytes of the archive's files.")
        self.archive_limit_bytes = self._gauge("archive_limit_bytes", "Bytes they take at most.")
        self.archive_dropped_frames = self._counter(
            "archive_dropped_frames_total",
            "Frames that left the archive, by whether their tile was written whole.",
            "reason",
        )
        self.archive_degraded = self._gauge(
            "archive_degraded", "1 while frames are not archived because the disk fails."
        )
        self.archive_recovered_frames = self._gauge(
            "archive_recovered_frames", "Frames found in the archive at the start."
        )
        self.archive_skipped_bytes = self._gauge(
            "archive_skipped_bytes", "Bytes found at the start that are no sound record."
        )
        self.archive_unreadable_files = self._gauge(
            "archive_unreadable_files", "Files of the archive that could not be read at the start."
        )
        self.half_received_frames = self._gauge(
            "half_received_frames", "Frames that are not whole, and have packets on the disk."
        )
        self.half_received_bytes = self._gauge(
            "half_received_bytes", "Bytes of the files with packets of such frames."
        )
        self.half_received_degraded = self._gauge(
            "half_received_degraded", "1 while such packets are not kept because the disk fails."
        )
        self.half_received_recovered_packets = self._gauge(
            "half_received_recovered_packets", "Packets of such frames found at the start."
        )
        self.half_received_skipped_bytes = self._gauge(
            "half_received_skipped_bytes", "Bytes found with them that are no sound packet."
        )
        self.half_received_unreadable_files = self._gauge(
            "half_received_unreadable_files", "Files of theirs not readable at the start."
        )
        self.patches_decoded = self._counter("patches_decoded_total", "Patches decoded.")
        self.patches_decoded_once = self._counter(
            "patches_decoded_once_total",
            "Patches decoded, without those decoded again for their tile to be completed.",
        )
        self.patches_failed = self._counter(
            "patches_failed_total", "Patch frames complete and not decoded.", "reason"
        )
        self.patches_waiting = self._gauge(
            "patches_waiting", "Patch frames that wait for their tile's side information."
        )
        # A gauge, as above: the instrument counts its tiles, so this sees what a dead board missed.
        self.tiles_missing = self._gauge(
            "tiles_missing", "Tiles the instrument counted and of which nothing came."
        )
        self.tiles_written = self._counter("tiles_written_total", "Tiles written.", "state")
        # After the tiles: who reads that one was written reads what of it was missing, too.
        self.patches_written = self._counter(
            "patches_written_total", "Patches that tiles were written with."
        )
        self.patches_missing = self._counter(
            "patches_missing_total", "Patches that tiles were written without."
        )
        self.tile_write_errors = self._counter(
            "tile_write_errors_total", "Tiles that could not be written."
        )
        self.scenes_written = self._counter(
            "scenes_written_total", "Scenes put together from tiles and written.", "state"
        )
        self.scene_errors = self._counter(
            "scene_errors_total", "Scenes that could not be put together, by reason.", "reason"
        )
        self.web_dropped = self._counter(
            "web_dropped_total", "Patches and tiles that the web page was too late to be shown."
        )
        self._begin(GROUND_SERIES)
