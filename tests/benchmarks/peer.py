"""One method on the maps of one slide, in a process of its own and the method's own environment.

Prints seconds, processor seconds and peak memory as JSON, and leaves its labels as a Zarr array.
The maps lie in a Zarr array of 16 bits, nucleus map * 256 + seed map, so that each method reads
what it needs. Each method may use two threads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import zarr

NUCLEUS, SEED, LEAST_SEED_PX = 156, 192, 11  # as the shipped network's are used on fluorescence
TILE_PX, THREADS = 1024, 2
GRID, RAYS, THRESHOLDS = 2, 32, {"prob": 0.479, "nms": 0.3}  # as StarDist's 2D_versatile_fluo
EIGHT = np.ones((3, 3), bool)


def split(packed):
    """Packed maps -> nucleus map, seed map."""
    return (packed >> 8).astype(np.uint8), (packed & 255).astype(np.uint8)


def create(path, shape, dtype="uint32"):
    return zarr.create_array(
        str(path), shape=shape, dtype=dtype, chunks=(TILE_PX, TILE_PX), overwrite=True, fill_value=0
    )


def watershed(packed):
    """Labels of what is seen at once: markers by their connected components, then a flood."""
    from skimage.measure import label
    from skimage.segmentation import watershed as flood

    nucleus, seed = split(packed)
    markers = label(seed >= SEED, connectivity=2)
    small = np.bincount(markers.ravel()) < LEAST_SEED_PX
    markers[small[markers]] = 0
    return flood(255 - nucleus, markers, mask=(nucleus >= NUCLEUS) | (markers > 0))


def skimage(maps, out, _):
    """The whole image at once by scikit-image."""
    create(out, maps.shape)[:] = watershed(maps[:]).astype(np.uint32)


def scipy_label(maps, out, _):
    """Connected components of the seeds of the whole image by SciPy."""
    from scipy import ndimage

    create(out, maps.shape)[:] = ndimage.label(split(maps[:])[1] >= SEED, EIGHT)[0]


def dask_image(maps, out, _):
    """The same by dask-image, which unites blocks: seeds only, they do not grow."""
    import dask
    import dask.array
    from dask_image import ndmeasure

    dask.config.set(scheduler="threads", num_workers=THREADS)
    seeds = (dask.array.from_zarr(maps, chunks=(TILE_PX, TILE_PX)) & 255) >= SEED
    labels = ndmeasure.label(seeds, EIGHT)[0].astype(np.uint32)
    dask.array.to_zarr(labels, str(out), overwrite=True)


def cellpose_import():
    import torch

    for name in ("nms", "qnms"):  # a torchvision made for GPUs lacks them on a CPU
        with contextlib.suppress(RuntimeError):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    from cellpose.contrib import distributed_segmentation

    return distributed_segmentation


def repaired(theirs):
    """Cellpose's `shrink_labels` takes the gradient of block faces, which it can in volumes only:
    in images, whose faces are lines, it deletes all labels, and no nucleus is united. Given twice
    the line is a plane.
    """
    shrink = theirs.shrink_labels

    def shrink_line(plane, threshold):
        line = plane.squeeze()
        return shrink(np.stack([line, line]), threshold)[0].reshape(plane.shape)

    theirs.shrink_labels = shrink_line


def cellpose_repaired(maps, out, folder):
    """The same with its mending of seams repaired for images of two dimensions."""
    repaired(cellpose_import())
    cellpose(maps, out, folder)


def cellpose(maps, out, folder):
    """Cellpose's `distributed_eval`: blocks with overlap, united where they touch at block faces.

    Its network is replaced by a watershed on the block's maps; all else is Cellpose's.
    """
    import distributed

    theirs = cellpose_import()
    theirs.read_preprocess_and_segment = lambda maps, crop, *_: watershed(maps[crop]).astype(
        np.uint32
    )
    theirs.zarr = types.SimpleNamespace(  # it calls it as Zarr 2 was called
        open=lambda path, mode="r", **how: zarr.open(path, mode=mode, **how)
    )
    os.chdir(folder)  # it writes logs there
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=THREADS, processes=False, dashboard_address=None
    ) as cluster:
        cluster.client = distributed.Client(cluster)
        theirs.distributed_eval(
            input_zarr=maps,
            blocksize=(TILE_PX, TILE_PX),
            write_path=str(out),
            eval_kwargs={"diameter": 30},
            cluster=cluster,
        )
        cluster.client.close()


def cellpose_tiles(image, folder):
    """Cut a slide, as the network sees it, into Cellpose's tiles."""
    cellpose_import()
    from cellpose import transforms

    tiles, rows, columns, _, _ = transforms.make_tiles(image, bsize=256, tile_overlap=0.1)
    np.save(folder / "tiles.npy", tiles.reshape(-1, *tiles.shape[2:]).astype(np.uint8))
    np.save(folder / "places.npy", np.array([rows, columns]))


def cellpose_average(folder, out):
    """The network's answers for the tiles -> maps, averaged with Cellpose's weights."""
    cellpose_import()
    from cellpose import transforms

    answers, (rows, columns) = np.load(folder / "answers.npy"), np.load(folder / "places.npy")
    height, width = int(rows.max()), int(columns.max())
    seen = transforms.average_tiles(answers.astype(np.float32), rows, columns, height, width)
    nucleus, seed = np.rint(seen).astype(np.uint16)
    create(out, (height, width), "uint16")[:] = (nucleus << 8) | seed


class Places:
    """An image of which only places are asked for: a block knows where it begins."""

    ndim = 2

    def __init__(self, shape):
        self.shape = shape

    def __getitem__(self, box):
        (y0, y1, _), (x0, x1, _) = (
            one.indices(side) for one, side in zip(box, self.shape, strict=True)
        )
        return np.broadcast_to(np.int64(y0 * self.shape[1] + x0), (y1 - y0, x1 - x0))


def stardist_model(folder, width):
    """StarDist as it is, but for its network: what that would answer is read from disk."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from stardist.models import Config2D, StarDist2D

    class FromDisk(StarDist2D):
        def _predict_sparse_generator(self, img, prob_thresh=None, **_):
            y, x = divmod(int(img[0, 0]), width)
            rows, columns = (
                slice(start // GRID, -(-(start + side) // GRID))
                for start, side in zip((y, x), img.shape, strict=True)
            )
            chance = np.array(self.chance[rows, columns], np.float32)
            rays = self.rays[rows, columns]
            inner = np.zeros(chance.shape, bool)
            inner[2:-2, 2:-2] = chance[2:-2, 2:-2] > self.thresholds.prob
            points = np.argwhere(inner) * GRID
            yield chance[inner], np.maximum(1e-3, rays[inner].astype(np.float32)), points

    model = FromDisk(Config2D(n_rays=RAYS, grid=(GRID, GRID)), name=None, basedir=None)
    model.thresholds = THRESHOLDS
    model.chance = np.load(folder / "chance.npy", mmap_mode="r")
    model.rays = np.load(folder / "rays.npy", mmap_mode="r")
    return model


def stardist_maps(maps, out, folder):
    """What a StarDist network that sees our nuclei would answer: a chance and 32 distances at
    every second pixel. `out` holds the nuclei.
    """
    from stardist.geometry import star_dist
    from stardist.utils import edt_prob

    nuclei = zarr.open_array(str(out), mode="r")[:].astype(np.int32)
    np.save(folder / "chance.npy", edt_prob(nuclei)[::GRID, ::GRID].astype(np.float32))
    np.save(folder / "rays.npy", star_dist(nuclei, RAYS, grid=(GRID, GRID)).astype(np.float16))


def stardist(maps, out, folder):
    """StarDist's `predict_instances_big`: blocks with overlap, each object of one block."""
    model = stardist_model(folder, maps.shape[1])
    places, labels = Places(maps.shape), create(out, maps.shape)
    options = {"block_size": TILE_PX, "min_overlap": 128, "context": 96}
    _, found = model.predict_instances_big(
        places, "YX", labels_out=labels, show_progress=False, **options
    )
    np.save(folder / "points.npy", found["points"])


def stardist_whole(maps, out, folder):
    """StarDist's `predict_instances` of the whole image."""
    model = stardist_model(folder, maps.shape[1])
    everywhere = (slice(None), slice(None))
    labels, _ = model.predict_instances(Places(maps.shape)[everywhere], axes="YX")
    create(out, maps.shape)[:] = labels.astype(np.uint32)


METHODS = {
    one.__name__: one
    for one in (
        *(skimage, scipy_label, dask_image, cellpose, cellpose_repaired),
        *(stardist, stardist_maps, stardist_whole),
    )
}
PACKAGES = {
    "skimage": ("scikit-image",),
    "dask_image": ("dask-image", "dask"),
    "cellpose": ("cellpose", "torch"),
    "stardist": ("stardist", "tensorflow-cpu"),
}
IMPORTED = {
    "skimage": ("skimage.measure", "skimage.segmentation"),
    "scipy_label": ("scipy.ndimage",),
    "dask_image": ("dask.array", "dask_image.ndmeasure"),
    **dict.fromkeys(
        ("cellpose", "cellpose_repaired"),
        ("distributed", "skimage.measure", "skimage.segmentation"),
    ),
    **dict.fromkeys(("stardist", "stardist_maps", "stardist_whole"), ("stardist.models",)),
}


def peak_mb():
    """Of this process: what getrusage tells is at least that of who started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3


def timed(work):
    """Run it; what it cost, as one line of JSON for whoever started this process."""
    before, began, used = peak_mb(), time.monotonic(), os.times()
    work()
    now = os.times()
    cost = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": now.user + now.system - used.user - used.system,
        "start_mb": before,
        "peak_mb": peak_mb(),
    }
    print(f"\n{json.dumps(cost)}", file=sys.__stdout__, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=[*METHODS, "tiles", "average", "versions"])
    parser.add_argument("maps", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--of", default="skimage")
    given = parser.parse_args()
    folder = given.maps.parent.absolute()
    if given.method == "versions":
        print(json.dumps({one: importlib.metadata.version(one) for one in PACKAGES[given.of]}))
    elif given.method == "tiles":
        cellpose_tiles(np.load(folder / "seen.npy"), folder)
    elif given.method == "average":
        cellpose_average(folder, given.out)
    else:
        maps = zarr.open_array(str(given.maps.absolute()), mode="r")
        out = given.out.absolute()
        warm(given.method)
        timed(lambda: METHODS[given.method](maps, out, folder))


def warm(method):
    """Import what a method needs before the clock runs."""
    if method.startswith("cellpose"):
        cellpose_import()
    for name in IMPORTED.get(method, ()):
        importlib.import_module(name)


if __name__ == "__main__":
    main()
