"""The section of ground.yaml about frames that outlive the process."""

from __future__ import annotations

from typing import Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from daemon.config_sections import Directory, Section


class ArchiveSettings(Section):
    """Complete frames on a disk, and packets of incomplete ones.

    Attributes:
        directory: Of its files, of this process alone; null: nothing is archived.
        max_mib: Most complete frames take [MiB]; past it go those of tiles written whole, then the
            oldest. Packets of incomplete ones take up to about twice collect.max_mib beside it.
        segment_mib: Size of a file [MiB].
        sync_frames: So many frames are brought to the disk together.
        sync_ms: None waits longer for others to be brought there with [ms].
        retry_s: Time between two tries of a disk that failed [s].
    """

    directory: Directory | None = None
    max_mib: PositiveInt = 4096
    segment_mib: PositiveInt = 16
    sync_frames: PositiveInt = 64
    sync_ms: PositiveFloat = 200.0
    retry_s: PositiveFloat = 10.0

    @model_validator(mode="after")
    def _holds_several_files(self) -> Self:
        if self.max_mib < 2 * self.segment_mib:
            raise ValueError(
                "max_mib should be at least twice segment_mib: whole files are removed"
            )
        return self
