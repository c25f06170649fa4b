"""Puts scenes together beside the stages, once no tile of them came for a while.

Nothing waits for it, and nothing is lost by it: what it did not come to is found in the folder when
the next process starts. So, as the page's, its thread is none that a watchdog looks at, and at the
end it is never late: it gets what is left of the deadline.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.clock import Clock
from daemon.errors import OutputError, SceneChangedError, SceneError, SceneTileError
from daemon.files import sync_folder
from daemon.ground.assemble import assemble, is_due
from daemon.ground.metrics import GroundMetrics
from daemon.ground.products import QUALITY
from daemon.ground.scenes import place, scene_stem
from daemon.ground.tile_products import (
    TileProduct,
    file_state,
    scenes_of,
    several_tiles,
    tiles_of,
)
from daemon.stage import Source
from daemon.watchdog import Pulses

log = logging.getLogger(__name__)

STAGE: Final = "scenes"
RETRY_S: Final = 60.0
"""Time until what could not be written is tried again, and what was refused is looked at [s]."""
_LONGEST_S: Final = 3600.0
"""Longest time until files that could not be read, and are the same, are read again [s]."""
_WAIT_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """A scene that could not be put together.

    Attributes:
        state: Tells its files from what takes their place.
        error: What was told.
        wait_s: Time until the same files are tried again [s]; twice that the next time.
        again_s: When that is; never, if others are needed.
    """

    state: int
    error: str
    wait_s: float
    again_s: float


class SceneKeeper(Source):
    """Writes a product of every scene of which tile products lie at more than one position.

    Args:
        directory: Where tiles and scenes are.
        file_format: As in `codec.tile_files.write_tile`.
        deadline_s: Time without news of a scene until it is put together [s].
        max_bytes: Most that the samples of one may take [bytes].
        metrics: Counts scenes written, and those that could not be.
        clock: Tells when.
        on_scene: Told the sensor, the scene and the name without suffix of each product that was
            written, or found up to date. Must not raise.
    """

    def __init__(
        self,
        directory: Path,
        file_format: str,
        *,
        deadline_s: float,
        max_bytes: int,
        metrics: GroundMetrics,
        clock: Clock,
        on_scene: Callable[[str, str, str], object] = lambda *_: None,
    ) -> None:
        super().__init__(
            STAGE,
            self.poll,
            clock=clock,
            observer=metrics,
            pulses=Pulses(clock),
            pending=self.pending,
        )
        self._directory, self._format, self._max_bytes = directory, file_format, max_bytes
        self._deadline_s, self._metrics = deadline_s, metrics
        self._on_scene = on_scene
        self._lock = threading.Lock()
        self._due_s: dict[str, float] = {}
        """By what of a scene's name goes into names of files: when to look at its tiles."""
        self._found: dict[str, list[str]] = {}
        """Of scenes that are to be looked at now, the items of their tiles."""
        self._refused: dict[tuple[str, str], _Refused] = {}
        """By what of a scene's name goes into names of files, and what its product is called."""
        self._list_at_s = -math.inf
        self._has_begun = self._ends = False

    def drain(self, timeout_s: float) -> bool:
        """Put together what is left, as far as there is time; the rest is for the next process."""
        if not super().drain(timeout_s):
            self.abandon()
            log.info("scenes are left for the next start")
        return True

    def note(self, stem: str) -> None:
        """A tile was written; from any thread, without waiting.

        Args:
            stem: Name of its files, as `daemon.ground.write.file_stem` has it.
        """
        self._look_at([stem.rsplit("_", 3)[0]], self._deadline_s)

    def poll(self) -> None:
        """Look at one scene that is due, or wait a moment.

        Raises:
            OutputError: If the folder cannot be read.
        """
        if not self._found and not self._finds():
            self._clock.sleep(_WAIT_S)
            return
        name, items = self._found.popitem()
        try:
            scenes = scenes_of(tiles_of(self._directory, items))
            self._refused.pop((name, name), None)
            for tiles in scenes:
                self._look(name, tiles)
        except SceneChangedError:
            self._look_at([name], self._deadline_s)
        except SceneTileError as error:
            self._refuse((name, name), 0, error)

    def pending(self) -> bool:
        """Whether something is left to be looked at; asked once no more tiles come."""
        self._ends = True
        return bool(self._found or self._due_s)

    def _finds(self) -> bool:
        """List the folder if something is due, for all that is, and not all the time."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            due = {
                name: due_s for name, due_s in self._due_s.items() if self._ends or due_s <= now_s
            }
        if self._has_begun and not (due and (self._ends or now_s >= self._list_at_s)):
            return False
        try:
            found = several_tiles(os.listdir(self._directory))
        except OSError as error:
            raise OutputError(self._directory, str(error)) from None
        self._list_at_s = now_s + self._deadline_s / 2
        if not self._has_begun:
            self._has_begun = True
            self._look_at(found, self._deadline_s)
            return False
        with self._lock:  # a tile that was told of since may have come behind the listing
            self._due_s = {
                name: due_s for name, due_s in self._due_s.items() if due.get(name) != due_s
            }
        self._refused = {key: told for key, told in self._refused.items() if key[0] in found}
        self._found = {
            name: found[name] for name in sorted(due.keys() & found.keys(), reverse=True)
        }
        return bool(self._found)

    def _look_at(self, names: Iterable[str], after_s: float) -> None:
        if self._ends:
            return
        due_s = self._clock.monotonic_s() + after_s
        with self._lock:
            self._due_s |= dict.fromkeys(names, due_s)

    def _look(self, name: str, tiles: list[TileProduct]) -> None:
        """Put a scene together if it is due; what cannot be is a line and a count."""
        stem = scene_stem(tiles[0].sensor, tiles[0].scene)
        files = [self._directory / f"{stem}{QUALITY}", *(tile.path for tile in tiles)]
        found = hash((*(tile.digest for tile in tiles), *map(file_state, files)))
        refused = self._refused.get((name, stem))
        if refused and refused.state == found and self._clock.monotonic_s() < refused.again_s:
            self._look_at([name], RETRY_S)
            return
        try:
            scene = place(tiles, self._max_bytes)
            if not is_due(scene, self._directory, self._format):
                self._refused.pop((name, stem), None)
                self._on_scene(tiles[0].sensor, tiles[0].scene, stem)
                return
            path = assemble(scene, self._directory, self._format)
            sync_folder(self._directory)
        except SceneChangedError:
            raise
        except SceneError as error:
            self._refuse((name, stem), found, error)
        except OutputError as error:
            self._tell(stem, error)
            self._look_at([name], RETRY_S)
        else:
            self._refused.pop((name, stem), None)
            state = "complete" if scene.complete else "partial"
            self._metrics.scenes_written.labels(state).inc()
            log.info("scene written", extra={"file": path.name, "state": state})
            self._on_scene(tiles[0].sensor, tiles[0].scene, stem)

    def _refuse(self, key: tuple[str, str], state: int, error: SceneError) -> None:
        """Have it looked at again; what is no news is not told, and read less and less often."""
        before, wait_s = self._refused.get(key), RETRY_S
        if before and before.state == state:
            wait_s = min(2 * before.wait_s, _LONGEST_S)
        if not (before and (before.state, before.error) == (state, str(error))):
            self._tell(key[1], error)
        reads = isinstance(error, SceneTileError)
        again_s = self._clock.monotonic_s() + wait_s if reads else math.inf
        self._refused[key] = _Refused(state=state, error=str(error), wait_s=wait_s, again_s=again_s)
        self._look_at([key[0]], RETRY_S)

    def _tell(self, stem: str, error: SceneError | OutputError) -> None:
        self._metrics.scene_errors.labels(error.reason).inc()
        log.warning(
            "scene not put together",
            extra={"scene": stem, "reason": error.reason, "error": str(error)},
        )
