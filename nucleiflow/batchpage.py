"""The content of batch.json -> batch.html, one file that needs nothing else. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from nucleiflow import charts
from nucleiflow.page import document, duration, facts, flags, numbers, percent, url
from nucleiflow.remarks import remarks

FILTER_FROM = 10  # slides that need no filter
COLUMNS = (  # title, whether it holds numbers
    ("slide", False), ("state", False), ("nuclei", True), ("tissue, mm²", True), ("per mm²", True),
    ("areas", True), ("confidence", True), ("out of focus", True), ("stain", False),
    ("µm/px", True), ("time", True),
)  # fmt: skip
Row = Mapping[str, Any]


def page(
    name: str,
    rows: Sequence[Row],
    content: Mapping[str, Any],
    *,
    style: str,
    script: str,
    thumbnails: Mapping[str, bytes] | None = None,
) -> str:
    """The page of a batch; `rows` are the slides of `content`, which is that of batch.json.

    `thumbnails` are JPEG files by the names of slides. All text of others is escaped.
    """
    body = [
        f"<header><p>nucleiflow batch</p><h1>{escape(name)}</h1></header>",
        flags(_remarks(rows)),
        numbers(_totals(rows, content)),
        _failed([row for row in rows if row["status"] == "failed"]),
        f"<section><h2>Slides</h2>{_table(rows, thumbnails or {})}</section>",
        f"<section><h2>Provenance</h2>{facts(_provenance(content))}</section>",
    ]
    return document(f"{name} - nucleiflow", body, style=style, scripts=[script])


def _state(row: Row) -> str:
    return "holes" if row["status"] == "done" and row.get("holes") else str(row["status"])


def _remarks(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """How the batch went, in words, the worst first."""
    states = Counter(map(_state, rows))
    open_ = len(rows) - sum(states[one] for one in ("done", "holes", "failed"))
    seams = sum(bool((row.get("seam_audit") or {}).get("suspicious")) for row in rows)
    found = [
        ("bad", states["failed"], "failed, for the reasons below"),
        ("bad", seams, "with nuclei that look otherwise at seams: see the report"),
        ("warn", states["holes"], "with holes, which hold no labels"),
        ("warn", open_, "not finished: the same command goes on"),
    ]
    said = [(kind, f"{_slides(amount)} {line}") for kind, amount, line in found if amount]
    return said or [("good", "All slides are done" if rows else "No slides were given")]


def _slides(amount: int) -> str:
    return "1 slide" if amount == 1 else f"{amount:,} slides"


def _totals(rows: Sequence[Row], content: Mapping[str, Any]) -> list[tuple[str, str]]:
    done = [row for row in rows if row["status"] == "done"]
    pairs = [("slides done", f"{len(done):,} of {len(rows):,}")]
    pairs.append(("nuclei", f"{sum(row.get('nuclei', 0) for row in done):,}"))
    tissue = [(row.get("quality") or {}).get("tissue_mm2") for row in done]
    if any(one is not None for one in tissue):
        pairs.append(("tissue", f"{sum(one or 0 for one in tissue):,.1f} mm²"))
    megapixels = sum(row.get("height", 0) * row.get("width", 0) for row in done) / 1e6
    pairs.append(("megapixels", f"{megapixels:,.0f}"))
    if wall := content.get("wall_seconds"):
        pairs.append(("time", duration(wall)))
    return pairs


def _failed(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{escape(_name(row))}</th>'
        f'<td class="why">{escape(str(row.get("reason")))}</td></tr>'
        for row in rows
    )
    return (
        '<section><h2>Failed</h2><div class="scroll"><table><thead><tr><th>slide</th>'
        f"<th>why</th></tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _name(row: Row) -> str:
    return str(row.get("name") or row.get("slide"))


# the table


def _table(rows: Sequence[Row], thumbnails: Mapping[str, bytes]) -> str:
    picture = "<th></th>" if thumbnails else ""
    head = "".join(
        f"<th{' class=n' if number else ''}><button>{title}</button></th>"
        for title, number in COLUMNS
    )
    lines = "".join(_line(row, thumbnails) for row in rows)
    find = (
        '<div class="tools"><input type="search" id="find" placeholder="find slides" '
        'aria-label="find slides"></div>'
    )
    return (
        f"{find if len(rows) > FILTER_FROM else ''}"
        f'<div class="scroll"><table id="slides"><thead><tr>{picture}{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>{_scale(rows)}"
    )


def _scale(rows: Sequence[Row]) -> str:
    """What the small histograms mean."""
    told = [row.get("summary") or {} for row in rows]
    known = [one for one in told if one.get("area_unit") and one.get("area_bounds")]
    found = {str(one["area_unit"]): one["area_bounds"] for one in known}
    if not found:
        return ""
    spans = " or ".join(
        f"{low:,.0f} to {high:,.0f} {escape(unit)}" for unit, (low, high) in found.items()
    )
    return (
        f'<p class="soft">Areas are drawn from {spans}, in equal ratios, with their mean; the '
        "outermost bars hold all that is beyond.</p>"
    )


def _line(row: Row, thumbnails: Mapping[str, bytes]) -> str:
    quality, summary = row.get("quality") or {}, row.get("summary") or {}
    thumbnail = thumbnails.get(_name(row))
    shown = f'<img alt="" src="{url(thumbnail, "jpeg")}">' if thumbnail else ""
    state, holes = escape(_state(row)), row.get("holes")
    seconds = row.get("wall_seconds")
    cells = [
        f"<td>{shown}</td>" if thumbnails else "",
        f'<td class="name">{_link(row)}</td>',
        f'<td class="state {state}">{state}{f" ({len(holes):,})" if holes else ""}</td>',
        _number(row.get("nuclei"), "{:,.0f}"),
        _number(quality.get("tissue_mm2"), "{:,.2f}"),
        _number(quality.get("nuclei_per_mm2"), "{:,.0f}"),
        _areas(summary),
        _number(summary.get("probability_mean"), "{:.2f}"),
        _share(quality.get("out_of_focus_fraction")),
        f"<td>{escape(str(row.get('stain') or ''))}</td>",
        _number(row.get("mpp"), "{:.3g}"),
        f'<td class="n" data-value="{seconds or ""}">{duration(seconds) if seconds else ""}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _areas(summary: Mapping[str, Any]) -> str:
    """The areas of a slide's nuclei as a small histogram, sorted by their mean."""
    mean, counts = summary.get("area_mean"), summary.get("area_counts")
    if mean is None or not counts:
        return '<td class="n" data-value=""></td>'
    text = f"{mean:,.3g} {escape(str(summary.get('area_unit', '')))}"
    return f'<td class="n areas" data-value="{mean}">{charts.sparkline(counts)}{text}</td>'


def _link(row: Row) -> str:
    """The slide's name with a link to its report, and what should be known of it."""
    name = escape(_name(row))
    if "report.html" in (row.get("exports") or {}):
        name = f'<a href="./{escape(quote(_name(row)))}/report.html">{name}</a>'
    if row["status"] != "done":
        return name
    said = [one for one in remarks(row) if one[0] != "good"]
    return name + "".join(f'<small class="{kind}">{escape(line)}</small>' for kind, line in said)


def _number(value: float | None, form: str) -> str:
    shown = "" if value is None else form.format(value)
    return f'<td class="n" data-value="{"" if value is None else value}">{shown}</td>'


def _share(value: float | None) -> str:
    shown = "" if value is None else percent(value)
    return f'<td class="n" data-value="{"" if value is None else value}">{shown}</td>'


def _provenance(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, machine = content.get("model") or {}, content.get("machine") or {}
    versions = content.get("versions") or {}
    peaks = content.get("peak_worker_mb") or []
    return [
        ("model", str(model.get("path") or "")),
        ("its sha256", str(model.get("sha256") or "")),
        ("peak memory", f"{max(peaks):,} MB in a worker" if peaks else ""),
        ("versions", ", ".join(f"{name} {one}" for name, one in versions.items())),
        ("machine", ", ".join(f"{name} {one}" for name, one in machine.items())),
    ]
