"""`prismlink` with a fault: OpenVINO's device is lost while the file that `LOST` names is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from codec.backends.openvino_backend import OpenvinoBackend
from daemon.cli import main

_analyze = OpenvinoBackend.analyze


def _analyze_or_fail(self: OpenvinoBackend, patches: Any) -> Any:
    """Fail as CUDA does when a card falls off its bus."""
    if Path(os.environ["LOST"]).exists():
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be")
    return _analyze(self, patches)


if __name__ == "__main__":
    OpenvinoBackend.analyze = _analyze_or_fail  # type: ignore[method-assign]
    main()
