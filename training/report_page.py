"""What the report says, as Markdown and as a page of HTML that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, TypeAlias

CURVES_PICTURE: Final = "results-curves.png"
GAIN_PICTURE: Final = "results-gain.png"

OURS: Final = "prismlink"
BASELINES: Final = {
    "klt-j2k": "KLT + JPEG 2000, the best of all variants",
    "klt-j2k-5/3": "KLT + JPEG 2000, reversible variants alone",
    "j2k-band": "JPEG 2000 without a KLT",
    "jxl-band": "JPEG XL, band by band",
}
"""What a baseline's curve is called."""

_LABEL_LENGTH: Final = 26
_NONE: Final = "–"

Result: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading below the title."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Something typed."""

    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A file beside the page, and what it shows."""

    file: str
    shows: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; all columns but the first are numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


Block: TypeAlias = Heading | Text | Code | Picture | Table


@dataclass(frozen=True, slots=True)
class Page:
    """A title, then blocks."""

    title: str
    blocks: Sequence[Block]

    def to_markdown(self) -> str:
        """Write for GitHub."""
        return "\n\n".join([f"# {self.title}", *map(_markdown, self.blocks)]) + "\n"

    def to_html(self, pictures: Mapping[str, bytes]) -> str:
        """Write for a browser.

        Args:
            pictures: The PNG of every picture, by file.
        """
        body = "\n".join(_html(block, pictures) for block in self.blocks)
        title = escape(self.title)
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
        )


_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto;margin:1em 0}"
    "th,td{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}img{max-width:100%}"
    "pre{background:#f4f4f4;padding:1em;overflow-x:auto}"
)


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Text(text):
            return text
        case Code(text):
            return f"```sh\n{text}\n```"
        case Picture(file, shows):
            return f"![{shows}]({file})"
        case Table(columns, rows):
            rule = ["---", *["---:"] * (len(columns) - 1)]
            lines = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:]))


def _html(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Picture(file, shows):
            data = base64.b64encode(pictures[file]).decode()
            return f'<img alt="{escape(shows)}" src="data:image/png;base64,{data}">'
        case Table(columns, rows):
            head = _row("th", columns)
            body = "\n".join(_row("td", row) for row in rows)
            return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


# ---- what is said ------------------------------------------------------------------------------


def page_of(result: Result) -> Page:
    """Write up a result of `prismlink-train report`; every number on the page stands in it."""
    blocks: list[Block] = [*_opening(result)]
    for part in (_against, _points, _ablation, _model_size, _lossless, _conditions):
        blocks += part(result)
    return Page("Results", blocks)


def label_of(scene: str) -> str:
    """Short name of a scene: the end tells HySpecNet's patches apart."""
    name = scene.removesuffix("-SPECTRAL_IMAGE")
    return name if len(name) <= _LABEL_LENGTH else f"…{name[1 - _LABEL_LENGTH :]}"


def _opening(result: Result) -> Iterable[Block]:
    model = result["models"][0]
    yield Text(
        f"Model {model['model']} on {len(result['scenes'])} scenes, {result['made_utc']}, commit "
        f"{result['commit'] or 'unknown'}. One command made this page and every number on it:"
    )
    yield Code(result["command"])
    if read := [label_of(s["scene"]) for s in result["scenes"] if s["baselines_read"]]:
        yield Text(
            "Scores of the baselines, timings included, were read from the file of an earlier run "
            f"with the same samples, settings, code and library: {', '.join(read)}."
        )


def _against(result: Result) -> Iterable[Block]:
    yield Heading("Against other codecs")
    yield Picture(CURVES_PICTURE, "PSNR over bits per sample, a panel per scene")
    yield Picture(GAIN_PICTURE, "rate at equal PSNR against KLT + JPEG 2000, over the rate")
    yield Text(
        "Bjøntegaard's deltas (piecewise cubic over the logarithm of the rate) between the rates "
        "named, in bits per valid sample. Rate: bytes at equal PSNR, less is better; PSNR: "
        "decibels at equal rate, more is better; covered: the share of these rates, in octaves, "
        "that both curves reach and the rate's delta speaks for. The mean is over the scenes that "
        "have a rate's delta, so many of all; scenes without one may still count in the mean PSNR."
    )
    for baseline, name in BASELINES.items():
        yield Text(f"Against {name}:")
        yield _delta_table(result, OURS, baseline)


def _delta_table(result: Result, codec: str, against: str) -> Table:
    ranges = _ranges(result)
    found = {
        (line["scene"], line["low"], line["high"]): line
        for line in result["deltas"]
        if (line["codec"], line["against"]) == (codec, against)
    }
    columns = ["scene"]
    for low, high in ranges:
        columns += [f"{low:g}–{high:g}: rate", "PSNR", "covered"]
    rows = []
    for scene in [*(s["scene"] for s in result["scenes"]), "mean"]:
        row = [label_of(scene)]
        for low, high in ranges:
            line = found.get((scene, low, high), {})
            of = f" ({line['scenes']} of {len(result['scenes'])})" if "scenes" in line else ""
            row += [
                _percent(line.get("rate_change")),
                _decibels(line.get("psnr_change_db")),
                _share(line.get("rate_coverage")) + of,
            ]
        rows.append(row)
    return Table(columns, rows)


def _points(result: Result) -> Iterable[Block]:
    ours = _scores(result, OURS)
    at_default = [s for s in ours if s["step"] == result["default_step"]]
    yield Heading("Operating points")
    yield Text(f"At the bundle's own step, {result['default_step']:g} (10⁻⁴ reflectance):")
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "scene": lambda s: label_of(s["scene"]),
        "bits per sample": lambda s: _number(s["bpppc"], ".4f"),
        "PSNR [dB]": lambda s: _number(s["psnr_db"], ".2f"),
        "spectral angle [°]": lambda s: _number(s["spectral_angle_deg"], ".3f"),
        "SSIM": lambda s: _number(s["ssim"], ".4f"),
        "largest error [DN]": lambda s: _number(s["max_abs_error"], "g"),
        "bytes": lambda s: f"{s['bytes']:,}",
        "of it side information": lambda s: f"{s['side_bytes']:,}",
        "encode [s]": lambda s: _number(s["encode_seconds"], ".3f"),
        "decode [s]": lambda s: _number(s["decode_seconds"], ".3f"),
    }
    yield Table([*columns], [[cell(s) for cell in columns.values()] for s in at_default])
    yield Text("One bundle at every step: bits per sample and PSNR.")
    scenes = [s["scene"] for s in result["scenes"]]
    cells = {
        (s["step"], s["scene"]): f"{_number(s['bpppc'], '.4f')}: {_number(s['psnr_db'], '.2f')} dB"
        for s in ours
    }
    yield Table(
        ["step", *map(label_of, scenes)],
        [
            [f"{step:g}", *(cells.get((step, scene), _NONE) for scene in scenes)]
            for step in dict.fromkeys(s["step"] for s in ours)
        ],
    )


def _ablation(result: Result) -> Iterable[Block]:
    models = result["models"]
    yield Heading("What each part earns")
    yield Text(
        f"Means over scenes, against KLT + JPEG 2000 and against {OURS}, the bundle this page is "
        "about. Multiply-accumulates (MAC) are those of the networks for a patch of 128 × 128 "
        "pixels, on board and on the ground; beside the wavelet the ground's are for every "
        "coefficient of as many components as the branch on board sees. A branch on board that "
        "still adds nothing is not run. The shortcut alone is the same bundle with networks that "
        "add nothing; uncalibrated, it has learned nothing at all."
    )
    yield Table(
        ["", "parameters", "MAC on board", "MAC on the ground"],
        [
            [m["codec"], *(f"{m[key]:,}" for key in ("params", "macs_encoder", "macs_decoder"))]
            for m in models
        ],
    )
    for against in ("klt-j2k", OURS):
        means = {
            (line["codec"], line["low"]): line
            for line in result["deltas"]
            if (line["against"], line["scene"]) == (against, "mean")
        }
        columns = [f"against {against}"]
        for low, high in _ranges(result):
            columns += [f"{low:g}–{high:g}: rate", "PSNR", "scenes"]
        rows = []
        for codec in (m["codec"] for m in models if m["codec"] != against):
            row = [codec]
            for low, _ in _ranges(result):
                line = means.get((codec, low), {})
                row += [
                    _percent(line.get("rate_change")),
                    _decibels(line.get("psnr_change_db")),
                    str(line.get("scenes", 0)),
                ]
            rows.append(row)
        yield Table(columns, rows)
    for model in models:
        for scene, reason in model["refused"].items():
            yield Text(f"{model['codec']} cannot code {label_of(scene)}: {reason}.")


def _model_size(result: Result) -> Iterable[Block]:
    record = result["pruning"]
    if record is None:
        return
    yield Heading("What pruning took")
    before, after = record["before"], record["after"]
    names = {
        "params": "parameters",
        "macs_encoder": "MAC on board",
        "macs_decoder": "on the ground",
    }
    yield Table(
        ["", "before", "after", "change"],
        [
            [name, f"{before[key]:,}", f"{after[key]:,}", _percent(after[key] / before[key] - 1)]
            for key, name in names.items()
        ],
    )


def _lossless(result: Result) -> Iterable[Block]:
    yield Heading("Lossless references")
    codecs = ("jxl-lossless", "j2k-lossless", "jls-lossless")
    sizes = {
        (s["scene"], s["codec"]): f"{s['bytes']:,} ({_number(s['bpppc'], '.2f')})"
        for codec in codecs
        for s in _scores(result, codec)
    }
    yield Text("Bytes, and bits per valid sample: JPEG XL, JPEG 2000 and JPEG-LS.")
    yield Table(
        ["scene", *codecs],
        [
            [label_of(s["scene"]), *(sizes.get((s["scene"], codec), _NONE) for codec in codecs)]
            for s in result["scenes"]
        ],
    )


def _conditions(result: Result) -> Iterable[Block]:
    model, machine = result["models"][0], result["machine"]
    yield Heading("How this was measured")
    yield Text(
        "Every score is of a real decoding of real bytes, with headers, checksums and side "
        "information counted. Bits are per valid sample; PSNR, spectral angle and SSIM are taken "
        "per patch, PSNR with reflectance 1 as the peak, then averaged. The KLT of the baselines "
        "travels in the same coder of side information as ours. Times are of one run each, after "
        "one for nothing."
    )
    yield Text(
        "No weight and no table is trained on the scenes that are held back (scenes.validation of "
        "the settings). But they are validation scenes: they choose which epoch of a network is "
        "kept, that of the restoring one for instance. No scene is set apart that chooses nothing."
    )
    yield Text(
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}; "
        f"networks on {' and '.join(model['runs_on'])}. "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
        + "."
    )
    yield Table(
        ["scene", "bands × rows × columns", "valid samples"],
        [
            [label_of(s["scene"]), " × ".join(map(str, s["shape"])), f"{s['valid_samples']:,}"]
            for s in result["scenes"]
        ],
    )


def _ranges(result: Result) -> list[tuple[float, float]]:
    return [(low, high) for low, high in result["settings"]["ranges"]]


def _scores(result: Result, codec: str) -> list[Mapping[str, Any]]:
    return [score for score in result["scores"] if score["codec"] == codec]


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:+.2f} %"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.0f} %"


def _decibels(value: float | None) -> str:
    return _NONE if value is None else f"{value:+.2f} dB"
