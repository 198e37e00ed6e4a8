"""The demonstration: make a slide whose nuclei are known, run the main job on it, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nucleiflow import batch, demo, metrics, pyramid, runfile, show, source, store, tiff
from nucleiflow.box import Box
from nucleiflow.config import RunConfig
from nucleiflow.errors import RunError
from nucleiflow.progress import Progress

MPP = 0.25
TILE_PX = 1024  # so that a slide of 4096 px has seams
PICTURE = Box(2500, 2500, 3100, 3300)


def run(
    folder: Path,
    *,
    size_px: int,
    workers: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """Make the slide in `folder`, segment it into `folder/out`, and say how well it went."""
    folder.mkdir(parents=True, exist_ok=True)
    slide = folder / "demo.ome.tif"
    say(f"making {slide}: {size_px} x {size_px} px")
    image, truth = demo.make_slide(size_px, seam_px=TILE_PX)
    fresh = not _holds(slide, image)
    if fresh:
        write_slide(slide, image)
    config = RunConfig(tile_px=TILE_PX, level=0, restart=fresh)  # the pixels of the truth
    wanted, out = batch.slides([str(slide)], config), folder / "out"
    outcome = batch.run(wanted, out, cluster=batch.local(workers), progress=progress)
    word = outcome.slides[0]
    if word["status"] != "done":
        raise RunError(f"the demonstration failed: {word['reason']}")
    made = Path(word["folder"])
    labels = made / word["labels"]
    found = np.asarray(store.open_readonly(labels / "0")[:])
    for line in compare(truth, found):
        say(line)
    pictures = folder / "overlay.png"
    box = PICTURE if size_px >= PICTURE.y1 else Box(0, 0, size_px, size_px)
    show.save(pictures, show.draw(made, runfile.read(made) or word, region=box, whole=False))
    say(f"\nlook at   {made}/report.html")
    say(f"picture   {pictures}")
    say(f"labels    {labels}   (OME-Zarr: napari --plugin napari-ome-zarr {labels.parent.parent})")


def write_slide(path: Path, image: NDArray[np.uint16]) -> None:
    """The image and its pyramid as an OME-TIFF; a name that ends in .part is never left behind."""
    levels = [image]
    for _ in pyramid.shapes(*image.shape)[1:]:
        levels.append(pyramid.halve_mean(levels[-1][None])[0])
    draft = path.with_name(f"{path.name}.part")
    tiff.write_pyramid(str(draft), levels, mpp=MPP, channel="DAPI")
    draft.replace(path)


def _holds(slide: Path, image: NDArray[np.uint16]) -> bool:
    """Whether a slide of this size is there from an earlier demonstration."""
    if not slide.exists():
        return False
    with source.open_slide(str(slide)) as there:
        return there.shape == image.shape


def compare(truth: NDArray[np.uint32], found: NDArray[np.uint32]) -> list[str]:
    """What was found against the truth, in words; nuclei on seams apart."""
    whole = metrics.overlaps(truth, found)
    seams = demo.on_seam(truth, TILE_PX)
    on_seam = np.where(np.isin(truth, seams), truth, 0)
    at_half = whole.matching(0.5)
    return [
        "",
        f"true nuclei            {at_half.true_positive + at_half.false_negative:>8,}",
        f"found                  {at_half.true_positive + at_half.false_positive:>8,}",
        f"found rightly          {at_half.true_positive:>8,}   (IoU of at least 0.5)",
        f"F1                     {at_half.f1:>8.3f}",
        f"average precision      {at_half.average_precision:>8.3f}",
        f"panoptic quality       {at_half.panoptic_quality:>8.3f}",
        f"recall, all nuclei     {at_half.recall:>8.3f}",
        f"recall, on tile seams  {metrics.match(on_seam, found, 0.5).recall:>8.3f}"
        f"   ({len(seams):,} nuclei lie on a seam)",
    ]
