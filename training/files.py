"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from training.errors import TrainingError


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename: `path` is whole or as it was.

    Raises:
        TrainingError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror}") from None
