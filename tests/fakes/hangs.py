"""`prismlink` with a fault: one stage never returns from tiles of the scene "hang"."""

from __future__ import annotations

import threading
from typing import Any

from daemon.cli import main
from daemon.ground.mosaic import MosaicWorker
from daemon.onboard.patches import PatchWorker


def hang_for_ever() -> None:
    """As native code does that waits for what will not come."""
    threading.Event().wait()


def _hanging(worker: Any, scene_of: Any) -> None:
    accept = worker.accept

    def hanging(self: Any, item: Any) -> Any:
        if scene_of(item) == "hang":
            hang_for_ever()
        return accept(self, item)

    worker.accept = hanging


if __name__ == "__main__":
    _hanging(PatchWorker, lambda item: item.tile.info.scene)
    _hanging(MosaicWorker, lambda item: item.side.info.scene)
    main()
