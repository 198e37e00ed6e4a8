"""A slide's folder as a run leaves it, made without the network: for what comes after a run."""

import numpy as np
import pandas as pd
import shapely
import skimage.measure

from nucleiflow import ngff, records, store, tables
from nucleiflow.box import Box

TILE_PX = 128
LEVELS = 3
SOURCE_MPP = 0.25
UNITS = {
    "area": "px",
    "area_um2": "µm²",
    "eccentricity": None,
    "intensity_mean-0": "counts",
    "intensity_mean-1": "counts",
    "nearest_neighbor_distance": "px",
    "neighbors": None,
}


def labels(shape, count, seed=0):
    """`count` nuclei (h, w) uint32: ellipses, every fifth with a hole."""
    random = np.random.default_rng(seed)
    found = np.zeros(shape, np.uint32)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    label = 1
    while label <= count:
        y, x = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        high, wide = random.uniform(4, 12, size=2)
        far = ((rows - y) / high) ** 2 + ((columns - x) / wide) ** 2
        inside = (far <= 1) & ((far >= 0.05) | (label % 5 != 1))
        if not found[far <= 1].any() and inside.sum() > 20:
            found[inside] = label
            label += 1
    return found


def write(folder, *, shape=(301, 403), count=60, source_px=(603, 807), mpp=SOURCE_MPP, depth=2):
    """Lay out OME-Zarr, nuclei.parquet and run.json; returns image (c, h, w), labels, word."""
    name = folder.name
    random = np.random.default_rng(1)
    image = random.integers(0, 4000, (depth, *shape), dtype=np.uint16)
    nuclei = labels(shape, count)
    scale = tuple(big / small for big, small in zip(source_px, shape, strict=True))
    pixel_um = [mpp * one for one in scale] if mpp else None
    root = folder / f"{name}.ome.zarr"
    for level in range(LEVELS):
        step = 2**level
        for place, pixels, axes in (
            (root, image[:, ::step, ::step], "cyx"),
            (root / "labels" / "nuclei", nuclei[::step, ::step], "yx"),
        ):
            at = place / str(level)
            store.create_array(at, pixels.shape, pixels.dtype, tile_px=TILE_PX, axes=axes)
            store.write(at, Box(0, 0, *pixels.shape[-2:]), pixels)
    names = ["DAPI"] * depth
    windows = [(0.0, 4000.0)] * depth
    shown = ngff.omero(names, rgb=False, windows=windows, top=65535)
    store.set_ome(root, ngff.image(name, LEVELS, pixel_um, shown))
    store.set_ome(root / "labels" / "nuclei", ngff.labels("nuclei", LEVELS, pixel_um))
    store.set_ome(root / "labels", ngff.labels_group(["nuclei"]))
    table = measured(image, nuclei, scale, mpp)
    write_table(folder / "nuclei.parquet", table, outlines(nuclei, scale))
    word = {
        "status": "done",
        "slide": f"slides/{name}.tif",
        "labels": f"{root.name}/labels/nuclei",
        "nuclei": count,
        "labels_digest": "0",
        "mpp": pixel_um[0] if pixel_um else None,
        "resolution": {"slide_px_per_px": list(scale), "pixel_um": pixel_um},
        "holes": [],
    }
    records.put_json(folder / "run.json", word)
    return image, nuclei, word


def measured(image, nuclei, scale, mpp):
    """Columns of nuclei.parquet, some of each kind, by scikit-image."""
    wanted = ("label", "centroid", "bbox", "area", "eccentricity", "intensity_mean")
    found = pd.DataFrame(
        skimage.measure.regionprops_table(nuclei, np.moveaxis(image, 0, -1), properties=wanted)
        if nuclei.any()
        else {"label": np.zeros(0), "area": np.zeros(0)}
    ).astype({"label": np.uint32, "area": float})
    if not len(found):
        return found
    for side in range(4):
        found[f"bbox-{side}"] = found[f"bbox-{side}"].astype(np.int32)
    for axis, number in (("y", 0), ("x", 1)):
        found[f"source_{axis}"] = (found[f"centroid-{number}"] + 0.5) * scale[number] - 0.5
        if mpp:
            found[f"{axis}_um"] = (found[f"source_{axis}"] + 0.5) * mpp
    if mpp:
        found["area_um2"] = found["area"] * scale[0] * scale[1] * mpp**2
    found["nearest_neighbor_distance"] = np.where(found["label"] % 7 == 0, np.nan, 3.5)
    found["neighbors"] = (found["label"] % 5).astype(np.uint16)
    bottom, right = nuclei.shape
    found["touches_edge"] = (
        (found["bbox-0"] == 0)
        | (found["bbox-1"] == 0)
        | (found["bbox-2"] == bottom)
        | (found["bbox-3"] == right)
    )
    found["out_of_focus"] = found["label"] % 3 == 0
    return found


def outlines(nuclei, scale):
    """The very pixels of each nucleus as one shape, in level-0 pixels of the slide."""
    found = []
    for region in skimage.measure.regionprops(nuclei):
        y, x = region.coords.T
        whole = shapely.union_all(shapely.box(x, y, x + 1, y + 1))
        found.append(shapely.transform(whole, lambda at: at * (scale[1], scale[0])))
    return found


def write_table(path, table, shapes):
    """As a run writes it."""
    columns = {name: table[name].to_numpy() for name in table}
    kinds = [(name, column.dtype.name) for name, column in columns.items()]
    columns["geometry"] = shapely.to_wkb(np.array(shapes, object))
    with records.writer(path) as file:
        tables.write(file, [columns], [*kinds, ("geometry", "wkb")], {"units": UNITS})
