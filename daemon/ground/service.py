"""The ground process: builds the stages, joins them by mailboxes, and ends them in order.

receive │ collect │ decode │ mosaic │ write
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from codec.bundle import load_bundle
from codec.decoder import Decoder
from codec.errors import BundleError
from daemon.clock import Clock
from daemon.config import GroundSettings
from daemon.config_sections import MIB, MailboxSettings
from daemon.errors import ConfigError
from daemon.ground.collect import CollectWorker
from daemon.ground.decode import DecodeWorker
from daemon.ground.items import CollectedFrame, RestoredTile, TilePart
from daemon.ground.mosaic import MosaicWorker
from daemon.ground.receive import Receiver
from daemon.ground.write import WriteWorker
from daemon.lifecycle import StopSignal, shut_down
from daemon.link.packet import Packet
from daemon.link.reassembly import Reassembler
from daemon.link.sequence import SequenceTracker
from daemon.link.sockets import Endpoint, PacketListener
from daemon.mailbox import Mailbox
from daemon.metrics import GroundMetrics, new_registry, serve
from daemon.stage import Source, Stage, Worker

log = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")


def run(settings: GroundSettings, *, stop: StopSignal, clock: Clock) -> dict[str, float]:
    """Run until asked to stop, then write what arrived.

    Returns:
        Every metric's final value, as `GroundMetrics.totals` has them.

    Raises:
        ConfigError: If a bundle cannot be used.
        AddressError: If a socket or the metrics endpoint cannot be opened.
        OutputError: If the output directory cannot be made.
    """
    metrics = GroundMetrics(new_registry())
    decoders = _load_decoders(settings)
    server = serve(metrics.registry, settings.metrics.address, settings.metrics.port)
    link = settings.link
    listener = PacketListener(Endpoint(address=link.address, bind=link.bind))
    try:
        stages = _line(settings, decoders, listener, clock, metrics)
        for stage in reversed(stages):
            stage.start()
        log.info("ready", extra={"models": ",".join(name.hex() for name in decoders)})
        stop.wait()
        late = shut_down(stages, deadline_s=settings.shutdown_deadline_s, clock=clock)
        log.info("stopped", extra={"late": ",".join(late) or "none"})
        return metrics.totals()
    finally:
        listener.close()
        server.close()


def _load_decoders(settings: GroundSettings) -> dict[bytes, Decoder]:
    decoders = {}
    for path in settings.model.bundles:
        try:
            bundle = load_bundle(path)
            decoders[bundle.model] = Decoder(bundle)
        except BundleError as error:
            raise ConfigError(path, (f"model.bundles: {error}",)) from None
    return decoders


def _line(
    settings: GroundSettings,
    decoders: Mapping[bytes, Decoder],
    listener: PacketListener,
    clock: Clock,
    metrics: GroundMetrics,
) -> tuple[Source | Stage[Any, Any], ...]:
    """The stages of the ground process in the direction of the data."""

    def mailbox(name: str, bounds: MailboxSettings, size_of: Callable[[Any], int]) -> Mailbox[Any]:
        made: Mailbox[Any] = Mailbox(
            name,
            max_items=bounds.max_items,
            max_bytes=bounds.max_bytes,
            max_age_s=bounds.max_age_s,
            policy=bounds.policy,
            clock=clock,
            size_of=size_of,
            on_drop=_dropping(name, metrics),
        )
        metrics.watch(made)
        return made

    def stage(
        name: str, worker: Worker[In, Out], inbox: Mailbox[In], deliver: Callable[[Out], object]
    ) -> Stage[In, Out]:
        return Stage(
            name,
            worker,
            inbox,
            deliver,
            tick_s=0.1,
            clock=clock,
            observer=metrics,
            on_drop=_dropping(name, metrics),
        )

    boxes, collect = settings.mailboxes, settings.collect
    packets: Mailbox[Packet] = mailbox("packets", boxes.packets, lambda packet: len(packet.data))
    frames: Mailbox[CollectedFrame] = mailbox("frames", boxes.frames, lambda f: f.size_bytes)
    parts: Mailbox[TilePart] = mailbox("patches", boxes.patches, lambda part: part.size_bytes)
    tiles: Mailbox[RestoredTile] = mailbox("tiles", boxes.tiles, lambda tile: tile.size_bytes)
    receiver = Receiver(listener, SequenceTracker(), packets.put, metrics=metrics)
    decoder = DecodeWorker(
        decoders,
        max_parked_bytes=collect.max_mib * MIB,
        max_age_s=settings.tile_deadline_s,
        clock=clock,
        metrics=metrics,
    )
    mosaic = MosaicWorker(
        deadline_s=settings.tile_deadline_s,
        max_tile_bytes=boxes.tiles.max_bytes,
        clock=clock,
        metrics=metrics,
    )
    reassembler = Reassembler(
        max_frames=collect.max_frames,
        max_bytes=collect.max_mib * MIB,
        max_age_s=collect.max_age_s,
    )
    writer = WriteWorker(settings.output.directory, settings.output.format, metrics)
    return (
        Source("receive", receiver.poll, clock=clock, observer=metrics),
        stage("collect", CollectWorker(reassembler, clock, metrics), packets, frames.put),
        stage("decode", decoder, frames, parts.put),
        stage("mosaic", mosaic, parts, tiles.put),
        stage("write", writer, tiles, lambda path: log.info("written", extra={"file": path.name})),
    )


def _dropping(place: str, metrics: GroundMetrics) -> Callable[[Any, str], None]:
    """Count what is lost at a place, in the unit it is lost in."""

    def count(item: Packet | CollectedFrame | TilePart | RestoredTile, reason: str) -> None:
        match item:
            case Packet():
                metrics.dropped_packets.labels(place, reason).inc()
            case CollectedFrame():
                metrics.dropped_frames.labels(place, reason).inc()
            case TilePart():
                metrics.dropped_patches.labels(place, reason).inc()
            case RestoredTile():
                metrics.dropped_tiles.labels(place, reason).inc()

    return count
