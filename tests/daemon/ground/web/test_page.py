"""The page as a whole: it shows what stages tell, and whatever fails in it, they do not notice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.clock import SystemClock
from daemon.config_web import WebSettings
from daemon.errors import AddressError
from daemon.ground.metrics import GroundMetrics
from daemon.ground.notes import QualityNotes
from daemon.ground.web import watch
from daemon.ground.web.page import STAGE, WebPage
from daemon.ground.web.pass_log import FILE_NAME
from daemon.ground.write import WriteWorker
from daemon.link.quality_note import QualityNote
from daemon.metrics import new_registry
from fakes import cubes
from fakes.ground import parts_of
from fakes.ground import restored as with_records
from fakes.processes import until
from fakes.web import Visitor, restored

TILE = cubes.tile(bands=2, rows=130, cols=9, scene="s")
PARTS = parts_of(TILE)

Open = Callable[..., tuple[WebPage, GroundMetrics]]


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Open]:
    """Opens a page; closes it."""
    opened: list[WebPage] = []

    def make(*, start: bool = True, **settings: Any) -> tuple[WebPage, GroundMetrics]:
        metrics = GroundMetrics(new_registry())
        page = WebPage(
            WebSettings(**settings),
            0,
            tmp_path,
            silence_s=5.0,
            has_uplink=False,
            beacon=lambda: None,
            metrics=metrics,
            clock=SystemClock(),
        )
        opened.append(page)
        if start:
            page.start()
        return page, metrics

    yield make
    for page in opened:
        page.close()


def state(page: WebPage) -> dict[str, Any]:
    """What it tells."""
    told: dict[str, Any] = json.loads(Visitor(page.port).get("/api/state").body)
    return told


def test_what_stages_tell_is_shown(open_page: Open, tmp_path: Path) -> None:
    """A tile opens, fills in, closes, and has files."""
    page, metrics = open_page()

    def tile(key: str) -> Any:
        """What is said of the only tile."""
        return next((one[key] for one in state(page).get("tiles", [])), None)

    for part in PARTS[:2]:
        page.part(part)
    until(lambda: tile("have") == "10", "a patch")
    page.closed(restored(TILE, parts=PARTS))
    until(lambda: tile("state") == "closed", "the tile to close")
    list(WriteWorker(tmp_path, "npy", metrics, on_written=page.written).accept(restored(TILE)))
    until(lambda: tile("state") == "written", "the tile to be written")
    assert tile("files")
    assert metrics.totals()["prismlink_web_dropped_total"] == 0


def test_quality_that_comes_late_is_shown(open_page: Open, tmp_path: Path) -> None:
    """A note after its tile was written: the tile is read again."""
    page, metrics = open_page()
    notes = QualityNotes()
    writer = WriteWorker(
        tmp_path, "npy", metrics, on_written=page.written, notes=notes, on_amended=page.amended
    )
    list(writer.accept(with_records(TILE)))
    until(lambda: state(page).get("tiles"), "the tile")
    assert state(page)["tiles"][0]["psnr_db"] is None
    for row, psnr_db in enumerate((40.0, 44.0)):
        notes.put(
            QualityNote(
                tile_id=TILE.info.tile_id, row=row, col=0, psnr_db=psnr_db, max_abs_error=2.0
            )
        )
    writer.tick()
    until(lambda: state(page)["tiles"][0]["psnr_db"] == 42.0, "its quality")
    assert state(page)["tiles"][0]["psnr_patches"] == 2


def test_stages_never_wait(open_page: Open) -> None:
    """A page that takes nothing loses the oldest, and counts it; memory stays within bounds."""
    page, metrics = open_page(start=False, max_mib=1)
    for _ in range(2000):
        page.part(PARTS[1])
    totals = metrics.totals()
    assert totals['prismlink_queue_items{queue="web"}'] <= 1024
    assert totals['prismlink_queue_bytes{queue="web"}'] <= 1 << 19
    assert (
        totals["prismlink_web_dropped_total"] == 2000 - totals['prismlink_queue_items{queue="web"}']
    )


def test_an_error_costs_one_item(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged and counted, and what comes after it is shown."""
    page, metrics = open_page()
    broken = threading.Event()

    def fail(*_: object) -> None:
        broken.set()
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(watch.TileBoard, "part", fail)
        page.part(PARTS[0])
        assert broken.wait(30.0)
    page.part(PARTS[1])
    until(lambda: state(page).get("tiles"), "the next part")
    totals = metrics.totals()
    assert totals[f'prismlink_stage_errors_total{{stage="{STAGE}",reason="internal_error"}}'] == 1
    assert totals["prismlink_web_dropped_total"] == 1


def test_a_port_in_use_is_told(open_page: Open, tmp_path: Path) -> None:
    """As for any other socket of the process."""
    page, metrics = open_page()
    with pytest.raises(AddressError, match="in use"):
        WebPage(
            WebSettings(), page.port, tmp_path, silence_s=5.0, has_uplink=False,
            beacon=lambda: None, metrics=metrics, clock=SystemClock(),
        )  # fmt: skip


def test_a_contact_outlives_the_process(open_page: Open, tmp_path: Path) -> None:
    """Cut off by the end, it is in the history of the next."""
    page, metrics = open_page()
    metrics.packets_received.labels("patch").inc(3)
    until(lambda: state(page)["link"]["state"] == "contact", "a contact")
    page.close()
    after, _ = open_page()
    assert [one["counts"]["packets"] for one in state(after)["passes"]] == [3]
    assert (tmp_path / FILE_NAME).is_file()
