"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from daemon.errors import OutputError


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then move into place.

    Raises:
        OutputError: If any of it fails; `path` is then as it was.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        # The folder may be a file, and then not even this works.
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(path, str(error)) from None
