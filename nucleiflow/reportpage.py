"""Facts of a finished slide -> report.html, one file that needs nothing else. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from nucleiflow import charts

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
MOST_HOLES = 200  # listed; all are in run.json


@dataclass(frozen=True)
class Field:
    """A field at full resolution: why it is shown, where it lies as parts of the slide's width,
    image (JPEG) and outlines (PNG), and a line on it.
    """

    why: str
    line: str
    x: float
    y: float
    width: float
    height: float
    image: bytes
    outlines: bytes


@dataclass(frozen=True)
class Map:
    """A map of the whole slide: a picture to look at, and a transparent one to lay over it."""

    kind: str
    title: str
    line: str
    picture: bytes
    heat: bytes | None = None


@dataclass(frozen=True)
class Histogram:
    title: str
    unit: str
    counts: Sequence[int]
    low: float
    high: float


@dataclass(frozen=True)
class Facts:
    """All that the page shows. `word` is the content of run.json; tiles are as in `deepzoom`."""

    name: str
    word: Mapping[str, Any]
    numbers: Sequence[tuple[str, str]]
    flags: Sequence[str]
    source: Mapping[str, Any]
    image: Mapping[str, str]
    outlines: Mapping[str, str]
    fields: Sequence[Field] = ()
    maps: Sequence[Map] = ()
    histograms: Sequence[Histogram] = ()
    aspect: float = 1.0
    command: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def page(facts: Facts, *, style: str, viewer: str, script: str) -> str:
    """The page; all text of others is escaped."""
    title = escape(f"{facts.name} - nucleiflow")
    body = [
        f"<h1>{escape(facts.name)}</h1>",
        f"<p>{escape(str(facts.word.get('slide', '')))}</p>",
        flags(facts.flags),
        numbers(facts.numbers),
        *_viewer(facts),
        *_maps(facts.maps),
        *_fields(facts.fields),
        *_histograms(facts.histograms),
        *_audit(facts.word.get("seam_audit") or {}),
        *_holes(facts.word.get("holes") or []),
        *_timings(facts.word.get("seconds") or {}),
        *_provenance(facts),
    ]
    data = {
        "source": facts.source,
        "image": facts.image,
        "outlines": facts.outlines,
        "fields": [
            {"number": k, "x": one.x, "y": one.y, "width": one.width, "height": one.height}
            for k, one in enumerate(facts.fields)
        ],
    }
    scripts = [
        f'<script type="application/json" id="data">{inline(data)}</script>',
        f"<script>{viewer}</script>",
        f"<script>{script}</script>",
    ]
    return document(title, body, style, scripts)


def document(title: str, body: Sequence[str], style: str, scripts: Sequence[str]) -> str:
    """A whole page; `title` is escaped already."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style>'
    )
    parts = ["<!doctype html>", f'<html lang="en"><head>{head}</head><body>']
    return "\n".join([*parts, *body, *scripts, "</body></html>"]) + "\n"


def inline(data: Any) -> str:
    """JSON that may stand in a script element, whatever is in it."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def url(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def flags(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f'<ul class="flags">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def numbers(pairs: Sequence[tuple[str, str]]) -> str:
    cards = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in pairs
    )
    return f'<div class="facts">{cards}</div>'


def _viewer(facts: Facts) -> list[str]:
    layers = [("image", "image", True), ("outlines", "outlines", True)]
    layers += [(one.kind, one.kind, False) for one in facts.maps if one.heat]
    boxes = "".join(
        f'<label><input type="checkbox" data-layer="{kind}"{" checked" if on else ""}> {name}'
        "</label>"
        for kind, name, on in layers
    )
    return [
        "<h2>Slide</h2>",
        f'<div class="tools">{boxes}<button id="home" type="button">whole slide</button>'
        '<span class="soft">scroll to zoom, drag to move; the fields below are in it at full '
        "resolution</span></div>",
        f'<div id="viewer" role="img" aria-label="{escape(facts.name)}, zoomable"></div>',
    ]


def _maps(maps: Sequence[Map]) -> list[str]:
    if not maps:
        return []
    figures = [
        f'<figure><img id="map-{one.kind}" alt="{escape(one.title)}" '
        f'src="{url(one.picture, "png")}"'
        + (f' data-heat="{url(one.heat, "png")}"' if one.heat else "")
        + f"><figcaption><b>{escape(one.title)}</b> {escape(one.line)}</figcaption></figure>"
        for one in maps
    ]
    return ["<h2>Maps</h2>", f'<div class="maps">{"".join(figures)}</div>']


def _fields(fields: Sequence[Field]) -> list[str]:
    if not fields:
        return []
    figures = [
        f'<figure><a class="field" id="field-{k}" title="show in the slide">'
        f'<img alt="field, {escape(one.why)}" src="{url(one.image, "jpeg")}">'
        f'<img alt="" src="{url(one.outlines, "png")}"></a>'
        f"<figcaption><b>{escape(one.why)}</b> {escape(one.line)}</figcaption></figure>"
        for k, one in enumerate(fields)
    ]
    return [
        "<h2>Fields of view</h2>",
        '<p class="soft">Some at random, and the worst by what each says. Point at one to see it '
        "without outlines; click to find it in the slide.</p>",
        f'<div class="fields">{"".join(figures)}</div>',
    ]


def _histograms(histograms: Sequence[Histogram]) -> list[str]:
    if not histograms:
        return []
    drawn = "".join(
        charts.histogram(one.title, one.counts, one.low, one.high, one.unit) for one in histograms
    )
    return [
        "<h2>Distributions</h2>",
        '<p class="soft">The outermost bars hold all that is beyond.</p>',
        f'<div class="charts">{drawn}</div>',
    ]


def _audit(audit: Mapping[str, Any]) -> list[str]:
    if not audit:
        return []
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="n">{_number(one[key])}</td>' for key in COLUMNS)
        + "</tr>"
        for name, one in (audit.get("tests") or {}).items()
    )
    head = "".join(f'<th class="n">{title}</th>' for title in COLUMNS.values())
    state = ' class="bad"' if audit.get("suspicious") else ""
    table = (
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>' if rows else ""
    )
    return [
        "<h2>Seams</h2>",
        f'<ul class="flags"><li{state}>{escape(str(audit["text"]))}</li></ul>'
        if state
        else f"<p>{escape(str(audit['text']))}</p>",
        table,
    ]


COLUMNS = {"at_seams": "at seams", "expected": "expected", "z": "z", "p": "p"}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _holes(holes: Sequence[Mapping[str, Any]]) -> list[str]:
    if not holes:
        return []
    lines = "".join(
        f"<tr><td>{escape(str(one['stage']))}</td>"
        f"<td>{one['y0']}:{one['y1']}, {one['x0']}:{one['x1']}</td>"
        f'<td class="why">{escape(str(one["reason"]))}</td></tr>'
        for one in holes[:MOST_HOLES]
    )
    more = len(holes) - MOST_HOLES
    rest = f"<p>… and {more:,} more: see run.json</p>" if more > 0 else ""
    return [
        f"<h2>Holes: {len(holes):,} tiles without labels</h2>",
        '<div class="scroll"><table><tr><th>stage</th><th>rows, columns (px)</th><th>why</th></tr>'
        f"{lines}</table></div>{rest}",
    ]


def _timings(seconds: Mapping[str, float]) -> list[str]:
    if not seconds:
        return []
    drawn = charts.bars(list(seconds.items()), "s")
    return ["<h2>Time by stage</h2>", f'<div class="scroll">{drawn}</div>']


def _provenance(facts: Facts) -> list[str]:
    kept = {
        key: facts.word.get(key)
        for key in ("resolution", "stain_reason", "normalisation", "postprocessing", "provenance")
    }
    kept["model"] = (facts.word.get("fingerprint") or {}).get("model")
    text = escape(json.dumps({**kept, **facts.extra}, indent=1, ensure_ascii=False))
    return [
        "<h2>How it was made</h2>",
        f"<p>Again, and compared: <code>{escape(facts.command)}</code></p>"
        if facts.command
        else "",
        f"<details><summary>model, options, versions, machine</summary><pre>{text}</pre></details>",
    ]
