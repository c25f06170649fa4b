"""`prismlink` with a fault: UTC is off by what stands in the file that `CLOCK_OFF_S` names [s]."""

from __future__ import annotations

import os
import time
from pathlib import Path

from daemon.cli import main
from daemon.clock import SystemClock


def _utc_s(_clock: SystemClock) -> float:
    return time.time() + float(Path(os.environ["CLOCK_OFF_S"]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    SystemClock.utc_s = _utc_s  # type: ignore[method-assign]
    main()
