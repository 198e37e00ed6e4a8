"""Facts of a finished slide -> report.html, one file that needs nothing else. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from nucleiflow import charts
from nucleiflow.charts import Histogram
from nucleiflow.deepzoom import Zoom
from nucleiflow.page import document, duration, facts, flags, inline, numbers, url
from nucleiflow.remarks import headline, remarks, sentence

MOST_HOLES = 200  # listed; all are in run.json
TESTS = {  # of the seam audit: what is compared, and how it is written
    "cut": ("end at the line", "{:.1%}"),
    "doubled": ("end face to face with another", "{:.1%}"),
    "merged": ("size of those that go on, px", "{:,.0f}"),
    "lost": ("number, against lines beside", "{:,.0f}"),
}


@dataclass(frozen=True)
class Field:
    """A field at full resolution: what it is shown for, a line on it, where it lies as parts of the
    width of the view, image (JPEG) and outlines (PNG).
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
    """A transparent PNG that lies over the whole slide, and is shown on `below` (JPEG), or on
    nothing; `legend` is HTML, all else text. `shown`: from the start.
    """

    kind: str
    title: str
    legend: str
    picture: bytes
    below: bytes | None = None
    shown: bool = False


@dataclass(frozen=True)
class Facts:
    """All that the page shows. `word` is the content of run.json; text is escaped by the page.

    `aspect` is the slide's width over its height, `um` its width in µm, if that is known.
    """

    name: str
    word: Mapping[str, Any]
    zoom: Zoom
    aspect: float
    um: float | None
    fields: Sequence[Field] = ()
    maps: Sequence[Map] = ()
    histograms: Sequence[Histogram] = ()
    command: str = ""


def page(of: Facts, *, style: str, viewer: str, script: str) -> str:
    """The page; all text of others is escaped."""
    word = of.word
    holes, audit = word.get("holes") or [], word.get("seam_audit") or {}
    sections = [
        ("Slide", _viewer(of)),
        ("Maps", _maps(of.maps)),
        ("Fields of view", _fields(of.fields)),
        ("Distributions", _histograms(of.histograms)),
        ("Holes", _holes(holes)),
        ("Seams", _audit(audit)),
        ("Time", _timings(word)),
        ("Provenance", _provenance(of)),
    ]
    there = [(title, html) for title, html in sections if html]
    body = [
        f"<header><p>nucleiflow report</p><h1>{escape(of.name)}</h1>"
        f"<p>{escape(str(word.get('slide', '')))}</p></header>",
        flags(remarks(word)),
        numbers(headline(word)),
        "<nav>",
        *(f'<a href="#{_anchor(title)}">{title}</a>' for title, _ in there),
        "</nav>",
        *(
            f'<section id="{_anchor(title)}"><h2>{title}</h2>{html}</section>'
            for title, html in there
        ),
        inline(_data(of)),
    ]
    return document(f"{of.name} - nucleiflow", body, style=style, scripts=[viewer, script])


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _data(of: Facts) -> dict[str, Any]:
    """What the viewer's script needs."""
    return {
        "source": of.zoom.source,
        "layers": of.zoom.layers,
        "um": of.um,
        "maps": [one.kind for one in of.maps],
        "fields": [{"x": f.x, "y": f.y, "width": f.width, "height": f.height} for f in of.fields],
    }


# the sections


def _viewer(of: Facts) -> str:
    layers = [("image", "image", True), ("outlines", "outlines", True)]
    layers += [(one.kind, one.title.lower(), one.shown) for one in of.maps]
    boxes = "".join(
        f'<label><input type="checkbox" data-layer="{kind}"{" checked" if on else ""}> '
        f"{escape(name)}</label>"
        for kind, name, on in layers
    )
    return (
        f'<div class="tools">{boxes}<span><button id="in" title="zoom in">+</button>'
        '<button id="out" title="zoom out">−</button>'
        '<button id="home">whole slide</button></span></div>'
        f'<div id="viewer" style="aspect-ratio:{min(max(of.aspect, 1.5), 2.4):.3f}">'
        '<div id="ruler"><i></i><span></span></div></div>'
        f'<p class="soft">Drag to move; click once, then scroll to zoom. The slide is shown in '
        f"{of.zoom.source['width']:,} px; the fields of view below lie in it at full resolution. "
        "Nuclei too small for an outline are filled with green.</p>"
        "<noscript><p>Zooming needs JavaScript; all else on this page does not.</p></noscript>"
    )


def _maps(maps: Sequence[Map]) -> str:
    figures = "".join(
        "<figure><div>"
        + (f'<img alt="" src="{url(one.below, "jpeg")}">' if one.below else "")
        + f'<img id="map-{one.kind}" alt="{escape(one.title)}" src="{url(one.picture, "png")}">'
        f"</div><figcaption><b>{escape(one.title)}</b>{one.legend}</figcaption></figure>"
        for one in maps
    )
    return f'<div class="maps">{figures}</div>' if figures else ""


def _fields(fields: Sequence[Field]) -> str:
    if not fields:
        return ""
    parts = []
    for why, some in groupby(enumerate(fields), key=lambda one: one[1].why):
        figures = "".join(
            f'<figure><a href="#slide" class="field" id="field-{k}" title="show in the slide">'
            f'<img alt="{escape(why)}" src="{url(one.image, "jpeg")}">'
            f'<img alt="" src="{url(one.outlines, "png")}"></a>'
            f"<figcaption>{escape(one.line)}</figcaption></figure>"
            for k, one in some
        )
        parts.append(f'<h3>{escape(why)}</h3><div class="fields">{figures}</div>')
    intro = "Point at a field to see it without outlines, click to find it in the slide."
    return f'<p class="soft">{intro}</p>{"".join(parts)}'


def _histograms(histograms: Sequence[Histogram]) -> str:
    if not histograms:
        return ""
    return (
        f'<div class="charts">{"".join(map(charts.histogram, histograms))}</div>'
        '<p class="soft">The line is the median, the band behind holds the middle half; the '
        "outermost bars hold all that is beyond.</p>"
    )


def _audit(audit: Mapping[str, Any]) -> str:
    if not audit:
        return ""
    rows = "".join(
        f"<tr{' class=bad' if one.get('suspicious') else ''}>"
        f'<th scope="row">{escape(TESTS.get(name, (name,))[0])}</th>'
        + "".join(f'<td class="n">{text}</td>' for text in _tested(name, one))
        + "</tr>"
        for name, one in (audit.get("tests") or {}).items()
    )
    head = "".join(f'<th class="n">{one}</th>' for one in ("at seams", "inside", "z", "p"))
    table = (
        f'<div class="scroll"><table><thead><tr><th>nuclei</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return (
        f"<p>{escape(sentence(str(audit.get('text', ''))))}.</p>{table if rows else ''}"
        '<p class="soft">Where labels are exact, a seam between two tiles is a line like any '
        "other, and both columns agree but for chance.</p>"
    )


def _tested(name: str, one: Mapping[str, Any]) -> list[str]:
    form = TESTS.get(name, ("", "{:.3g}"))[1]
    sides = [one.get("at_seams"), one.get("expected")]
    found = ["–" if value is None else form.format(value) for value in sides]
    return [*found, f"{one.get('z') or 0:.1f}", f"{one.get('p', 1):.2g}"]


def _holes(holes: Sequence[Mapping[str, Any]]) -> str:
    if not holes:
        return ""
    lines = "".join(
        f"<tr><td>{escape(str(one['stage']))}</td>"
        f"<td>{one['y0']:,} to {one['y1']:,}</td><td>{one['x0']:,} to {one['x1']:,}</td>"
        f'<td class="why">{escape(str(one["reason"]))}</td></tr>'
        for one in holes[:MOST_HOLES]
    )
    more = len(holes) - MOST_HOLES
    rest = f"<p>… and {more:,} more: see run.json</p>" if more > 0 else ""
    head = "<tr><th>stage</th><th>rows, px</th><th>columns, px</th><th>why</th></tr>"
    return (
        "<p>Tiles that hold no labels, red in the maps. The same command with "
        "<code>--retry-holes</code> tries them again.</p>"
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{lines}</tbody></table></div>'
        f"{rest}"
    )


def _timings(word: Mapping[str, Any]) -> str:
    seconds = word.get("seconds") or {}
    if not seconds:
        return ""
    total = sum(seconds.values())
    megapixels = word["height"] * word["width"] / 1e6
    return (
        f"<p>{duration(total)} for {megapixels:,.1f} megapixels, "
        f"{megapixels / max(total, 1e-3):.2f} a second.</p>"
        f"{charts.bars(list(seconds.items()), 's')}"
    )


def _provenance(of: Facts) -> str:
    word = of.word
    made = word.get("provenance") or {}
    versions, machine = made.get("versions") or {}, made.get("machine") or {}
    chosen = word.get("resolution") or {}
    pairs = [
        ("slide", str(made.get("slide") or "")),
        ("stain", str(word.get("stain_reason") or "")),
        ("resolution", str(chosen.get("reason") or "")),
        ("model", str(made.get("model") or "")),
        ("its sha256", str((word.get("fingerprint") or {}).get("model") or "")),
        ("labels digest", str(word.get("labels_digest") or "")),
        ("tiles", f"{word.get('tiles', 0):,} of {word.get('tile_px')} px"),
        ("versions", ", ".join(f"{name} {one}" for name, one in versions.items())),
        ("machine", ", ".join(f"{name} {one}" for name, one in machine.items())),
    ]
    kept = {key: word.get(key) for key in ("normalisation", "postprocessing", "resolution")}
    text = escape(json.dumps({**kept, "config": made.get("config")}, indent=1, ensure_ascii=False))
    again = f"<p>To run it again and compare: <code>{escape(of.command)}</code></p>"
    return (
        f"{again if of.command else ''}{facts(pairs)}"
        f"<details><summary>options and thresholds</summary><pre>{text}</pre></details>"
    )
