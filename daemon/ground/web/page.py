"""The page as a whole: what stages tell, what visitors see, and the threads between.

Whatever goes wrong here is counted (`stage_errors{stage="web"}`, `web_dropped`) and costs the page;
the stages before do not notice. So its stage has pulses of its own, which no watchdog looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from daemon.clock import Clock
from daemon.config_web import WebSettings
from daemon.ground.items import RestoredTile, TilePart
from daemon.ground.metrics import GroundMetrics
from daemon.ground.report import HeardBeacon
from daemon.ground.web.access import Access
from daemon.ground.web.app import WebApp
from daemon.ground.web.kept_samples import KeptSamples
from daemon.ground.web.link_watch import LinkWatch
from daemon.ground.web.pass_log import FILE_NAME, PassLog
from daemon.ground.web.server import WebServer
from daemon.ground.web.streams import Streams
from daemon.ground.web.tile_board import TileBoard
from daemon.ground.web.watch import SceneThere, Seen, WatchWorker, Written, written
from daemon.mailbox import Mailbox, Policy
from daemon.stage import INTERNAL_ERROR, Stage
from daemon.watchdog import Pulses

STAGE: Final = "web"
MAX_STREAMS: Final = 16
"""Pages open at a time."""
_WAITING: Final = 1024
"""Patches and tiles that wait to be shown; more, or older, are not."""
_TICK_S: Final = 0.5
_READERS: Final = 2
_DRAIN_S: Final = 2.0


class WebPage:
    """An open page.

    Args:
        settings: Where, for whom, and how much it keeps.
        port: Where it listens; 0: any that is free.
        directory: Where tiles are written.
        silence_s: A contact is over once nothing has come for longer [s].
        has_uplink: Whether beacons are heard.
        beacon: The last one, or None.
        metrics: What is told of the link; told what goes wrong.
        clock: Tells when.

    Attributes:
        port: The port it listens on.

    Raises:
        AddressError: If nothing can listen there.
    """

    def __init__(
        self,
        settings: WebSettings,
        port: int,
        directory: Path,
        *,
        silence_s: float,
        has_uplink: bool,
        beacon: Callable[[], HeardBeacon | None],
        metrics: GroundMetrics,
        clock: Clock,
    ) -> None:
        samples = KeptSamples(settings.max_bytes)
        budget = settings.kbit_per_s
        worker = WatchWorker(
            directory,
            board=TileBoard(settings.max_tiles),
            samples=samples,
            passes=PassLog(directory / FILE_NAME, settings.max_passes),
            link=LinkWatch(
                silence_s=silence_s,
                plan=settings.plan,
                bits_per_s=None if budget is None else 1000 * budget,
            ),
            totals=metrics.totals,
            beacon=beacon,
            has_uplink=has_uplink,
            clock=clock,
        )

        def count_dropped(_: Seen, __: str) -> None:
            metrics.web_dropped.inc()

        self._mailbox: Mailbox[Seen] = Mailbox(
            STAGE,
            max_items=_WAITING,
            max_bytes=max(1, settings.max_bytes // 2),
            max_age_s=None,
            policy=Policy.DROP_OLDEST,
            clock=clock,
            size_of=lambda item: item.size_bytes,
            on_drop=count_dropped,
        )
        metrics.watch(self._mailbox)
        self._stage = Stage(
            STAGE,
            worker,
            self._mailbox,
            None,
            tick_s=_TICK_S,
            clock=clock,
            observer=metrics,
            pulses=Pulses(clock),
            on_drop=count_dropped,
        )
        self._readers = ThreadPoolExecutor(_READERS, "web-read")
        streams = Streams(lambda: worker.bulletin, MAX_STREAMS)
        app = WebApp(
            directory,
            bulletin=lambda: worker.bulletin,
            samples=samples,
            streams=streams,
            access=Access(settings.token, settings.hosts, is_local=settings.is_local),
            readers=self._readers,
        )
        self._server = WebServer(
            app.asgi(partial(metrics.failed, STAGE, INTERNAL_ERROR)),
            streams,
            settings.address,
            port,
        )
        self.port = self._server.port

    def start(self) -> None:
        """Begin to watch, and to answer."""
        self._stage.start()
        self._server.start()

    def close(self) -> None:
        """Show the last of it, then free the port."""
        self._stage.stop_intake()
        if not self._stage.drain(_DRAIN_S):
            self._stage.abandon()
        self._server.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def part(self, item: TilePart) -> None:
        """A tile took a part; from any thread, without waiting."""
        self._mailbox.put(item)

    def closed(self, item: RestoredTile) -> None:
        """A tile is on its way to the disk; likewise."""
        self._mailbox.put(item)

    def written(self, item: RestoredTile) -> None:
        """A tile is there; likewise."""
        self._mailbox.put(written(item))

    def scene(self, sensor: str, scene: str, stem: str) -> None:
        """A product of a scene is there; likewise."""
        self._mailbox.put(SceneThere(sensor=sensor, scene=scene, stem=stem))

    def amended(self, stem: str, sent_as: tuple[int, int]) -> None:
        """What is known of a tile that is there has grown; likewise."""
        self._mailbox.put(Written(stem=stem, sent_as=sent_as))
