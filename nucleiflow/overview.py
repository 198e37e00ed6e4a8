"""A batch's rows -> batch.html to look at and batch.parquet to count with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nucleiflow import batchpage, records, report, tables, web
from nucleiflow.place import Place

MOST_PICTURES, READERS = 2000, 16
KEYS: dict[str, type] = {  # the same for every batch, so that tables of batches can be put together
    "name": str,
    "slide": str,
    "status": str,
    "reason": str,
    "folder": str,
    "nuclei": int,
    "height": int,
    "width": int,
    "mpp": float,
    "stain": str,
    "tiles": int,
    "tiles_with_tissue": int,
    "labels_digest": str,
    "wall_seconds": float,
}
GROUPS: dict[str, dict[str, type]] = {
    "quality": {
        "tissue_mm2": float,
        "tissue_fraction": float,
        "nuclei_per_mm2": float,
        "out_of_focus_fraction": float,
        "pen_fraction": float,
        "fold_fraction": float,
    },
    "summary": {"area_mean": float, "area_unit": str, "probability_mean": float},
}
COUNTED = {"holes": int, "flags": str}
COLUMNS = {**KEYS, **GROUPS["quality"], **GROUPS["summary"], **COUNTED}


def write(out: Place, content: Mapping[str, Any]) -> None:
    """Write both beside batch.json, whose `content` it is. Raises StoreError."""
    rows = content["slides"]
    style, script = web.text("report.css"), web.text("batch.js")
    text = batchpage.page(
        str(out.name) or "batch",
        rows,
        content,
        style=style,
        script=script,
        thumbnails=_thumbnails(out, [row["name"] for row in rows if row["status"] == "done"]),
    )
    records.put(out / "batch.html", text.encode())
    with records.writer(out / "batch.parquet") as file:
        tables.write_rows(file, [_flat(row) for row in rows], COLUMNS)


def _thumbnails(out: Place, names: Sequence[str]) -> dict[str, bytes]:
    """Small pictures (JPEG) of slides, by name, as their reports left them."""
    some = names[:MOST_PICTURES]
    with ThreadPoolExecutor(READERS) as threads:
        found = threads.map(lambda name: records.get(out / name / report.THUMBNAIL), some)
        return {name: one for name, one in zip(some, found, strict=True) if one}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table: what there is not is None."""
    found = {key: row.get(key) for key in KEYS}
    for group, keys in GROUPS.items():
        found |= {key: (row.get(group) or {}).get(key) for key in keys}
    flags = (row.get("quality") or {}).get("flags") or []
    return {**found, "holes": len(row.get("holes") or []), "flags": "; ".join(flags)}
