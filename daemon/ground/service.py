"""The ground process: builds the stages, joins them by mailboxes, and ends them in order.

receive │ collect │ keep │ decode │ mosaic │ write ─► scenes: of tiles, which nothing waits for
                                        └──────┴────► web: a page, likewise
"""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Final, TypeAlias

from daemon.clock import Clock
from daemon.config import GroundSettings, OutputSettings
from daemon.config_archive import ArchiveSettings
from daemon.config_models import GroundModelSettings
from daemon.config_sections import MIB
from daemon.cores import WORKERS_PER_THREAD, claim
from daemon.files import lock_folder
from daemon.ground.archive import ArchiveLimits, FrameArchive
from daemon.ground.collect import CollectWorker
from daemon.ground.decode import DecodeWorker
from daemon.ground.half_received import HalfReceived
from daemon.ground.items import CollectedFrame, RestoredTile, TilePart
from daemon.ground.keep import KeepWorker
from daemon.ground.kept_tiles import Key
from daemon.ground.metrics import GroundMetrics
from daemon.ground.models import GroundModels, load_decoders
from daemon.ground.mosaic import MosaicWorker
from daemon.ground.notes import QualityNotes
from daemon.ground.receive import Receiver
from daemon.ground.report import HeardBeacon, Reports
from daemon.ground.scene_keeper import SceneKeeper
from daemon.ground.web.page import WebPage
from daemon.ground.write import WriteWorker, file_stem
from daemon.health import Health
from daemon.lifecycle import LAST_POLL_S, StopSignal, shut_down, wait_to_end
from daemon.link.packet import Channel, Packet
from daemon.link.reassembly import Reassembler
from daemon.link.reports import Reporter
from daemon.link.seal import DOWNLINK_SPI, UPLINK_SPI
from daemon.link.sequence import SequenceTracker
from daemon.link.sockets import Endpoint, PacketListener, PacketSender
from daemon.log import tell_suppressed
from daemon.mailbox import Mailbox
from daemon.metrics import new_registry
from daemon.model_store import open_store
from daemon.notify import Notifier
from daemon.pipeline import Pipeline
from daemon.sealed_link import SealedOpener, SealedSender, Sender, heard_beside
from daemon.stage import Source, Stage
from daemon.status_server import StatusServer
from daemon.watchdog import Pulses, Watchdog

log = logging.getLogger(__name__)

Send: TypeAlias = Callable[[bytes, float], bool]
"""Hands one message to the uplink; False if it did not take it in time."""

_Item: TypeAlias = Packet | CollectedFrame | TilePart | RestoredTile

_SILENCE_S: Final = 5.0
"""Longest silence within a contact, for the page, where there is no uplink that has it [s]."""

_TICK_S: Final = 0.1
"""Longest time between two looks at deadlines, which are seconds [s]."""


def run(
    settings: GroundSettings, *, stop: StopSignal, clock: Clock, notifier: Notifier
) -> dict[str, float]:
    """Run until asked to stop, then write what arrived.

    Returns:
        Every metric's final value, as `GroundMetrics.totals` has them.

    Raises:
        ConfigError: If a bundle or the seal's counters cannot be used.
        AddressError: If a socket or the metrics endpoint cannot be opened.
        OutputError: If the output directory cannot be made, or is another process's.
    """
    metrics, health, notes = GroundMetrics(new_registry()), Health(notifier), QualityNotes()
    tell_suppressed(metrics.log_lines_suppressed.inc)
    link, security = settings.link, settings.security
    metrics.insecure.set(bool(settings.exposed))
    with ExitStack() as stack:
        # Neither another ground nor `decode` may write there, nor take away what is half written.
        stack.callback(os.close, lock_folder(settings.output.directory))
        # Before the models, so that whoever waits for them can ask how far we are.
        server = stack.enter_context(
            closing(StatusServer(metrics.exposition, health, settings.metrics, clock))
        )
        notifier.loading("the models")
        models = _models(settings.model, clock, metrics)
        stop.on_hangup = models.look
        listener = PacketListener(
            Endpoint(address=link.address, bind=link.bind, curve=security.curve("link"))
        )
        stack.callback(listener.close)
        unseal, send = None, None
        if seal := security.seal:
            key, state = seal
            degraded = metrics.seal_degraded.labels("open").set
            opener = SealedOpener(
                key, heard_beside(state), spis=(DOWNLINK_SPI,), clock=clock, degraded=degraded
            )
            stack.callback(opener.close)
            unseal = opener.open
        if link.uplink is not None:
            up = link.uplink
            sender: Sender = stack.enter_context(
                PacketSender(
                    Endpoint(address=up.address, bind=up.bind, curve=security.curve("uplink"))
                )
            )
            if seal is not None:
                degraded = metrics.seal_degraded.labels("seal").set
                sender = sealed = SealedSender(
                    sender, *seal, spi=UPLINK_SPI, clock=clock, degraded=degraded
                )
                stack.callback(sealed.close)
            send = sender.send
        reassembler = Reassembler(
            max_frames=settings.collect.max_frames,
            max_bytes=settings.collect.max_mib * MIB,
            # What the board keeps it can send again, in this pass or another.
            max_age_s=settings.collect.max_age_s if send is None else math.inf,
        )
        reports = _reports(settings, send, reassembler, metrics)
        collector = CollectWorker(reassembler, clock, metrics, reports, notes.put)
        notifier.loading("the archive")
        archive = _archive(
            settings.archive, models.has, collector, clock=clock, metrics=metrics, stack=stack
        )
        if archive is not None:
            models.on_model = archive.model_came
            if reports is not None:
                reports.durable(archive.keys())
        page, pulses = _page(settings, reports, metrics, clock, stack), Pulses(clock)
        stages = _line(
            settings,
            models,
            listener=listener,
            unseal=unseal,
            collector=collector,
            archive=archive,
            on_durable=_unheard if reports is None else reports.durable,
            page=page,
            notes=notes,
            clock=clock,
            metrics=metrics,
            pulses=pulses,
        )
        for stage in reversed(stages):
            stage.start()
        health.watch(pulses)
        notifier.ready()
        log.info(
            "ready",
            extra={
                "models": ",".join(name.hex() for name in models.decoders),
                "metrics": f"{settings.metrics.address}:{server.port}",
                "web": "off" if page is None else f"{settings.web.address}:{page.port}",
            },
        )
        with Watchdog(pulses, notifier, partial(_summary, metrics), clock):
            wait_to_end(stop, settings.exposed)
        notifier.stopping()
        late = shut_down(stages, deadline_s=settings.shutdown_deadline_s, clock=clock)
        stages[0].drain(LAST_POLL_S)
        metrics.stages_late.set(len(late))
        log.info("stopped", extra={"late": ",".join(late) or "none"})
        return metrics.totals()


def _models(settings: GroundModelSettings, clock: Clock, metrics: GroundMetrics) -> GroundModels:
    """Load the settings' models, keep them, and load what was kept before."""
    models = GroundModels(
        load_decoders(settings),
        store=open_store(settings.store),
        watch=settings.store.watch,
        clock=clock,
        metrics=metrics,
    )
    models.keep(settings.bundles)
    models.take_all()
    return models


def _line(
    settings: GroundSettings,
    models: GroundModels,
    *,
    listener: PacketListener,
    unseal: Callable[[bytes], bytes] | None,
    collector: CollectWorker,
    archive: FrameArchive | None,
    on_durable: Callable[[Iterable[Key]], object],
    page: WebPage | None,
    notes: QualityNotes,
    clock: Clock,
    metrics: GroundMetrics,
    pulses: Pulses,
) -> tuple[Source | Stage[Any, Any], ...]:
    """The stages of the ground process in the direction of the data."""
    boxes, collect = settings.mailboxes, settings.collect
    scenes = _scenes(settings.output, page, metrics, clock)

    def on_drop(stage: str, item: _Item, reason: str) -> None:
        _count_drop(metrics, stage, item, reason)
        if stage == "keep" and isinstance(item, CollectedFrame):
            collector.forget([item.key])  # the board will send it again

    def hand_on(tile: RestoredTile) -> bool:
        if page is not None:
            page.closed(tile)
        return tiles.put(tile)

    def on_written(tile: RestoredTile) -> None:
        if archive is not None:
            archive.written(tile)
        if page is not None:
            page.written(tile)
        if scenes is not None:
            scenes.note(file_stem(tile.tile.info))

    def on_amended(stem: str, sent_as: tuple[int, int]) -> None:
        if page is not None:
            page.amended(stem, sent_as)
        if scenes is not None:
            scenes.note(stem)

    line = Pipeline(clock=clock, metrics=metrics, pulses=pulses, tick_s=_TICK_S, on_drop=on_drop)
    packets: Mailbox[Packet] = line.mailbox(
        "packets", boxes.packets, before="collect", size_of=lambda packet: len(packet.data)
    )
    collected: Mailbox[CollectedFrame] = line.mailbox("collected", boxes.collected, before="keep")
    frames: Mailbox[CollectedFrame] = line.mailbox("frames", boxes.frames, before="decode")
    parts: Mailbox[TilePart] = line.mailbox("patches", boxes.patches, before="mosaic")
    tiles: Mailbox[RestoredTile] = line.mailbox("tiles", boxes.tiles, before="write")
    receiver = Receiver(listener, SequenceTracker(), packets.put, metrics=metrics, unseal=unseal)
    decoder = DecodeWorker(
        models.decoders,
        threads=WORKERS_PER_THREAD * claim(settings.model.threads),
        max_parked_bytes=collect.max_mib * MIB,
        max_age_s=settings.tile_deadline_s,
        clock=clock,
        metrics=metrics,
        on_give_up=_unheard if archive is None else archive.gave_up,
    )
    mosaic = MosaicWorker(
        deadline_s=settings.tile_deadline_s,
        max_bytes=boxes.tiles.max_bytes,
        clock=clock,
        metrics=metrics,
        on_part=_unheard if page is None else page.part,
        on_empty=_unheard if archive is None else archive.waits,
    )
    writer = WriteWorker(
        settings.output.directory,
        settings.output.kind,
        metrics,
        on_written=on_written,
        notes=notes,
        on_amended=on_amended,
    )
    most = max(1, boxes.frames.max_items // 2)

    def room() -> int:
        """Frames that find room before the decoder's mailbox is half full, in items or bytes."""
        return int(most * (1 - 2 * frames.fill))

    keeper = KeepWorker(archive, on_durable, metrics, room, collector.half_received)
    return (
        line.source("receive", receiver.poll, receiver.pending),
        line.stage("collect", collector, packets, collected.put),
        line.stage("keep", keeper, collected, frames.put),
        line.stage("decode", decoder, frames, parts.put),
        line.stage("mosaic", mosaic, parts, hand_on),
        line.stage("write", writer, tiles, None),
        line.source("models", models.poll, lambda: False),
        *([] if scenes is None else [scenes]),
    )


def _reports(
    settings: GroundSettings,
    send: Send | None,
    reassembler: Reassembler,
    metrics: GroundMetrics,
) -> Reports | None:
    uplink = settings.link.uplink
    if uplink is None or send is None:
        return None
    reporter = Reporter(
        session=secrets.randbits(32) or 1,
        apid=uplink.apid,
        mtu_bytes=uplink.mtu_bytes - settings.security.seal_bytes,
        lacks=reassembler.lacks,
        give_up=reassembler.give_up,
        begin_anew=reassembler.forget,
        times=uplink.times,
    )
    return Reports(reporter, send, metrics)


def _page(
    settings: GroundSettings,
    reports: Reports | None,
    metrics: GroundMetrics,
    clock: Clock,
    stack: ExitStack,
) -> WebPage | None:
    """Open the web page, if there is to be one, until the stack is left."""
    web, uplink = settings.web, settings.link.uplink
    if web.port is None:
        return None

    def beacon() -> HeardBeacon | None:
        return None if reports is None else reports.last_beacon

    page = WebPage(
        web,
        web.port,
        settings.output.directory,
        silence_s=_SILENCE_S if uplink is None else uplink.contact_s,
        has_uplink=reports is not None,
        beacon=beacon,
        metrics=metrics,
        clock=clock,
    )
    stack.callback(page.close)
    page.start()
    return page


def _scenes(
    settings: OutputSettings, page: WebPage | None, metrics: GroundMetrics, clock: Clock
) -> SceneKeeper | None:
    if not settings.scenes:
        return None
    return SceneKeeper(
        settings.directory,
        settings.kind,
        deadline_s=settings.scene_deadline_s,
        max_bytes=settings.scene_max_mib * MIB,
        metrics=metrics,
        clock=clock,
        on_scene=_unheard if page is None else page.scene,
    )


def _archive(
    settings: ArchiveSettings,
    has_model: Callable[[bytes], bool],
    collector: CollectWorker,
    *,
    clock: Clock,
    metrics: GroundMetrics,
    stack: ExitStack,
) -> FrameArchive | None:
    """Open the archive, if there is to be one, and what was half received, until the stack ends."""
    metrics.archive_limit_bytes.set(settings.max_mib * MIB if settings.directory else 0)
    if settings.directory is None:
        return None
    limits = ArchiveLimits(
        max_bytes=settings.max_mib * MIB,
        segment_bytes=settings.segment_mib * MIB,
        sync_frames=settings.sync_frames,
        sync_s=settings.sync_ms / 1000,
        retry_s=settings.retry_s,
    )
    archive = FrameArchive(
        settings.directory,
        limits,
        clock,
        metrics=metrics,
        on_lost=collector.forget,
        has_model=has_model,
    )
    stack.callback(archive.close)
    collector.half_received = HalfReceived(
        settings.directory / "half-received",
        clock,
        retry_s=settings.retry_s,
        is_whole=archive.holds,
        metrics=metrics,
    )
    stack.callback(collector.half_received.close)
    return archive


def _summary(metrics: GroundMetrics) -> str:
    """One line for people."""
    totals = metrics.totals().items()
    tiles = sum(value for key, value in totals if key.startswith("prismlink_tiles_written_total"))
    return f"{tiles:.0f} tiles written"


def _unheard(*_: object) -> None:
    """Where nobody needs to know."""


def _count_drop(
    metrics: GroundMetrics,
    stage: str,
    item: _Item,
    reason: str,
) -> None:
    """Count what is lost in or before a stage: packets, patches, tiles, and side frames."""
    match item:
        case Packet():
            metrics.dropped_packets.labels(stage, reason).inc()
        case CollectedFrame(channel=Channel.PATCH):
            metrics.patches_failed.labels(reason).inc()
        case CollectedFrame() | TilePart(patch=None):
            metrics.dropped_frames.labels(stage, reason).inc()
        case TilePart():
            metrics.dropped_patches.labels(stage, reason).inc()
        case RestoredTile():
            metrics.dropped_tiles.labels(stage, reason).inc()
            metrics.dropped_patches.labels(stage, reason).inc(item.patches)
