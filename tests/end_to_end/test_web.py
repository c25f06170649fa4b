"""The ground's page in a real browser, over real processes; and visitors that mean harm."""

from __future__ import annotations

import json
import math
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from playwright.sync_api import Browser

from codec.tile import Georeference, Tile
from codec.tile_files import read_tile, write_tile
from daemon.ground.web.link_watch import LinkCounts, PassRecord
from daemon.ground.web.pass_log import FILE_NAME
from daemon.ground.write import MANIFEST, file_stem, manifest
from daemon.link.sockets import Endpoint, TileSender
from daemon.tile_message import TileMessage
from fakes import cubes
from fakes.browser import CONTRASTS, HATCHED, NAMELESS, Look, browser, look_at
from fakes.link import LinkFaults
from fakes.processes import PATIENCE_S, ROOT, Desk, Process, until
from fakes.relay import Hop, settings
from fakes.web import Visitor, restored

NM: Final = (
    *(430.0, 461.0, 552.0, 641.0, 702.0, 864.0, 940.0),
    *(1240.0, 1380.0, 1612.0, 2101.0, 2203.0),
)
ROWS: Final = 256
COLS: Final = 384
PATCH: Final = 128
PATCHES: Final = 6
LOSS: Final = 0.1
LONG_NAME: Final = "ENMAP01-____L2A-DT0000004950_20221103T162438Z"
STRIP_TILES: Final = 20
"""So many that no more than a part of them is in view once it is zoomed in."""
KBIT_PER_S: Final = 60
"""So that a patch takes seconds, and a page sees each of them come."""
LEAST_CONTRAST: Final = 4.5
"""WCAG 2.2, 1.4.3, level AA."""
STREAMS: Final = 1000
MOST_GROWTH_BYTES: Final = 64 << 20
MOST_FILES: Final = 64 + 16 + 40
"""Connections, and what the process has open anyway grows by a little."""


def a_tile(sequence: int = 0, *, rows: int = ROWS, cols: int = COLS, scene: str = "salton") -> Tile:
    """Several patches, wavelengths, a band without anything in it, and pixels without."""
    return cubes.tile(
        bands=len(NM), rows=rows, cols=cols, scene=scene, sequence=sequence, sensor="fake",
        wavelengths_nm=NM, nodata=-9999.0, fill_bands=(8,), noise_dn=40.0,
    )  # fmt: skip


@pytest.fixture
def chromium(requires_tool: Callable[[str], str]) -> Iterator[Browser]:
    """Debian's browser."""
    with browser(requires_tool("chromium")) as started:
        yield started


class Station:
    """Board, radio and ground with a page.

    Args:
        desk: Starts them.
        bundle: The model.
        folder: For what they keep.
        kbit_per_s: What the link carries.
        web: More settings of the ground.
    """

    def __init__(
        self, desk: Desk, bundle: Path, folder: Path, *web: str, kbit_per_s: float = KBIT_PER_S
    ) -> None:
        here = desk.link.removeprefix("ipc://").rpartition("/")[0]
        down, up, told = (f"ipc://{here}/{name}" for name in ("down", "up", "told"))
        path = folder / "relay-settings.json"
        path.write_text(
            settings(
                seed=5,
                down=Hop(
                    source=down,
                    target=desk.link,
                    faults=LinkFaults(loss=LOSS, jitter_s=0.02),
                    bits_per_s=2e6,
                ),
                up=Hop(source=told, target=up, faults=LinkFaults(loss=LOSS), bits_per_s=2e6),
            )
        )
        self._desk, self._bundle, self._folder, self._web = desk, bundle, folder, web
        self._told, self._kbit_per_s = told, kbit_per_s
        self.ground = self.start_ground()
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        desk.start("relay", path, module="fakes.relay", env=env).until_ready()
        self.flight = desk.flight(
            bundle,
            *("spool.kind=disk", f"spool.directory={folder / 'spool'}", "link.mtu_bytes=512"),
            f"link.address={down}",
            f"link.uplink={{address: '{up}', beacon_s: 0.5}}",
            f"link.kbit_per_s={kbit_per_s}",
        ).until_ready()

    def start_ground(self) -> Process:
        """Start it, or start it again."""
        return self._desk.ground(
            self._bundle,
            *("web.port=0", f"web.kbit_per_s={self._kbit_per_s}", "output.format=geotiff"),
            f"link.uplink={{address: '{self._told}', report_s: 0.5, contact_s: 2.0}}",
            f"archive.directory={self._folder / 'archive'}",
            *self._web,
        ).until_ready()

    def send(self, *tiles: Tile) -> None:
        """Play the instrument."""
        with TileSender(Endpoint(address=self._desk.tiles, bind=False, linger_s=10)) as sender:
            for tile in tiles:
                assert sender.send(TileMessage.pack(tile), PATIENCE_S)


def address_of(ground: Process) -> str:
    """Of its page."""
    return f"http://{ground.events('ready')[0]['web']}/"


def visitor_of(ground: Process) -> Visitor:
    """A program that asks for things."""
    return Visitor(int(ground.events("ready")[0]["web"].rpartition(":")[2]))


def state_of(ground: Process) -> dict[str, Any]:
    """What it tells programs."""
    told: dict[str, Any] = json.loads(visitor_of(ground).get("/api/state").body)
    return told


def center(patch: int) -> tuple[int, int]:
    """The pixel in the middle of a patch, about."""
    row, col = divmod(patch, COLS // PATCH)
    return row * PATCH + PATCH // 2, col * PATCH + PATCH // 2


def hatched(look: Look, patch: int) -> bool:
    """Whether a patch is shown as one that has not come."""
    row, col = divmod(patch, COLS // PATCH)
    where = [row * PATCH, col * PATCH, PATCH, PATCH, ROWS, COLS]
    return bool(look.page.evaluate(HATCHED, where))


def click(look: Look, row: int, col: int) -> tuple[int, int]:
    """Click near a pixel of the scene, not zoomed; return the pixel that was hit."""
    box = look.page.locator("#canvas").bounding_box()
    assert box is not None
    factor = min(box["width"] / COLS, box["height"] / ROWS)
    left = box["x"] + (box["width"] - COLS * factor) / 2
    top = box["y"] + (box["height"] - ROWS * factor) / 2
    x, y = math.ceil(left + col * factor), math.ceil(top + row * factor)
    look.page.mouse.click(x, y)
    return math.floor((y - top) / factor), math.floor((x - left) / factor)


def spectrum_shown(look: Look, row: int, col: int) -> list[str]:
    """The samples in the table, once they are of that pixel."""
    look.until(
        "(text) => document.getElementById('spectrum-note').textContent === text",
        f"row {row}, column {col}",
    )
    return [cells[2] for cells in look.table("#values")]


def as_shown(samples: Any, nodata: float | None) -> list[str]:
    """Samples of a file in the words of the table."""
    return ["—" if value == nodata else str(value) for value in samples.tolist()]


def use_keys(look: Look, product: Tile) -> None:
    """Move the cursor from a pixel to another; select it; its spectrum is the file's."""
    row, col = click(look, 40, 90)
    spectrum_shown(look, row, col)
    look.page.focus("#canvas")
    step = int(look.page.evaluate(f"() => Math.max(1, Math.round({COLS} / "
                                  "document.getElementById('canvas').clientWidth))"))  # fmt: skip
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Shift+ArrowLeft"):
        look.page.keyboard.press(key)
    row, col = row + 2 * step, col + step - 10 * step
    assert look.text("#readout").startswith(f"row {row}, column {col}")
    look.page.keyboard.press("Enter")
    by_keys = spectrum_shown(look, row, col)
    assert by_keys == as_shown(product.samples[:, row, col], product.info.nodata)


def choose_bands(look: Look) -> None:
    """The image changes with the bands, and says which they are."""
    before = look.page.evaluate("() => document.getElementById('canvas').toDataURL()")
    look.page.get_by_role("button", name="Infrared").click()
    assert look.text(".slider.r output") == "864.0 nm"
    look.until("(was) => document.getElementById('canvas').toDataURL() !== was", before)
    look.page.get_by_label("Red: band number").fill("12")
    look.until("() => document.querySelector('.slider.r output').textContent.includes('2203')")


def check_counts(look: Look) -> None:
    """What was lost on the way came again, and the page says so."""
    rows = dict(zip(*(look.page.locator(f"#counts {kind}").all_inner_texts()
                      for kind in ("dt", "dd")), strict=True))  # fmt: skip
    asked, came = (int(number) for number in rows["Asked for again, came"].split(", "))
    assert asked >= came > 0
    assert int(rows["Patches decoded"]) == PATCHES


def check_next_process(chromium: Browser, again: Process) -> None:
    """It knows the scene and the pass of the one before."""
    until(lambda: state_of(again)["ids"], "the tiles of the process before")
    told = state_of(again)
    assert [tile["have"] for tile in told["tiles"]] == ["1" * PATCHES]
    assert [one["counts"]["patches"] for one in told["passes"]] == [PATCHES]
    look = look_at(chromium, address_of(again))
    look.until(f"() => document.getElementById('canvas').dataset.drawn === '{PATCHES}'")
    assert len(look.table("#passes")) == 1
    assert again.stop().total("stage_errors_total", stage="web") == 0


def test_a_pass_is_watched(
    chromium: Browser, desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """A scene fills in patch by patch over a link that loses; a pixel's spectrum is the file's.

    All that by mouse and by keys, without an error in the console, and without asking anybody
    else for anything. The next process knows the pass and the scene.
    """
    station = Station(desk, small_bundle, tmp_path)
    ground = station.ground
    look = look_at(chromium, address_of(ground))
    look.until("() => document.getElementById('status').textContent !== 'Connecting'")
    station.send(a_tile())

    look.until("() => ['1', '2', '3'].includes(document.getElementById('canvas').dataset.drawn)")
    filled = [patch for patch in range(PATCHES) if not hatched(look, patch)]
    (told,) = state_of(ground)["tiles"]
    assert 0 < len(filled) < PATCHES
    assert {told["have"][patch] for patch in filled} == {"1"}
    assert "of 6 patches" in look.text("#scene-note")
    assert look.text("#status").startswith("In contact since")
    assert "of the link's 60.0 kbit/s" in look.text("#budget")
    assert look.text("#plan") == "Time left: unknown"

    look.page.click("#values-box summary")
    row, col = click(look, *center(filled[0]))
    by_mouse = spectrum_shown(look, row, col)
    missing = next(patch for patch in range(PATCHES) if patch not in filled)
    click(look, *center(missing))
    if state_of(ground)["tiles"][0]["have"][missing] == "0":
        assert look.text("#spectrum-note") == "This pixel has not come."
        assert look.text("#readout").endswith(": has not come")

    look.until(f"() => document.getElementById('canvas').dataset.drawn === '{PATCHES}'")
    for patch in range(PATCHES):
        assert not hatched(look, patch), patch
    look.until("() => document.querySelectorAll('#products a').length > 0")
    (said,) = desk.manifests()
    product = read_tile(desk.cubes / said["file"])
    assert said["patches_missing"] == []
    assert by_mouse == as_shown(product.samples[:, row, col], product.info.nodata)
    assert by_mouse[8] == "—"
    assert [float(cells[1]) for cells in look.table("#values")] == list(NM)

    use_keys(look, product)
    choose_bands(look)
    check_counts(look)
    with look.page.expect_download() as download:
        look.page.click(f"#products a[href='/products/{said['file']}']")
    assert download.value.path().read_bytes() == (desk.cubes / said["file"]).read_bytes()
    assert look.problems == []
    origin = address_of(ground)
    assert [url for url in look.asked if not url.startswith(origin)] == []

    ground.stop()
    station.flight.stop()
    check_next_process(chromium, station.start_ground())


@pytest.fixture
def shown(desk: Desk, small_bundle: Path) -> Process:
    """A ground whose page has scenes to show, of a process before."""
    for number in range(12):
        tile = a_tile(number, rows=40, cols=50, scene=f"{LONG_NAME}_{number:03}")
        keep(desk, tile, ((0, 0),) if number == 3 else ())
    counts = LinkCounts(packets=12345, octets=123_400_000, patches=12345)
    record = PassRecord(begin_utc_s=1.7e9, end_utc_s=1.7e9 + 4000, counts=counts, loss=0.1234)
    (desk.cubes / FILE_NAME).write_text(f"{json.dumps(record.to_json())}\n" * 30)
    return desk.ground(small_bundle, "web.port=0").until_ready()


def keep(desk: Desk, tile: Tile, missing: tuple[tuple[int, int], ...] = ()) -> None:
    """Write a tile where the ground finds it at its start."""
    desk.cubes.mkdir(parents=True, exist_ok=True)
    path = write_tile(tile, desk.cubes / file_stem(tile.info), "npy")
    said = json.dumps(manifest(restored(tile, missing=missing), path.name))
    (desk.cubes / f"{file_stem(tile.info)}{MANIFEST}").write_text(said)


@pytest.fixture
def various(desk: Desk, small_bundle: Path) -> Process:
    """A ground whose page has a scene without wavelengths, and a strip with places on the map."""
    keep(desk, cubes.tile(bands=6, rows=40, cols=50, scene="nameless bands", sequence=0))
    for row in range(STRIP_TILES):
        place = Georeference(crs="EPSG:32633", transform=(30.0, 0.0, 4e5, 0.0, -30.0, 5e6 - row))
        tile = cubes.tile(
            bands=len(NM), rows=40, cols=50, scene="strip", sensor="fake", sequence=row + 1,
            tile_row=row, start_utc_s=1.7e9, wavelengths_nm=NM, georeference=place, seed=row,
        )  # fmt: skip
        keep(desk, tile)
    return desk.ground(small_bundle, "web.port=0").until_ready()


def open_shown(chromium: Browser, shown: Process, **given: Any) -> Look:
    """Its page with a spectrum."""
    look = look_at(chromium, address_of(shown), **given)
    look.until("() => document.getElementById('canvas').dataset.drawn === '1'")
    look.page.click("#canvas")
    look.until("() => document.querySelectorAll('#plot .series').length === 1")
    look.page.click("#values-box summary")
    return look


def test_everybody_can_use_it(chromium: Browser, shown: Process) -> None:
    """Every text has contrast, in light and dark; every control a name and a focus that is seen."""
    for scheme in ("light", "dark"):
        look = open_shown(chromium, shown, scheme=scheme)
        contrasts = look.page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert [one for one in contrasts if one[0] < LEAST_CONTRAST] == [], scheme
        assert look.page.evaluate(NAMELESS) == []
        assert look.page.evaluate("() => document.getAnimations().length") == 0
        assert look.problems == []
    seen = list[str]()
    for _ in range(40):
        look.page.keyboard.press("Tab")
        name, outline = look.page.evaluate(
            "() => [document.activeElement.id || document.activeElement.className, "
            "parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"
        )
        if name:
            assert outline >= 2, name
            seen.append(name)
    assert {"canvas", "plot", "follow", "row", "number-r", "pin", "zoom-in"} <= set(seen)
    look.page.locator("button.row").nth(3).focus()
    look.page.keyboard.press("Enter")
    look.until(
        "(text) => document.getElementById('scene-title').textContent === text",
        look.page.locator("button.row").nth(3).inner_text(),
    )


def test_it_fits_a_desk_and_a_phone(chromium: Browser, shown: Process) -> None:
    """At 1366×768 it is one screen; at 375 px nothing is to be scrolled sideways."""
    look = open_shown(chromium, shown)
    size = "() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    assert look.page.evaluate(size) == [1366, 768]
    look = open_shown(chromium, shown, width=375, height=812)
    assert look.page.evaluate(size)[0] == 375
    wide = """() => [...document.querySelectorAll("main *")].filter((node) =>
      node.checkVisibility() && !node.closest(".scroll, svg")
      && node.getBoundingClientRect().right > innerWidth + 0.5).map((node) => node.outerHTML)"""
    assert look.page.evaluate(wide) == []
    assert look.problems == []


WIDER: Final = """() =>
  [...document.querySelectorAll(".passes .scroll, .scenes .scroll, button.row")]
    .filter((node) => node.scrollWidth > node.clientWidth)
    .map((node) => node.outerHTML.slice(0, 200))"""
"""What has to be scrolled sideways, or is cut off."""


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
def test_tables_are_whole(chromium: Browser, shown: Process, width: int, height: int) -> None:
    """Names of scenes as long as EnMAP's and the longest passes lose nothing, on desk or phone."""
    look = open_shown(chromium, shown, width=width, height=height)
    assert look.page.evaluate(WIDER) == []
    assert len(look.table("#passes")) == 30
    name = look.page.locator("button.row").nth(2)
    assert name.inner_text().startswith(LONG_NAME)
    assert name.inner_text() in (name.get_attribute("title") or "")


SCENE_IS: Final = "(name) => document.getElementById('scene-title').textContent === name"
AXIS: Final = "() => [...document.querySelectorAll('#plot text')].map((node) => node.textContent)"
CUT: Final = """() => {
  const plot = document.getElementById("plot").getBoundingClientRect();
  return [...document.querySelectorAll("#plot text")].filter((node) => {
    const box = node.getBoundingClientRect();
    return box.left < plot.left || box.right > plot.right || box.bottom > plot.bottom + 1;
  }).map((node) => node.textContent);
}"""
"""Texts of the plot that reach beyond it."""


def choose_scene(look: Look, name: str, tiles: int) -> None:
    """Show another scene; wait until all of it is drawn."""
    look.page.get_by_role("button", name=name).click()
    look.until(SCENE_IS, name)
    look.until(f"() => document.getElementById('canvas').dataset.drawn === '{tiles}'")


def check_band_fields(look: Look) -> None:
    """What is no band is marked and said, and changes nothing; the next band takes that away."""
    field, said = look.page.get_by_label("Red: band number"), ".slider.r output"
    before = look.text(said)
    for wrong in ("999", "-3", "", "2.5", "0"):
        field.fill(wrong)
        assert field.get_attribute("aria-invalid") == "true", wrong
        assert look.text(said) == f"No such band: 1 to {len(NM)}. Shown is 4."
        assert [one for one in look.page.evaluate(CONTRASTS) if one[0] < LEAST_CONTRAST] == []
    look.page.get_by_label("Green: band number").fill("2")
    assert field.get_attribute("aria-invalid") == "true"
    field.fill("4")
    assert field.get_attribute("aria-invalid") is None
    assert look.text(said) == before


def check_what_is_asked(look: Look) -> None:
    """Zoomed in, other bands are asked for of the tiles in view alone; the rest later."""
    for _ in range(4):
        look.page.get_by_role("button", name="Zoom in").click()
    look.page.get_by_role("button", name="Shortwave").click()

    def asked() -> list[str]:
        """What was asked for of these bands."""
        return [url for url in look.asked if "/bands?r=11&g=9&b=5" in url]

    def so_many(count: int) -> bool:
        look.page.wait_for_timeout(50)  # meanwhile we are told
        return len(asked()) >= count

    until(lambda: so_many(1), "the first question")
    look.page.wait_for_timeout(1000)
    assert 0 < len(asked()) == len(set(asked())) < STRIP_TILES / 2
    look.page.get_by_role("button", name="Fit").click()
    look.until(f"() => document.getElementById('canvas').dataset.drawn === '{STRIP_TILES}'")
    until(lambda: so_many(STRIP_TILES), "all questions")
    assert len(asked()) == len(set(asked())) == STRIP_TILES


DRAWN_OF_FEWER: Final = """async () => {
  const { Viewer } = await import("/static/viewer.js");
  const { tiles } = await (await fetch("/api/state")).json();
  const strip = tiles.filter((tile) => tile.scene === "strip");
  const canvas = document.body.appendChild(document.createElement("canvas"));
  const viewer = new Viewer(canvas, {});
  viewer.show({ key: 0, tiles: strip }, [3, 2, 1]);
  while (viewer.drawn < strip.length) await new Promise((wake) => setTimeout(wake, 20));
  viewer.show({ key: 0, tiles: strip.slice(2) }, [3, 2, 1]);
  const drawn = viewer.drawn;
  canvas.remove();
  return drawn;
}"""
"""Patches drawn of a scene of which the ground tells two tiles no more."""


def test_the_page_follows_scene_and_cursor(chromium: Browser, various: Process) -> None:
    """Axis and bands are the scene's, the place is the cursor's, and lines are where bands are.

    Of tiles that the ground tells of no more nothing is kept.
    """
    look = look_at(chromium, address_of(various))
    choose_scene(look, "strip", STRIP_TILES)
    assert {"500", "1000", "1500", "2000", "Wavelength [nm]"} <= set(look.page.evaluate(AXIS))
    choose_scene(look, "nameless bands", 1)
    axis = look.page.evaluate(AXIS)
    assert axis[-2:] == ["Band", "Reflectance"]
    assert axis[-8:-2] == ["1", "2", "3", "4", "5", "6"]
    assert look.page.evaluate(CUT) == []
    choose_scene(look, "strip", STRIP_TILES)
    assert "Wavelength [nm]" in look.page.evaluate(AXIS)

    box = look.page.locator("#canvas").bounding_box()
    assert box is not None
    factor = box["height"] / (40 * STRIP_TILES)
    for about in (100, 700):
        x, y = box["x"] + box["width"] / 2, math.ceil(box["y"] + about * factor)
        look.page.mouse.move(x, y)
        row = math.floor((y - box["y"]) / factor)
        north = 5e6 - row // 40 - 30 * (row % 40 + 0.5)
        look.until(
            "(text) => document.getElementById('readout').textContent.includes(text)",
            f"y {north:.0f} (EPSG:32633)",
        )
        assert look.text("#readout").startswith(f"row {row}, column 2")
    look.page.mouse.click(x, y)
    look.until("() => document.querySelectorAll('#plot .series').length === 1")
    # Usual is a step of 102 nm: from 1612 to 2101 nm nothing was measured.
    path = look.page.get_attribute("#plot .series", "d") or ""
    assert [run.count("L") for run in path.split("M")[1:]] == [9, 1]
    assert look.page.evaluate(CUT) == []

    check_band_fields(look)
    check_what_is_asked(look)
    assert look.page.evaluate(DRAWN_OF_FEWER) == STRIP_TILES - 2
    assert look.problems == []


LOST: Final = "() => document.getElementById('status').textContent.startsWith('No answer')"
FOUND: Final = "() => document.getElementById('status').textContent === 'Nothing heard yet'"


def test_a_ground_that_is_gone_is_told(
    chromium: Browser, shown: Process, desk: Desk, small_bundle: Path
) -> None:
    """Whether it stands still or has ended: within seconds. The page finds it again by itself."""
    look = open_shown(chromium, shown)
    before = look.text("#clock")
    shown.suspend()
    look.until(LOST)
    since = look.text("#status").removeprefix("No answer from the ground since ")
    assert since >= before
    assert since == f"{look.text('#clock')} UTC"
    assert look.text("#wire") == "What is shown is old."
    assert [one for one in look.page.evaluate(CONTRASTS) if one[0] < LEAST_CONTRAST] == []
    look.page.click("#canvas")
    assert look.text("#spectrum-note") == "The ground does not answer."
    shown.resume()
    look.until(FOUND)
    look.page.click("#canvas")
    look.until("() => document.getElementById('spectrum-note').textContent.startsWith('row ')")
    assert look.problems == []

    port = address_of(shown).rpartition(":")[2].rstrip("/")
    shown.kill()
    look.page.click("#canvas")  # before the page itself has seen it
    look.until("() => document.getElementById('spectrum-note').textContent.endsWith('not answer.')")
    look.until(LOST)
    desk.ground(small_bundle, f"web.port={port}").until_ready()
    look.until(FOUND)
    assert look.text("#wire") == ""


def test_a_token_is_asked_for(
    chromium: Browser, desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """By a form; the right one opens the page, and the wrong one does not."""
    token = tmp_path / "web.token"
    token.write_text("deadbeef" * 8)
    token.chmod(0o600)
    ground = desk.ground(
        small_bundle, "web.port=0", "web.address=0.0.0.0", f"web.token_file={token}"
    ).until_ready()
    url = address_of(ground).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    look = look_at(chromium, url)
    assert look.page.url == f"{url}login"
    assert [one for one in look.page.evaluate(CONTRASTS) if one[0] < LEAST_CONTRAST] == []
    look.page.get_by_label("Token").fill("wrong")
    look.page.keyboard.press("Enter")
    look.page.wait_for_url(f"{url}login?wrong")
    assert look.page.get_by_role("alert").inner_text() == "This is not the token."
    look.page.get_by_label("Token").fill("deadbeef" * 8)
    look.page.keyboard.press("Enter")
    look.page.wait_for_url(url)
    look.until("() => document.getElementById('status').textContent === 'Nothing heard yet'")
    assert look.page.evaluate("() => document.cookie") == ""
    assert look.problems == []


def open_streams(visitor: Visitor, stack: ExitStack) -> int:
    """Ask for a thousand streams of events at once; return how many were opened."""
    opened = 0
    connections = list[socket.socket]()
    for _ in range(STREAMS):
        with suppress(OSError):
            connections.append(stack.enter_context(visitor.stream()))
    for connection in connections:
        with suppress(OSError):
            opened += connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    return opened


def harass(visitor: Visitor, token: str) -> None:
    """Everything that has no business here; each is refused."""
    given = {"authorization": f"Bearer {token}"}
    for target in (
        *("/products/../../../../etc/passwd", "/products/..%2f..%2fetc%2fpasswd", "/%00"),
        *("/static/%2e%2e/app.py", "/products/.secret", "//etc/passwd", "/api/tiles/../../x"),
    ):
        assert visitor.get(target, **given).status == 404, target
    for wrong in ("", "Bearer x", f"Bearer {token}x", f"Basic {token}"):
        for target in ("/api/state", "/api/events", "/products/x", "/static/app.js"):
            assert visitor.get(target, authorization=wrong).status == 401
    assert visitor.get("/" + "x" * 5000, **given).status == 414
    assert visitor.ask("POST", "/login", b"token=" + b"x" * 200_000).status == 413
    assert visitor.ask("DELETE", "/api/state", b"", **given).status == 405
    assert visitor.get("/api/state", host="evil.example", **given).status == 421
    with visitor.connect() as connection, suppress(OSError):
        for _ in range(2000):
            connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 10_000)
    rng = np.random.default_rng(1)
    for _ in range(100):
        with visitor.connect() as connection, suppress(OSError):
            connection.sendall(rng.bytes(int(rng.integers(1, 4096))))


def test_a_hostile_visitor_does_not_disturb_the_pass(
    desk: Desk, small_bundle: Path, tmp_path: Path
) -> None:
    """Climbing, endless requests, a thousand streams and wrong tokens are refused.

    Meanwhile every tile comes down whole, and neither memory nor open files grow.
    """
    token_file, token = tmp_path / "web.token", "feedbeef" * 8
    token_file.write_text(token)
    token_file.chmod(0o600)
    station = Station(
        desk, small_bundle, tmp_path, f"web.token_file={token_file}", "web.hosts=[ground.example]",
        kbit_per_s=1500,
    )  # fmt: skip
    ground, visitor = station.ground, visitor_of(station.ground)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * STREAMS), hard))
    sent = 0

    def go_on(count: int) -> None:
        """Some more tiles, until they are there."""
        nonlocal sent
        numbers = range(sent, sent + count)
        station.send(*(a_tile(number, rows=64, cols=64, scene=f"s{number}") for number in numbers))
        sent += count
        ground.until_metrics(
            lambda n: n.total("tiles_written_total", state="complete") == sent, "all tiles"
        )

    try:
        go_on(5)
        before = ground.metrics()
        for _ in range(2):
            with ExitStack() as stack:
                # Without the token none is opened; with it no more than are allowed.
                assert open_streams(visitor, stack) == 0
                go_on(2)
            harass(visitor, token)
            go_on(2)
        given = {"authorization": f"Bearer {token}"}
        until(lambda: visitor.get("/api/state", **given).status == 200, "the page")
        after = ground.metrics()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    grown = after.total("process_resident_memory_bytes") - before.total(
        "process_resident_memory_bytes"
    )
    assert grown < MOST_GROWTH_BYTES
    assert after.total("process_open_fds") - before.total("process_open_fds") < 10
    assert ground.stop().total("stage_errors_total", reason="internal_error") == 0
    assert "Traceback" not in ground.log
    station.flight.stop()


def test_a_thousand_streams_are_sixteen(desk: Desk, small_bundle: Path) -> None:
    """Whoever asks; the page is there again for others once they are gone."""
    ground = desk.ground(small_bundle, "web.port=0").until_ready()
    visitor = visitor_of(ground)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * STREAMS), hard))
    try:
        files = ground.metrics().total("process_open_fds")
        with ExitStack() as stack:
            assert open_streams(visitor, stack) <= 16
            assert ground.metrics().total("process_open_fds") - files <= MOST_FILES

        def calm() -> bool:
            with suppress(OSError):
                return visitor.get("/api/state").status == 200
            return False

        until(calm, "the page")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ground.stop()
