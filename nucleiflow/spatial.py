"""A finished slide -> a SpatialData store beside it: image, labels, outlines and a linked table.

Image and labels are the very files of the slide (`linked`); outlines and table are made of
nuclei.parquet, a row group at a time. What the elements are called: `spatialmeta`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nucleiflow import __version__, anndata_zarr, finished, linked, records, spatialmeta, store
from nucleiflow.errors import ConfigError, NucleiflowError, StoreError
from nucleiflow.place import Place
from nucleiflow.spatialmeta import IMAGE, LABELS, OUTLINES, TABLE, Systems

NUCLEI = "nuclei.parquet"
ROWS = anndata_zarr.CHUNK_ROWS
# columns of nuclei.parquet that are points: name in obsm, then x, y and what moves pixel centres
# from integers to SpatialData's halves
POINTS = {
    "spatial": ("centroid-1", "centroid-0", 0.5),
    "spatial_source": ("source_x", "source_y", 0.5),
    "spatial_um": ("x_um", "y_um", 0.0),
}
KEYS = {"region": LABELS, "region_key": "region", "instance_key": "label"}


@dataclass(frozen=True)
class Exported:
    """The store that was made, and how its pixels came there."""

    place: Place
    nuclei: int
    pixels: linked.Shared
    image: bool = True

    def text(self) -> str:
        done = [str(self.place)]
        if not self.image:
            done.append("no image in it: the run kept no copy of the slide (--image none)")
        if not self.nuclei:
            done.append("no nuclei, so there are no outlines and no table in it")
        if self.pixels.copied:
            done.append(
                f"pixels were copied, {self.pixels.copied_bytes / 1e6:,.0f} MB: "
                "between these two places there are no hard links"
            )
        return "\n  ".join(done)


def beside(folder: Place, word: Mapping[str, Any]) -> Place:
    """Where a slide's store goes unless told otherwise: beside its OME-Zarr, under its name."""
    return folder / word["labels"].partition("/")[0].replace(".ome.zarr", ".spatialdata.zarr")


def export_all(
    place: Place, to: Place | None = None, *, overwrite: bool = False, say: Callable[[str], None]
) -> list[str]:
    """Export the slide, or all slides, in a folder; `say` is told each store that was made.

    Returns a line for each slide of several that failed. Raises ConfigError, StoreError.
    """
    found = finished.slides(place)
    if len(found) == 1:
        say(export(found[0].folder, found[0].word, to, overwrite=overwrite).text())
        return []
    if to is not None:
        raise ConfigError(
            f"{place} holds {len(found)} slides: --to is for one, so name one of them"
        )
    failed = []
    for slide in found:
        try:
            say(export(slide.folder, slide.word, overwrite=overwrite).text())
        except NucleiflowError as error:
            failed.append(str(error))
    return failed


def export(
    folder: Place, word: Mapping[str, Any], to: Place | None = None, *, overwrite: bool = False
) -> Exported:
    """Make the store of a finished slide, from its folder and its `run.json`; it appears whole.

    The files of its pixels are shared with the slide's OME-Zarr by hard links: either may be
    deleted or written anew, and the other stays as it is. Raises StoreError.
    """
    target = to or beside(folder, word)
    if records.exists(target / "zarr.json") and not overwrite:
        raise StoreError(f"{target} is there already: delete it, or give --overwrite")
    if not records.exists(folder / NUCLEI):
        raise StoreError(f"{folder} has no {NUCLEI}: run the slide again with --restart")
    where = spatialmeta.systems(word["resolution"])
    with _draft(target) as (draft, home):
        nuclei = _tables(folder / NUCLEI, draft, where)
        pixels = _pixels(folder / word["labels"], draft, home, where)
        about = {
            "version": __version__,
            "slide": word["slide"],
            "mpp": word["mpp"],
            "labels_digest": word["labels_digest"],
        }
        _group(draft, spatialmeta.root(about))
    return Exported(target, nuclei, pixels, image=word.get("image") != "none")


@contextlib.contextmanager
def _draft(target: Place) -> Iterator[tuple[Path, Place]]:
    """A folder to build in, which becomes `target` at the end and else is gone, and the place to
    put pixels: the same folder, or in an object store, where nothing can be renamed, `target`.
    """
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory() as folder:
            records.remove_tree(target)
            yield Path(folder), target
            names = sorted(linked.files(Path(folder)), key=lambda name: name == "zarr.json")
            for name in names:  # the root comes last: it is what makes a store of it
                linked.share_file(Path(folder, name), target / name)
        return
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with _writing(target):
            draft.mkdir(parents=True)
            yield draft, draft
            records.remove_tree(target)
            draft.rename(target)
    finally:
        records.remove_tree(draft)


@contextlib.contextmanager
def _writing(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{place} cannot be written: {error.strerror or error}") from error


def _group(path: Path, attributes: Mapping[str, Any]) -> None:
    records.put_json(
        path / "zarr.json",
        {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)},
    )


# pixels


def _pixels(labels: Place, draft: Path, home: Place, where: Systems) -> linked.Shared:
    image = labels.parent.parent
    levels = [one["path"] for one in store.get_ome(labels)["multiscales"][0]["datasets"]]
    omero = store.get_ome(image).get("omero")  # none, where the run kept no copy of the slide
    if omero is not None:
        _group(draft / "images", {})
        _group(draft / "images" / IMAGE, spatialmeta.image(len(levels), omero, where))
    _group(draft / "labels", {"ome": {"labels": [LABELS]}})
    _group(draft / "labels" / LABELS, spatialmeta.labels(len(levels), where))
    found = linked.Shared()
    for level in levels:
        if omero is not None:
            found += linked.share(image / level, home / "images" / IMAGE / level)
        found += linked.share(labels / level, home / "labels" / LABELS / level)
    return found


# outlines and table


def _tables(nuclei: Place, draft: Path, where: Systems) -> int:
    """Write both in one pass over nuclei.parquet; returns the number of nuclei."""
    from pyarrow import lib, parquet

    with records.reader(nuclei) as file, _writing(draft):
        try:
            source = parquet.ParquetFile(file, pre_buffer=False)  # it would keep all it has read
            if source.metadata.num_rows:  # SpatialData refuses elements without rows
                _fill(source, draft, where)
        except lib.ArrowException as error:
            raise StoreError(
                f"{nuclei} is damaged ({error}): run the slide again with --restart"
            ) from error
        return int(source.metadata.num_rows)


def _fill(source: Any, draft: Path, where: Systems) -> None:
    from pyarrow import parquet

    schema = source.schema_arrow
    about = {
        name: json.loads(source.metadata.metadata[name.encode()]) for name in ("geo", "nucleiflow")
    }
    columns, kept, start = _columns(schema), _geo_schema(schema, about["geo"]), 0
    _group(draft / "shapes", {})
    _group(draft / "shapes" / OUTLINES, spatialmeta.outlines(where))
    _group(draft / "tables", {})
    table = anndata_zarr.create(
        draft / "tables" / TABLE,
        _layout(source.metadata.num_rows, schema, columns, about["nucleiflow"].get("units", {})),
    )
    with parquet.ParquetWriter(
        draft / "shapes" / OUTLINES / "shapes.parquet", kept, compression="zstd"
    ) as outlines:
        for batch in source.iter_batches(batch_size=ROWS):
            outlines.write_batch(batch.select(["label", "geometry"]).cast(kept))
            anndata_zarr.write(table, start, *_parts(batch, columns))
            start += batch.num_rows


@dataclass(frozen=True)
class _Columns:
    """Where the columns of nuclei.parquet go."""

    features: Sequence[str]
    facts: Sequence[str]
    points: Sequence[str]


def _columns(schema: Any) -> _Columns:
    """Measurements are features; labels, boxes and flags are facts; the rest are points."""
    from pyarrow import types

    facts = [
        name
        for name in schema.names
        if name == "label" or name.startswith("bbox-") or types.is_boolean(schema.field(name).type)
    ]
    points = [name for name, (x, y, _) in POINTS.items() if {x, y} <= set(schema.names)]
    placed = {name for x, y, _ in POINTS.values() for name in (x, y)}
    features = [
        name
        for name in schema.names
        if name not in placed
        and name not in facts
        and (
            types.is_floating(schema.field(name).type) or types.is_integer(schema.field(name).type)
        )
    ]
    return _Columns(features, facts, points)


def _layout(
    rows: int, schema: Any, columns: _Columns, units: Mapping[str, str | None]
) -> anndata_zarr.Layout:
    return anndata_zarr.Layout(
        rows=rows,
        features={name: str(units.get(name) or "") for name in columns.features},
        facts={name: np.dtype(schema.field(name).type.to_pandas_dtype()) for name in columns.facts},
        points=columns.points,
        constants={"region": LABELS},
        notes={"spatialdata_attrs": KEYS},
        attributes=spatialmeta.table(KEYS),
    )


def _parts(batch: Any, columns: _Columns) -> tuple[list[str], dict[str, anndata_zarr.Columns]]:
    """Names of the rows, and what they hold, as the table takes it."""

    def column(name: str) -> Any:
        return batch.column(name).to_numpy(zero_copy_only=False)

    points = {
        name: np.stack([column(POINTS[name][0]), column(POINTS[name][1])], axis=1) + POINTS[name][2]
        for name in columns.points
    }
    return column("label").astype(str).tolist(), {
        "X": {name: column(name) for name in columns.features},
        "obs": {name: column(name) for name in columns.facts},
        "obsm": points,
    }


def _geo_schema(schema: Any, geo: Mapping[str, Any]) -> Any:
    """Label and outline; the label is the index of the data frame that readers make of it."""
    import pyarrow as pa

    outline = {**geo["columns"]["geometry"], "crs": None}  # none: else they would be on the globe
    kind = str(schema.field("label").type)
    index = {"name": "label", "field_name": "label", "metadata": None}
    pandas = {
        "index_columns": ["label"],
        "column_indexes": [],
        "columns": [{**index, "pandas_type": kind, "numpy_type": kind}],
    }
    metadata = {
        "geo": json.dumps({**geo, "columns": {"geometry": outline}}),
        "pandas": json.dumps(pandas),
    }
    return pa.schema([schema.field("label"), schema.field("geometry")], metadata=metadata)
