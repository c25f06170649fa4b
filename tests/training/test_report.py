"""One command scores bundles and baselines, and says of each number what the run gave."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from codec.tile_files import read_tile
from fakes.bundles import branch_bundle, klt_bundle, minmax_bundle
from training.bjontegaard import delta, envelope
from training.bundles import write_bundle
from training.report_page import Page, Picture, Text, label_of, page_of

Run = Callable[..., int]

DATA = Path(__file__).resolve().parents[1] / "data"
SETTINGS = """
scenes: {validation: [north, south]}
report:
  steps: [512, 128, 32]
  ranges: [[0.05, 0.5], [0.5, 2]]
  baselines:
    components: [2, 6]
    steps: [512, 128, 32]
    reversible_steps: [32, 8]
    band_steps: [512, 128]
    distances: [25, 5]
"""
FILES = {"results.md", "results.html", "results.json", "results-curves.png", "results-gain.png"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crops of Salton Sea, two of them held back, with settings and bundles."""
    root = tmp_path_factory.mktemp("report")
    (root / "scenes").mkdir()
    cube = read_tile(DATA / "aviris_salton_sea.npz").samples[10:42]
    for name, row in (("north", 0), ("south", 24), ("trained", 12)):
        crop = cube[:, row : row + 24, 8:40]
        np.savez(root / "scenes" / f"{name}.npz", cube=crop, reflectance_scale=10_000, sensor="x")
    (root / "training.yaml").write_text(SETTINGS, encoding="utf-8")
    write_bundle(klt_bundle(), root / "main.safetensors")
    write_bundle(branch_bundle(), root / "other.safetensors")
    write_bundle(minmax_bundle(), root / "paper.safetensors")
    return root


@pytest.fixture
def report(run: Run, place: Path) -> Run:
    """Run `prismlink-train report` with a bundle and further arguments."""

    def call(bundle: str, *arguments: object) -> int:
        given = ["--scenes", place / "scenes", "--settings", place / "training.yaml"]
        given += ["--backend", "torch-cpu", "--workers", 1]
        return run("report", place / f"{bundle}.safetensors", *given, *arguments)

    return call


@pytest.fixture
def docs(report: Run, place: Path) -> Path:
    """The report, made once."""
    out = place / "docs"
    if not out.exists():
        ablation = [f"the branch={place}/other.safetensors", f"the paper={place}/paper.safetensors"]
        given = ["--out", out, "--baselines", place / "kept.json"]
        assert report("main", *given, *(a for b in ablation for a in ("--ablation", b))) == 0
    return out


@pytest.fixture
def result(docs: Path) -> dict[str, Any]:
    """What stands in results.json."""
    value: dict[str, Any] = json.loads((docs / "results.json").read_text(encoding="utf-8"))
    return value


def tables(markdown: str) -> list[list[list[str]]]:
    """Cells of every table, the rule below the header left out."""
    found = re.findall(r"^\|.*(?:\n\|.*)+", markdown, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.split("\n")]
        for table in (re.sub(r"\n\| -.*", "", table) for table in found)
    ]


def test_every_file_is_written(docs: Path) -> None:
    """Markdown, HTML, JSON and pictures; the HTML needs none of the others."""
    assert {path.name for path in docs.iterdir()} == FILES
    html = (docs / "results.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!data:)', html)


def test_the_pages_that_ship_are_of_their_json() -> None:
    """docs/results.md and .html say what `page_of` makes of docs/results.json today."""
    shipped = DATA.parents[1] / "docs"
    page = page_of(json.loads((shipped / "results.json").read_text(encoding="utf-8")))
    pictures = {
        block.file: (shipped / block.file).read_bytes()
        for block in page.blocks
        if isinstance(block, Picture)
    }
    assert (shipped / "results.md").read_text(encoding="utf-8") == page.to_markdown()
    assert (shipped / "results.html").read_text(encoding="utf-8") == page.to_html(pictures)


def test_the_pictures_show_something(docs: Path) -> None:
    """Lines are drawn in more than one color."""
    for name in ("results-curves.png", "results-gain.png"):
        image = imagecodecs.png_decode((docs / name).read_bytes())[..., :3].reshape(-1, 3)
        colored = image[np.ptp(image.astype(int), axis=1) > 50]
        assert len(np.unique(colored, axis=0)) > 10


def test_the_page_holds_the_numbers_of_the_json(docs: Path, result: dict[str, Any]) -> None:
    """The page is what `page_of` makes of the JSON, digit by digit in the tables."""
    page = (docs / "results.md").read_text(encoding="utf-8")
    assert page == page_of(result).to_markdown()

    assert "they are validation scenes: they choose which epoch of a network is kept" in page
    against, *_ = tables(page)
    deltas = {
        (d["scene"], d["low"]): d
        for d in result["deltas"]
        if (d["codec"], d["against"]) == ("prismlink", "klt-j2k")
    }
    assert [row[0] for row in against[1:]] == ["north", "south", "mean"]
    for scene, *cells in against[1:]:
        for low, (rate, psnr, _) in zip((0.05, 0.5), (cells[:3], cells[3:]), strict=True):
            line = deltas[scene, low]
            assert float(rate.rstrip(" %")) == round(100 * line["rate_change"], 2)
            assert float(psnr.rstrip(" dB")) == round(line["psnr_change_db"], 2)

    points = next(t for t in tables(page) if "spectral angle [°]" in t[0])
    scores = {
        s["scene"]: s for s in result["scores"] if (s["codec"], s["step"]) == ("prismlink", 32)
    }
    assert [int(row[points[0].index("bytes")].replace(",", "")) for row in points[1:]] == [
        scores[row[0]]["bytes"] for row in points[1:]
    ]


def test_deltas_are_those_of_the_scores(result: dict[str, Any]) -> None:
    """Ours against a baseline's envelope, from the scores in the same file; then their mean."""
    pair = ("prismlink", "klt-j2k-5/3")
    lines = [d for d in result["deltas"] if (d["codec"], d["against"], d["low"]) == (*pair, 0.5)]
    found = {line["scene"]: line["psnr_change_db"] for line in lines}

    for scene in ("north", "south"):
        mine = [s for s in result["scores"] if s["scene"] == scene]
        ours = [(s["bpppc"], s["psnr_db"]) for s in mine if s["codec"] == "prismlink"]
        theirs = [(s["bpppc"], s["psnr_db"]) for s in mine if s["codec"].endswith("-5/3")]
        assert found[scene] == delta(ours, envelope(theirs), 0.5, 2).psnr_change_db
    assert found["mean"] == pytest.approx((found["north"] + found["south"]) / 2)


def test_the_ablation_has_every_bundle(docs: Path, result: dict[str, Any]) -> None:
    """Each label, and the shortcut alone; who cannot code a scene says why, and that is all."""
    assert [m["codec"] for m in result["models"]] == [
        *("prismlink", "the branch", "the paper"),
        *("shortcut alone", "shortcut alone, uncalibrated"),
    ]
    paper = result["models"][2]
    assert set(paper["refused"]) == {"north", "south"}
    page = (docs / "results.md").read_text(encoding="utf-8")
    assert f"the paper cannot code north: {paper['refused']['north']}." in page


def test_the_run_is_told(result: dict[str, Any]) -> None:
    """Command, machine, libraries and what was read from an earlier run."""
    assert result["command"].startswith("prismlink-train report ")
    assert result["machine"]["cores"] > 0
    assert result["versions"]["openjpeg"]
    assert not any(scene["baselines_read"] for scene in result["scenes"])


def test_baselines_are_scored_once(
    *, report: Run, docs: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report on another bundle reads the first one's baselines, and says so."""

    def no_pool(*_: object) -> None:
        raise AssertionError("baselines were scored again")

    monkeypatch.setattr("training.baseline_cache.ProcessPoolExecutor", no_pool)
    given = ["--out", tmp_path, "--baselines", place / "kept.json"]
    assert report("other", *given) == 0

    first, second = (
        json.loads((folder / "results.json").read_text(encoding="utf-8"))
        for folder in (docs, tmp_path)
    )
    kept = [[s for s in r["scores"] if not s["bundle"]] for r in (first, second)]
    assert kept[0] == kept[1] != []
    assert all(scene["baselines_read"] for scene in second["scenes"])
    assert "were read from the file of an earlier run" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        pytest.param(["--ablation", "no file"], 78, "LABEL=FILE", id="ablation without a file"),
        pytest.param(["--ablation", "klt-j2k=x"], 78, "label of its own", id="a baseline's label"),
        pytest.param(["--ablation", "x=none.safetensors"], 65, "no such bundle", id="no bundle"),
        pytest.param(["--out", "SETTINGS"], 70, "cannot be made", id="out is a file"),
        pytest.param(["--baselines", "SETTINGS"], 70, "no scores of baselines", id="no scores"),
        pytest.param(["--backend", "gpu"], 78, "gpu", id="backend"),
    ],
)
def test_an_error_is_one_line(
    *,
    report: Run,
    place: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    complaint: str,
) -> None:
    """The line names what is wrong; nothing is written."""
    given = [str(place / "training.yaml") if a == "SETTINGS" else a for a in arguments]

    assert report("main", "--out", tmp_path / "docs", *given) == code

    said = capfd.readouterr().err
    assert complaint in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("prismlink-train:")]) == 1
    assert not (tmp_path / "docs" / "results.md").exists()


def test_pruning_is_shown_where_it_was_done(result: dict[str, Any]) -> None:
    """Sizes before and after come from the bundle's own record."""
    size = {"params": 200, "macs_encoder": 1000, "macs_decoder": 400}
    record = {"before": size, "after": {**size, "params": 100}}

    pages = [page_of({**result, "pruning": p}).to_markdown() for p in (None, record)]

    assert "What pruning took" not in pages[0]
    assert "| parameters | 200 | 100 | -50.00 % |" in pages[1]


def test_what_is_said_cannot_break_the_page() -> None:
    """Names come from files: no markup of theirs gets through."""
    html = Page("<b>", [Text("a < b & <script>")]).to_html({})

    assert "<script>" not in html
    assert "a &lt; b &amp;" in html


def test_the_end_of_a_long_name_is_kept() -> None:
    """HySpecNet's names differ at their end."""
    name = f"ENMAP01-____L2A-DT0000004950_2022{'0' * 40}-Y01460273_X03110438-SPECTRAL_IMAGE"

    assert label_of(name).endswith("Y01460273_X03110438")
    assert label_of("aviris_moffett") == "aviris_moffett"
