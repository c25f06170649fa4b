"""The flight process: builds the stages, joins them by mailboxes, and ends them in order.

ingest │ patches │ batches │ encode │ packets │ spool ═► downlink
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Final

from daemon.clock import Clock
from daemon.config import FlightSettings
from daemon.config_downlink import FlightUplinkSettings
from daemon.config_models import FlightModelSettings
from daemon.config_sections import MIB
from daemon.gpu import Gpus
from daemon.health import Health
from daemon.lifecycle import StopSignal, shut_down, wait_to_end
from daemon.link.lanes import Level
from daemon.link.packet import Channel
from daemon.link.seal import DOWNLINK_SPI, OPERATOR_SPI, UPLINK_SPI
from daemon.link.segment import Segmenter
from daemon.link.sockets import Endpoint, PacketListener, PacketSender, TileListener
from daemon.log import tell_suppressed
from daemon.mailbox import Mailbox, Policy
from daemon.metrics import FlightMetrics, new_registry
from daemon.model_store import open_store
from daemon.notify import Notifier
from daemon.onboard.batches import BatchWorker
from daemon.onboard.commands import CommandReceiver
from daemon.onboard.commands import Listener as Uplink
from daemon.onboard.downlink import Beacons, Downlink, Orders, Sender
from daemon.onboard.encode import EncodeWorker
from daemon.onboard.ingest import Ingest, Listener
from daemon.onboard.items import (
    Batch,
    EncodedFrame,
    FramePackets,
    OpenedPatch,
    ReceivedTile,
)
from daemon.onboard.models import load_model, make_model
from daemon.onboard.notes import NoteQueue
from daemon.onboard.pace import Pace
from daemon.onboard.packets import PacketWorker
from daemon.onboard.patches import PatchWorker
from daemon.onboard.quality import QualityCheck
from daemon.onboard.rate import RateControl
from daemon.onboard.realtime import RealtimeFactor
from daemon.onboard.spool import SpoolWorker
from daemon.onboard.spools import make_spool
from daemon.onboard.updates import Models
from daemon.pipeline import Pipeline
from daemon.sealed_link import SealedOpener, SealedSender, heard_beside
from daemon.stage import Source, Stage
from daemon.status_server import StatusServer
from daemon.tile_message import TileLimits
from daemon.watchdog import Pulses, Watchdog

log = logging.getLogger(__name__)

Item = ReceivedTile | OpenedPatch | Batch | EncodedFrame | FramePackets
_TICK_S: Final = 0.02
"""Longest time between two looks at the age of a batch [s]."""
_BACKSTOP: Final = 4
"""How far above the longest message libzmq hangs up on the instrument. It tells nobody, so what is
only somewhat too long must come through to be counted."""


def run(
    settings: FlightSettings, *, stop: StopSignal, clock: Clock, notifier: Notifier
) -> dict[str, float]:
    """Run until asked to stop, then drain.

    Returns:
        Every metric's final value, as `FlightMetrics.totals` has them.

    Raises:
        ConfigError: If the model or the seal's counters cannot be used.
        AddressError: If a socket or the metrics endpoint cannot be opened.
    """
    metrics, health, gpus = FlightMetrics(new_registry()), Health(notifier), Gpus()
    tell_suppressed(metrics.log_lines_suppressed.inc)
    metrics.tell(gpus.read)
    instrument, link, security = settings.instrument, settings.link, settings.security
    metrics.insecure.set(bool(settings.exposed))
    with ExitStack() as stack:
        stack.callback(gpus.close)
        # Before the model, so that whoever waits for it can ask how far we are.
        server = stack.enter_context(
            closing(StatusServer(metrics.exposition, health, settings.metrics, clock))
        )
        notifier.loading("the model")
        models = _models(settings.model, clock, metrics)
        stop.on_hangup = models.look
        listener = TileListener(
            Endpoint(
                address=instrument.address,
                bind=instrument.bind,
                curve=security.curve("instrument"),
            ),
            pattern=instrument.pattern,
            topic=instrument.topic.encode(),
            max_part_bytes=_BACKSTOP * instrument.max_message_mib * MIB,
        )
        stack.callback(listener.close)
        socket = PacketSender(
            Endpoint(address=link.address, bind=link.bind, curve=security.curve("link"))
        )
        stack.callback(socket.close)
        sender: Sender = socket
        if seal := security.seal:
            degraded = metrics.seal_degraded.labels("seal").set
            sender = sealed = SealedSender(
                socket, *seal, spi=DOWNLINK_SPI, clock=clock, degraded=degraded
            )
            stack.callback(sealed.close)
        uplink = unseal = None
        if link.uplink is not None:
            up = link.uplink
            uplink = PacketListener(
                Endpoint(address=up.address, bind=up.bind, curve=security.curve("uplink"))
            )
            stack.callback(uplink.close)
            if seal is not None:
                key, state = seal
                degraded = metrics.seal_degraded.labels("open").set
                opener = SealedOpener(
                    key,
                    heard_beside(state),
                    spis=(UPLINK_SPI, OPERATOR_SPI),
                    clock=clock,
                    degraded=degraded,
                )
                stack.callback(opener.close)
                unseal = opener.open
        loading_spool = partial(notifier.loading, "the spool")
        loading_spool()
        line = FlightLine(
            settings,
            models,
            listener=listener,
            sender=sender,
            uplink=uplink,
            unseal=unseal,
            clock=clock,
            metrics=metrics,
            loading=loading_spool,
        )
        line.start()
        health.watch(line.pulses)
        notifier.ready()
        log.info(
            "ready",
            extra={
                "model": models.current.name,
                "backend": models.current.encoder.backend.name,
                "metrics": f"{settings.metrics.address}:{server.port}",
            },
        )
        with Watchdog(line.pulses, notifier, line.summary, clock):
            wait_to_end(stop, settings.exposed)
        notifier.stopping()
        late = shut_down(line.stages, deadline_s=settings.shutdown_deadline_s, clock=clock)
        ended = line.spool.end("shutdown")
        metrics.stages_late.set(len(late))
        log.info(
            "stopped",
            extra={
                "late": ",".join(late) or "none",
                "packets_left": ended.given_up,
                "packets_kept": ended.kept,
            },
        )
        return metrics.totals()


class FlightLine:
    """The stages of the flight process in the direction of the data.

    Args:
        settings: Bounds, batches, repair; addresses were used by the caller.
        models: Has the model that encodes.
        listener: Where tile messages come from.
        sender: Takes packets; None: they stay in the spool.
        uplink: Where commands come from; None: there is none.
        unseal: Opens them; None: they are not sealed.
        clock: For all stages.
        metrics: Told all that happens.
        loading: Called again and again while the spool is opened, which may take long.

    Attributes:
        spool: What waits for the link.
        pulses: When each stage was last seen alive.
        stages: The stages, for `daemon.lifecycle.shut_down`.
    """

    def __init__(
        self,
        settings: FlightSettings,
        models: Models,
        *,
        listener: Listener,
        sender: Sender | None,
        uplink: Uplink | None = None,
        unseal: Callable[[bytes], bytes] | None = None,
        clock: Clock,
        metrics: FlightMetrics,
        loading: Callable[[], object] = lambda: None,
    ) -> None:
        boxes = settings.mailboxes
        self.pulses = Pulses(clock)
        line = Pipeline(
            clock=clock,
            metrics=metrics,
            pulses=self.pulses,
            tick_s=_TICK_S,
            on_drop=partial(_count_drop, metrics),
        )
        self.spool = spool = make_spool(settings, clock, metrics, loading)
        tiles: Mailbox[ReceivedTile] = line.mailbox("tiles", boxes.tiles, before="patches")
        opened: Mailbox[EncodedFrame | OpenedPatch] = line.mailbox(
            "patches", boxes.patches, before="batches"
        )
        batches: Mailbox[EncodedFrame | Batch] = line.mailbox(
            "batches", boxes.batches, before="encode"
        )
        frames: Mailbox[EncodedFrame] = line.mailbox("frames", boxes.frames, before="packets")
        packets: Mailbox[FramePackets] = line.mailbox("packets", boxes.packets, before="spool")
        link, plan, orders = settings.link, settings.link.plan, Orders()
        rate = RateControl(
            plan,
            max_bytes=settings.spool.max_mib * MIB,
            most_octaves=settings.model.coarser_octaves,
            share=1 - settings.security.seal_bytes / settings.link.mtu_bytes,
        )

        def octaves() -> float:
            moments = {"utc_s": clock.utc_s(), "now_s": clock.monotonic_s()}
            return max(orders.octaves, rate.octaves(used_bytes=spool.used_bytes, **moments))

        def note(size_bytes: int) -> None:
            rate.note(size_bytes, clock.monotonic_s())

        limits = _limits(settings)
        shared = settings.instrument.shared
        ingest = Ingest(listener, limits, tiles.put, shared=shared, clock=clock, metrics=metrics)
        model = settings.model
        # Where the instrument waits nothing would be dropped, and a full mailbox is no overload.
        waits = boxes.tiles.policy is Policy.BLOCK
        metrics.encoding_speed_given.set(model.speed)
        pace = Pace(
            model.speed,
            model.speed if waits else model.overload_speed,
            lambda: tiles.fill,
            metrics.encoding_speed.set,
        )
        patcher = PatchWorker(
            lambda: models.current, pace, metrics, octaves, settings.link.scenes.level_of
        )
        gather = BatchWorker(
            max_patches=settings.batch.max_patches,
            max_bytes=boxes.batches.max_bytes,
            max_age_s=settings.batch.max_age_ms / 1000,
            clock=clock,
        )

        realtime = RealtimeFactor(clock)
        metrics.realtime_factor.set_function(realtime.value)
        # Without an uplink there is no housekeeping, and nobody to tell.
        notes = None if link.uplink is None else NoteQueue(metrics)
        quality = QualityCheck(
            model.quality_every,
            clock=clock,
            metrics=metrics,
            on_result=_unheard if notes is None else notes.put,
        )
        quality.begin(models.current.encoder.bundle)

        def hand_on(frame: EncodedFrame) -> None:
            """Count here, not in the worker: a batch given up while encoded is a drop instead."""
            metrics.patches_encoded.inc(frame.patches)
            realtime.add(frame.patches)
            frames.put(frame)

        boot_id, repair = secrets.randbits(32), link.repair.policies

        def adapt(loss: float) -> None:
            """Side information keeps all of its repair packets: a tile waits for it."""
            repair[Channel.PATCH] = link.repair.policies[Channel.PATCH].at(loss)

        segmenters = {
            level: Segmenter(
                boot_id=boot_id if level is Level.NORMAL else secrets.randbits(32),
                apid=apid,
                mtu_bytes=link.mtu_bytes - settings.security.seal_bytes,
                repair=repair,
            )
            for level, apid in link.apids.items()
        }
        worker = EncodeWorker(metrics, quality.offer)
        stages: list[Source | Stage[Any, Any]] = [
            line.source("ingest", ingest.poll, ingest.pending),
            line.stage("patches", patcher, tiles, opened.put),
            line.stage("batches", gather, opened, batches.put),
            line.stage("encode", worker, batches, hand_on),
            line.stage("packets", PacketWorker(segmenters, clock), frames, packets.put),
            line.stage("spool", SpoolWorker(self.spool, clock, metrics, note), packets, None),
        ]
        packet_bits = 8 * link.mtu_bytes
        if sender is not None:
            downlink = Downlink(
                spool,
                sender,
                plan,
                packet_bits=packet_bits,
                clock=clock,
                metrics=metrics,
                seal_bytes=settings.security.seal_bytes,
                beacons=_beacons(link.uplink, boot_id, clock, notes),
                orders=orders,
            )
            stages.append(line.source("downlink", downlink.poll, downlink.pending))
        if uplink is not None:
            commands = CommandReceiver(
                uplink,
                spool,
                orders,
                unseal=unseal,
                on_loss=adapt,
                apid=link.apid,
                packet_bits=packet_bits,
                max_octaves=model.most_ordered_octaves,
                models=models,
                metrics=metrics,
            )
            stages.append(line.source("commands", commands.poll, lambda: False))
        stages.append(line.source("models", models.poll, lambda: False))
        self.stages = (*stages, *quality.stages)

    def start(self) -> None:
        """Start all stages, the last one first."""
        for stage in reversed(self.stages):
            stage.start()

    def summary(self) -> str:
        """One line for people."""
        return f"{self.spool.packets} packets wait for the link"


def _models(settings: FlightModelSettings, clock: Clock, metrics: FlightMetrics) -> Models:
    """Load the model to begin with, and be ready for others."""
    parts = settings, metrics.timer, metrics.runs_on_another
    return Models(
        settings.bundle,
        load=partial(load_model, *parts),
        make=lambda bundle, path: make_model(bundle, *parts, origin=path),
        store=open_store(settings.store),
        watch=settings.store.watch,
        test_s=settings.self_test_s,
        clock=clock,
        metrics=metrics,
    )


def _count_drop(metrics: FlightMetrics, stage: str, item: Item, reason: str) -> None:
    """Count what is lost in or before a stage: patches, and tiles whole or by their side."""
    metrics.dropped_patches.labels(stage, reason).inc(item.patches)
    side = isinstance(item, EncodedFrame | FramePackets) and item.channel is Channel.SIDE
    if side or isinstance(item, ReceivedTile):
        metrics.dropped_tiles.labels(stage, reason).inc()


def _unheard(*_: object) -> None:
    """Where nobody needs to know."""


def _beacons(
    uplink: FlightUplinkSettings | None, boot_id: int, clock: Clock, notes: NoteQueue | None
) -> Beacons | None:
    if uplink is None:
        return None
    apid, every_s = uplink.housekeeping_apid, uplink.beacon_s
    return Beacons(boot_id=boot_id, apid=apid, every_s=every_s, clock=clock, notes=notes)


def _limits(settings: FlightSettings) -> TileLimits:
    instrument = settings.instrument
    return TileLimits(
        max_bands=instrument.limits.max_bands,
        max_rows=instrument.limits.max_rows,
        max_cols=instrument.limits.max_cols,
        max_bytes=instrument.max_message_mib * MIB,
    )
