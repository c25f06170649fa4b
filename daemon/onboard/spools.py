"""The spool that the settings ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

from daemon.clock import Clock
from daemon.config import FlightSettings
from daemon.config_downlink import SpoolSettings
from daemon.config_sections import MIB
from daemon.metrics import FlightMetrics
from daemon.onboard.disk_spool import DiskSpool, DiskSpoolLimits
from daemon.onboard.spool import MemorySpool, Spool, SpooledPacket

log = logging.getLogger(__name__)


def make_spool(
    settings: FlightSettings, clock: Clock, metrics: FlightMetrics, loading: Callable[[], object]
) -> Spool:
    """Open the spool, and have its metrics tell how it does; `loading` is called meanwhile."""

    def count(_packet: SpooledPacket, reason: str) -> None:
        metrics.spool_dropped_packets.labels(reason).inc()

    chosen, limit = settings.spool, settings.spool.max_mib * MIB
    acknowledged = settings.link.uplink is not None
    spool: Spool
    if chosen.kind == "disk" and chosen.directory is not None:
        start_s = clock.monotonic_s()
        spool = disk = DiskSpool(
            chosen.directory,
            limits=_limits_of(chosen),
            clock=clock,
            on_drop=count,
            acknowledged=acknowledged,
            on_file=loading,
        )
        found, took_s = asdict(disk.recovery), clock.monotonic_s() - start_s
        log.info("spool opened", extra={**found, "seconds": round(took_s, 3)})
        metrics.spool_recovered_packets.set(disk.recovery.records)
        metrics.spool_skipped_bytes.set(disk.recovery.skipped_bytes)
        metrics.spool_unreadable_files.set(disk.recovery.unreadable)
        metrics.spool_degraded.set_function(lambda: float(disk.degraded is not None))
    else:
        spool = MemorySpool(max_bytes=limit, clock=clock, on_drop=count, acknowledged=acknowledged)
    metrics.spool_limit_bytes.set(limit)
    metrics.spool_kept_frames.set_function(lambda: spool.kept_frames)
    metrics.spool_packets.set_function(lambda: spool.packets)
    metrics.spool_bytes.set_function(lambda: spool.used_bytes)
    metrics.spool_oldest_age.set_function(lambda: spool.oldest_age_s)
    return spool


def _limits_of(chosen: SpoolSettings) -> DiskSpoolLimits:
    return DiskSpoolLimits(
        max_bytes=chosen.max_mib * MIB,
        max_memory_bytes=chosen.max_memory_mib * MIB,
        segment_bytes=chosen.segment_mib * MIB,
        sync_packets=chosen.sync_packets,
        sync_s=chosen.sync_ms / 1000,
        retry_s=chosen.retry_s,
    )
