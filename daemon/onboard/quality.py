"""Some patches are decoded again on board, and compared: whether what is sent is worth sending.

Now and then a patch that is encoded is handed to a stage of its own, beside the line. One may wait;
another that comes meanwhile is skipped and counted: the line waits for nothing.

Beside the wavelet a flight bundle is enough. Coefficients are not restored then, as they are on the
ground: on the EnMAP patch that ships PSNR is 0.02 dB lower, and the largest error the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.errors import BitstreamError, BundleError
from codec.frame import PatchFrame, SideFrame, parse
from codec.quality import max_abs_error, psnr_db
from codec.tile import Samples, Tile
from daemon.clock import Clock
from daemon.mailbox import DROP_REASONS, Mailbox, Policy
from daemon.metrics import FlightMetrics
from daemon.onboard.items import OpenedPatch
from daemon.stage import KeepsNothing, Stage
from daemon.watchdog import Pulses

log = logging.getLogger(__name__)

STAGE: Final = "quality"
LOSSLESS_DB: Final = 150.0
"""Told of a patch that came back as it was: an infinite value would spoil every sum."""
OnResult: TypeAlias = Callable[[bytes, int, int, float, float], object]
"""Told tile_id, row, col, psnr_db [dB] and max_abs_error [units of samples] of a patch."""
_MAX_BYTES: Final = 256 << 20
"""Of the samples that wait: no patch is larger."""
_TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedPatch:
    """A patch with what was made of it.

    Attributes:
        bundle: The model that encoded it.
        samples: As the instrument sent them, shape (bands, rows, cols); not a view of the tile.
        side: The tile's side frame.
        frame: The patch frame.
    """

    bundle: Bundle = field(repr=False)
    samples: Samples = field(repr=False)
    side: bytes = field(repr=False)
    frame: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of its samples."""
        return self.samples.nbytes


class QualityWorker(KeepsNothing):
    """Decodes patches, and measures how far they are from what came in.

    Args:
        metrics: Told what was found.
        on_result: Told likewise, patch by patch; `LOSSLESS_DB` at most. Must not wait.
    """

    def __init__(self, metrics: FlightMetrics, on_result: OnResult = lambda *_: None) -> None:
        self._metrics, self._on_result = metrics, on_result
        self._bundle: Bundle | None = None
        self._decoder: Decoder | None = None

    def use(self, bundle: Bundle) -> None:
        """Decode by this model from now on; where it lacks what that takes, say so."""
        try:
            self._decoder = Decoder(bundle, restores=bundle.has_synthesis)
        except BundleError as error:
            self._decoder = None
            log.warning("quality is not checked on board", extra={"why": str(error)})
        self._bundle = bundle
        self._metrics.quality_available.set(self._decoder is not None)

    def accept(self, item: EncodedPatch) -> tuple[()]:
        """Check one patch; the first one of another model loads what decodes it.

        Raises:
            BitstreamError: If it does not decode: it would not on the ground either.
        """
        if item.bundle is not self._bundle:
            self.use(item.bundle)
        if self._decoder is None:
            return ()
        side, patch = parse(item.side), parse(item.frame)
        if not isinstance(side, SideFrame) or not isinstance(patch, PatchFrame):
            raise BitstreamError("a side frame and a patch frame were expected")
        restored = self._decoder.decode_patch(side, patch).samples
        valid = Tile(samples=item.samples, info=side.info).valid()
        valid[~side.valid_bands] = False
        found_db = psnr_db(item.samples, restored, valid, side.info.reflectance_scale)
        self._metrics.quality_checked.inc()
        if not math.isnan(found_db):
            told_db, error = (
                min(found_db, LOSSLESS_DB),
                max_abs_error(item.samples, restored, valid),
            )
            self._metrics.quality_psnr.observe(told_db)
            self._metrics.quality_max_error.observe(error)
            self._on_result(patch.tile_id, patch.patch_row, patch.patch_col, told_db, error)
        return ()


class QualityCheck:
    """Takes every so manyth patch, if there is something to decode it with.

    Args:
        every: Of how many patches one is checked; 0: none is.
        clock: For the stage.
        metrics: Told what was found, and what was not looked at.
        on_result: As of `QualityWorker`.

    Attributes:
        stages: The stage, for `daemon.lifecycle.shut_down`; none where nothing is checked.
    """

    def __init__(
        self,
        every: int,
        *,
        clock: Clock,
        metrics: FlightMetrics,
        on_result: OnResult = lambda *_: None,
    ) -> None:
        self._every, self._seen, self._metrics = every, 0, metrics
        self._worker = QualityWorker(metrics, on_result)
        self._inbox: Mailbox[EncodedPatch] = Mailbox(
            STAGE,
            max_items=1,
            max_bytes=_MAX_BYTES,
            max_age_s=None,
            policy=Policy.DROP_NEWEST,
            clock=clock,
            size_of=lambda patch: patch.size_bytes,
            on_drop=self._give_up,
        )
        stage: Stage[EncodedPatch, object] = Stage(
            STAGE,
            self._worker,
            self._inbox,
            None,
            tick_s=_TICK_S,
            clock=clock,
            observer=metrics,
            # Its own: systemd shall not end a board on account of a check that hangs.
            pulses=Pulses(clock),
            on_drop=self._give_up,
        )
        self.stages = (stage,) if every else ()

    def begin(self, bundle: Bundle) -> None:
        """Load what decodes by the first model, before there is a patch to wait for that."""
        if self.stages:
            self._worker.use(bundle)

    def offer(self, opened: OpenedPatch, frame: bytes) -> None:
        """Show a patch that is encoded; most are not looked at, and none is waited for."""
        if not self.stages:
            return
        self._seen = (self._seen + 1) % self._every
        if self._seen != 0:
            return
        if self._inbox.items:  # not to be copied in vain
            self._metrics.quality_skipped.inc()
            return
        # A copy: a view would keep its tile in memory, which the bounds of mailboxes know not of.
        samples, bundle = np.array(opened.job.samples), opened.model.encoder.bundle
        side = opened.side_frame
        self._inbox.put(EncodedPatch(bundle=bundle, samples=samples, side=side, frame=frame))

    def _give_up(self, _: EncodedPatch, reason: str) -> None:
        """Of the mailbox's reasons, all that can be said is that nobody looked."""
        if reason in DROP_REASONS:
            self._metrics.quality_skipped.inc()
        else:
            self._metrics.quality_failures.labels(reason).inc()
