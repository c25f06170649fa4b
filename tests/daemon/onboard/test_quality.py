"""What is encoded is decoded on board now and then, beside the line and never in its way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.decoder import Decoder
from codec.encoder import Encoder
from codec.errors import BitstreamError, PayloadError
from codec.quality import max_abs_error, psnr_db
from codec.tile import Tile
from daemon.clock import SystemClock
from daemon.mailbox import SHUTDOWN
from daemon.metrics import FlightMetrics, new_registry
from daemon.onboard.items import OpenedPatch
from daemon.onboard.models import Model
from daemon.onboard.quality import LOSSLESS_DB, EncodedPatch, QualityCheck, QualityWorker
from daemon.onboard.steps import StepControl
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle
from fakes.cubes import tile as fake_tile
from fakes.processes import until


def encoded(
    bundle: Bundle, tile: Tile, step: float | None = None
) -> list[tuple[OpenedPatch, bytes]]:
    """Every patch of a tile with its frame."""
    encoder = Encoder(bundle, backend="torch-cpu")
    model = Model(encoder, StepControl(encoder), Path("test.safetensors"))
    job = encoder.open(tile, step)
    opened = [
        OpenedPatch(job=patch, model=model, received_s=0.0, side_frame=job.side_frame)
        for patch in job.patches
    ]
    return list(zip(opened, encoder.encode_batch(job.patches), strict=True))


def checked(opened: OpenedPatch, frame: bytes) -> dict[str, float]:
    """What a worker tells of one patch."""
    metrics = FlightMetrics(new_registry())
    item = EncodedPatch(
        bundle=opened.model.encoder.bundle,
        samples=opened.job.samples,
        side=opened.side_frame,
        frame=frame,
    )
    assert QualityWorker(metrics).accept(item) == ()
    return metrics.totals()


@pytest.mark.parametrize(
    "bundle",
    [klt_bundle().for_flight(), klt_bundle("dct"), branch_bundle(), minmax_bundle()],
    ids=["wavelet flight", "dct", "wavelet", "minmax"],
)
def test_what_is_told_is_what_the_ground_gets(bundle: Bundle) -> None:
    """PSNR and largest error as `codec.quality` has them, of the valid samples alone."""
    tile = fake_tile(bands=5, rows=140, cols=40, nodata=-7.0)
    samples = np.array(tile.samples)
    samples[:, :9, :9] = -7
    samples[3] = -7  # a band that is not there
    tile = replace(tile, samples=samples)
    restored = Decoder(bundle, restores=bundle.has_synthesis)
    patches = encoded(bundle, tile)
    encoder = Encoder(bundle, backend="torch-cpu")
    whole = restored.decode(encoder.encode(tile)).samples
    for opened, frame in patches:
        told = checked(opened, frame)
        part = (slice(None), *opened.job.extent.slices)
        valid, peak = tile.valid()[part], tile.info.reflectance_scale
        assert told["prismlink_quality_psnr_db_sum"] == pytest.approx(
            psnr_db(samples[part], whole[part], valid, peak)
        )
        assert told["prismlink_quality_max_error_sum"] == max_abs_error(
            samples[part], whole[part], valid
        )
        assert told["prismlink_quality_checked_total"] == 1
    assert len(patches) == 2


def test_what_is_lossless_spoils_no_sum() -> None:
    """It counts as very good, and not as infinite; what has no valid sample is not measured."""
    flat = fake_tile(bands=3, rows=8, cols=8)
    flat = replace(flat, samples=np.full_like(flat.samples, 1000))
    ((opened, frame),) = encoded(klt_bundle(), flat, step=0.5)
    told = checked(opened, frame)
    assert told["prismlink_quality_psnr_db_sum"] == LOSSLESS_DB
    assert told["prismlink_quality_max_error_sum"] == 0

    info = replace(flat.info, nodata=1000.0)
    for opened, frame in encoded(klt_bundle(), replace(flat, info=info)):
        told = checked(opened, frame)
        assert told["prismlink_quality_checked_total"] == 1
        assert told["prismlink_quality_psnr_db_count"] == 0


def test_each_result_is_told_with_its_place() -> None:
    """What comes down of it is what metrics have; of what has no valid sample nothing is told."""
    told = list[tuple[object, ...]]()
    tile = fake_tile(bands=3, rows=140, cols=8, nodata=-7.0)
    samples = np.array(tile.samples)
    samples[:, 128:] = -7
    metrics = FlightMetrics(new_registry())
    worker = QualityWorker(metrics, lambda *result: told.append(result))
    for opened, frame in encoded(klt_bundle(), replace(tile, samples=samples)):
        worker.accept(
            EncodedPatch(
                bundle=opened.model.encoder.bundle,
                samples=opened.job.samples,
                side=opened.side_frame,
                frame=frame,
            )
        )
    totals = metrics.totals()
    psnr, error = (totals[f"prismlink_quality_{name}_sum"] for name in ("psnr_db", "max_error"))
    assert told == [(tile.info.tile_id, 0, 0, psnr, error)]
    assert totals["prismlink_quality_checked_total"] == 2


@pytest.mark.parametrize("swapped", [True, False], ids=["swapped", "damaged"])
def test_what_does_not_decode_is_an_error(*, swapped: bool) -> None:
    """The ground could not decode it either."""
    ((opened, frame),) = encoded(klt_bundle(), fake_tile(bands=3, rows=8, cols=8))
    if swapped:
        opened, frame = replace(opened, side_frame=frame), opened.side_frame
    else:
        frame = frame[:-1] + bytes([frame[-1] ^ 1])
    with pytest.raises(BitstreamError):
        checked(opened, frame)


class Rig:
    """A check whose stage runs, or does not yet."""

    def __init__(self, every: int = 1, bundle: Bundle | None = None) -> None:
        self.metrics = FlightMetrics(new_registry())
        self.check = QualityCheck(every, clock=SystemClock(), metrics=self.metrics)
        bundle = bundle or klt_bundle().for_flight()
        self.check.begin(bundle)
        bands = bundle.conditioner.components
        (self.patch,) = encoded(bundle, fake_tile(bands=bands, rows=8, cols=8))

    def offer(self, times: int = 1) -> None:
        """Show the same patch."""
        for _ in range(times):
            self.check.offer(*self.patch)

    def start(self) -> None:
        """Let the stage run."""
        for stage in self.check.stages:
            stage.start()

    def close(self) -> None:
        """End it."""
        for stage in self.check.stages:
            stage.stop_intake()
            stage.drain(60.0)

    def told(self, name: str) -> float:
        """Sum over all series of a metric."""
        totals = self.metrics.totals()
        return sum(v for k, v in totals.items() if k.partition("{")[0] == f"prismlink_{name}")


@pytest.fixture
def rig() -> Iterator[Rig]:
    """One that looks at every patch."""
    made = Rig()
    yield made
    made.close()


def test_one_of_so_many_is_looked_at() -> None:
    """The third, the sixth, the ninth, as the settings say."""
    rig = Rig(every=3)
    rig.start()
    try:
        for number in range(1, 12):
            rig.offer()
            until(lambda n=number: rig.told("quality_checked_total") == n // 3, "a check")
    finally:
        rig.close()
    assert rig.told("quality_skipped_total") == 0
    assert rig.told("quality_available") == 1


def test_the_line_waits_for_nothing(rig: Rig) -> None:
    """While one is looked at one waits; all others are counted, and nothing of them is kept."""
    rig.offer(10)  # the stage does not run: whoever waited would wait for ever
    assert rig.told("quality_skipped_total") == 9
    rig.start()
    until(lambda: rig.told("quality_checked_total") == 1, "the one that waited")


def test_the_tile_is_not_kept(rig: Rig) -> None:
    """What waits is a copy of the patch: of its tile the mailboxes know nothing."""
    rig.offer()
    item = rig.check._inbox.get(0.0)
    assert item is not None
    assert item.samples.base is None
    assert item.size_bytes == rig.patch[0].job.size_bytes


@pytest.mark.parametrize(
    ("error", "reason"), [(PayloadError("in test"), "payload"), (MemoryError(), "internal_error")]
)
def test_a_failure_is_counted_and_the_line_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    """By its reason; the next patch is looked at as if nothing had been."""

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(Decoder, "decode_patch", fail)
        rig.start()
        rig.offer()
        until(lambda: rig.told("quality_failures_total") == 1, "the failure")
    totals = rig.metrics.totals()
    assert totals[f'prismlink_quality_failures_total{{reason="{reason}"}}'] == 1
    rig.offer()
    until(lambda: rig.told("quality_checked_total") == 1, "the next one")


def test_what_is_given_up_at_the_end_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that hangs is abandoned at the end; nothing is known of its patch."""
    called, go_on = threading.Event(), threading.Event()

    def hang(*_: object) -> Any:
        called.set()
        go_on.wait()
        raise PayloadError("in test")

    monkeypatch.setattr(Decoder, "decode_patch", hang)
    rig = Rig()
    rig.start()
    rig.offer()
    assert called.wait(60.0)
    rig.offer()
    (stage,) = rig.check.stages
    stage.stop_intake()
    assert not stage.drain(0.01)
    stage.abandon()
    stage.settle(0.01)
    assert (rig.told("quality_failures_total"), rig.told("quality_skipped_total")) == (0, 2)
    go_on.set()
    stage.drain(60.0)
    assert SHUTDOWN not in str(rig.metrics.totals())


@pytest.mark.parametrize("bundle", [klt_bundle("dct"), minmax_bundle()], ids=["dct", "minmax"])
def test_a_flight_bundle_may_lack_what_it_takes(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """Then one line and a gauge say so, and nothing is looked at."""
    with caplog.at_level(logging.INFO):
        rig = Rig(bundle=bundle.for_flight())
        rig.start()
        for _ in range(3):
            rig.offer()
            until(lambda: rig.check._inbox.items == 0, "the stage")
        rig.close()

    assert rig.told("quality_available") == 0
    assert rig.told("quality_skipped_total") == 0
    (line,) = caplog.records
    assert line.getMessage() == "quality is not checked on board"
    assert "flight bundle" in line.__dict__["why"]


def test_nobody_has_to_look() -> None:
    """With 0 there is no stage, and no decoder."""
    rig = Rig(every=0)
    rig.offer(3)

    assert rig.check.stages == ()
    assert rig.told("quality_available") == 0
    assert rig.told("quality_skipped_total") == 0


def test_another_model_may_take_over(rig: Rig) -> None:
    """In flight: each patch is decoded by the model that encoded it, whichever that is."""
    others = encoded(branch_bundle(), fake_tile(bands=3, rows=8, cols=8))
    rig.start()
    for number, patch in enumerate((rig.patch, *others, rig.patch), start=1):
        rig.check.offer(*patch)
        until(lambda n=number: rig.told("quality_checked_total") == n, "a check")
    assert rig.told("quality_failures_total") == 0
