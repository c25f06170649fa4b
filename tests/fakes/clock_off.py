"""`prismlink` with a fault: UTC is off by what stands in the file that `CLOCK_OFF_S` names [s]."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from daemon.cli import main
from daemon.clock import SystemClock
from fakes.processes import ROOT


def given(offset: Path) -> dict[str, Any]:
    """What a process gets whose clock is off by what stands in this file."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    env = {**os.environ, "PYTHONPATH": path, "CLOCK_OFF_S": str(offset)}
    return {"module": "fakes.clock_off", "env": env}


def put(offset: Path, seconds: float) -> None:
    """Write the file, which the process may read at any moment, in one step."""
    whole = offset.with_suffix(".new")
    whole.write_text(str(seconds), encoding="utf-8")
    whole.replace(offset)


def _utc_s(_clock: SystemClock) -> float:
    return time.time() + float(Path(os.environ["CLOCK_OFF_S"]).read_text(encoding="utf-8"))


if __name__ == "__main__":
    SystemClock.utc_s = _utc_s  # type: ignore[method-assign]
    main()
