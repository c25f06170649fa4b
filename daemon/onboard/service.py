"""The flight process: builds the stages, joins them by mailboxes, and ends them in order.

ingest │ patches │ batches │ encode │ packets │ spool ═► downlink
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from codec.encoder import Encoder
from daemon.clock import Clock
from daemon.config import FlightSettings
from daemon.config_sections import MIB, MailboxSettings
from daemon.lifecycle import LAST_POLL_S, StopSignal, shut_down
from daemon.link.fec import RepairPolicy
from daemon.link.packet import Channel
from daemon.link.segment import Segmenter
from daemon.link.sockets import Endpoint, PacketSender, TileListener
from daemon.mailbox import Mailbox
from daemon.metrics import FlightMetrics, new_registry, serve
from daemon.onboard.batches import BatchWorker
from daemon.onboard.downlink import Downlink
from daemon.onboard.encode import EncodeWorker
from daemon.onboard.ingest import Ingest
from daemon.onboard.items import (
    Batch,
    EncodedFrame,
    FramePackets,
    OpenedPatch,
    ReceivedTile,
)
from daemon.onboard.models import load_encoder
from daemon.onboard.packets import PacketWorker
from daemon.onboard.patches import PatchWorker
from daemon.onboard.spool import MemorySpool, SpooledPacket, SpoolWorker
from daemon.stage import Source, Stage, Worker
from daemon.tile_message import TileLimits

log = logging.getLogger(__name__)

Item = ReceivedTile | OpenedPatch | Batch | EncodedFrame | FramePackets
In = TypeVar("In", bound=Item)
Out = TypeVar("Out")


def run(settings: FlightSettings, *, stop: StopSignal, clock: Clock) -> dict[str, float]:
    """Run until asked to stop, then drain.

    Returns:
        Every metric's final value, as `FlightMetrics.totals` has them.

    Raises:
        ConfigError: If the model cannot be used.
        AddressError: If a socket or the metrics endpoint cannot be opened.
    """
    metrics = FlightMetrics(new_registry())
    encoder = load_encoder(settings.model, metrics.timer)
    metrics.uses(encoder.bundle.name, encoder.backend.name)
    instrument, link = settings.instrument, settings.link
    with ExitStack() as stack:
        server = serve(metrics.registry, settings.metrics.address, settings.metrics.port)
        stack.callback(server.close)
        listener = TileListener(
            Endpoint(address=instrument.address, bind=instrument.bind),
            pattern=instrument.pattern,
            topic=instrument.topic.encode(),
            max_part_bytes=instrument.max_message_mib * MIB,
        )
        stack.callback(listener.close)
        sender = PacketSender(Endpoint(address=link.address, bind=link.bind))
        stack.callback(sender.close)
        line = _Line(settings, encoder, (listener, sender), clock=clock, metrics=metrics)
        line.start()
        log.info(
            "ready",
            extra={
                "model": encoder.bundle.name,
                "backend": encoder.backend.name,
                "metrics": f"{settings.metrics.address}:{server.port}",
            },
        )
        stop.wait()
        late = shut_down(line.stages, deadline_s=settings.shutdown_deadline_s, clock=clock)
        for source in line.sources:
            source.drain(LAST_POLL_S)
        left = line.spool.clear("shutdown")
        metrics.stages_late.set(len(late))
        log.info("stopped", extra={"late": ",".join(late) or "none", "packets_left": left})
        return metrics.totals()


class _Line:
    """The stages of the flight process in the direction of the data."""

    def __init__(
        self,
        settings: FlightSettings,
        encoder: Encoder,
        sockets: tuple[TileListener, PacketSender],
        *,
        clock: Clock,
        metrics: FlightMetrics,
    ) -> None:
        listener, sender = sockets
        self._clock, self._metrics, boxes = clock, metrics, settings.mailboxes
        self.spool = self._make_spool(settings)
        tiles: Mailbox[ReceivedTile] = self._mailbox("tiles", boxes.tiles, "patches")
        opened: Mailbox[EncodedFrame | OpenedPatch] = self._mailbox(
            "patches", boxes.patches, "batches"
        )
        batches: Mailbox[EncodedFrame | Batch] = self._mailbox("batches", boxes.batches, "encode")
        frames: Mailbox[EncodedFrame] = self._mailbox("frames", boxes.frames, "packets")
        packets: Mailbox[FramePackets] = self._mailbox("packets", boxes.packets, "spool")
        limits = _limits(settings)
        ingest = Ingest(listener, limits, tiles.put, clock=clock, metrics=metrics)
        downlink = Downlink(self.spool, sender, metrics)
        gather = BatchWorker(
            max_patches=settings.batch.max_patches,
            max_age_s=settings.batch.max_age_ms / 1000,
            clock=clock,
        )
        repair = settings.link.repair
        segmenter = Segmenter(
            boot_id=secrets.randbits(32),
            apid=settings.link.apid,
            mtu_bytes=settings.link.mtu_bytes,
            repair={
                Channel.SIDE: RepairPolicy(ratio=repair.side_ratio, minimum=repair.min_side),
                Channel.PATCH: RepairPolicy(ratio=repair.patch_ratio, minimum=repair.min_patch),
            },
        )
        source = Source(
            "ingest", ingest.poll, clock=clock, observer=metrics, pending=ingest.pending
        )
        sink = Source(
            "downlink", downlink.poll, clock=clock, observer=metrics, pending=downlink.pending
        )
        self.sources = (source, sink)
        self.stages = (
            source,
            self._stage("patches", PatchWorker(encoder, metrics), tiles, opened.put),
            self._stage("batches", gather, opened, batches.put),
            self._stage("encode", EncodeWorker(encoder, metrics), batches, frames.put),
            self._stage("packets", PacketWorker(segmenter, clock), frames, packets.put),
            self._stage("spool", SpoolWorker(self.spool, clock, metrics), packets, _nowhere),
            sink,
        )

    def start(self) -> None:
        """Start all stages, the last one first."""
        for stage in reversed(self.stages):
            stage.start()

    def _mailbox(self, name: str, bounds: MailboxSettings, stage: str) -> Mailbox[Any]:
        """The mailbox before a stage, under whose name its drops are counted."""
        mailbox: Mailbox[Any] = Mailbox(
            name,
            max_items=bounds.max_items,
            max_bytes=bounds.max_bytes,
            max_age_s=bounds.max_age_s,
            policy=bounds.policy,
            clock=self._clock,
            size_of=lambda item: item.size_bytes,
            on_drop=self._dropping(stage),
        )
        self._metrics.watch(mailbox)
        return mailbox

    def _stage(
        self,
        name: str,
        worker: Worker[In, Out],
        inbox: Mailbox[In],
        deliver: Callable[[Out], object],
    ) -> Stage[In, Out]:
        return Stage(
            name,
            worker,
            inbox,
            deliver,
            tick_s=0.02,
            clock=self._clock,
            observer=self._metrics,
            on_drop=self._dropping(name),
        )

    def _dropping(self, stage: str) -> Callable[[Item, str], None]:
        """Count what is lost in or before a stage: patches, and tiles whole or by their side."""

        def count(item: Item, reason: str) -> None:
            self._metrics.dropped_patches.labels(stage, reason).inc(item.patches)
            side = isinstance(item, EncodedFrame | FramePackets) and item.channel is Channel.SIDE
            if side or isinstance(item, ReceivedTile):
                self._metrics.dropped_tiles.labels(stage, reason).inc()

        return count

    def _make_spool(self, settings: FlightSettings) -> MemorySpool:
        metrics = self._metrics

        def count(_packet: SpooledPacket, reason: str) -> None:
            metrics.spool_dropped_packets.labels(reason).inc()

        limit = settings.spool.max_mib * MIB
        spool = MemorySpool(max_bytes=limit, clock=self._clock, on_drop=count)
        metrics.spool_limit_bytes.set(limit)
        metrics.spool_packets.set_function(lambda: spool.packets)
        metrics.spool_bytes.set_function(lambda: spool.used_bytes)
        metrics.spool_oldest_age.set_function(lambda: spool.oldest_age_s)
        return spool


def _nowhere(_: object) -> None:
    """The end of a line."""


def _limits(settings: FlightSettings) -> TileLimits:
    instrument = settings.instrument
    return TileLimits(
        max_bands=instrument.limits.max_bands,
        max_rows=instrument.limits.max_rows,
        max_cols=instrument.limits.max_cols,
        max_bytes=instrument.max_message_mib * MIB,
    )
