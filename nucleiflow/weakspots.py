"""Model -> pictures of where it errs most on generated nuclei, whose truth is known."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nucleiflow import batch, demo, metrics, overlay, picture, showcase, store
from nucleiflow.box import Box, grid
from nucleiflow.config import RunConfig
from nucleiflow.errors import RunError
from nucleiflow.page import Figure
from nucleiflow.progress import Quiet

SLIDE_PX, FIELD_PX, FIELDS = 1024, 256, 4
COLOURS = 128
IOU = 0.5

Labels = NDArray[np.uint32]


def draw(model: Path) -> list[Figure]:
    """The fields of a generated DAPI slide with most errors: runs the network for some seconds."""
    image, truth = demo.make_slide(SLIDE_PX, seam_px=SLIDE_PX // 2)
    with tempfile.TemporaryDirectory(prefix="nucleiflow-") as scratch:
        slide = Path(scratch) / "generated.ome.tif"
        showcase.write_slide(slide, image)
        config = RunConfig(model=model, stain="fluorescence", level=0)
        wanted, serial = batch.slides([str(slide)], config), batch.local(0)
        run = batch.run(wanted, Path(scratch), cluster=serial, progress=Quiet())
        word = run.slides[0]
        if word["status"] != "done":
            raise RunError(f"the generated slide failed: {word['reason']}")
        labels = Path(word["folder"]) / word["labels"]
        found = np.asarray(store.open_readonly(labels / "0")[:])
    norm = word["normalisation"]
    return _worst(overlay.stretched(image[..., None], norm["low"], norm["high"]), truth, found)


def _worst(shown: NDArray[np.uint8], truth: Labels, found: Labels) -> list[Figure]:
    missed, wrong = metrics.overlaps(truth, found).unmatched(IOU)
    marks = np.isin(truth, missed), np.isin(found, wrong)

    def errors(box: Box) -> int:
        at = box.slices()
        lost, extra = (
            np.unique(one[at][mark[at]]) for one, mark in zip((truth, found), marks, strict=True)
        )
        return len(lost) + len(extra)

    ranked = sorted(
        grid(truth.shape[0], truth.shape[1], FIELD_PX),
        key=lambda box: (-errors(box), box.y0, box.x0),
    )
    figures = []
    for box in ranked[:FIELDS]:
        at = box.slices()
        drawn = overlay.compare(
            shown[at], truth[at], found[at], missed=marks[0][at], wrong=marks[1][at]
        )
        true, seen = (len(np.unique(one[at][one[at] > 0])) for one in (truth, found))
        figures.append(
            Figure(
                picture.png(np.kron(drawn, np.ones((2, 2, 1), np.uint8)), colours=COLOURS),
                f"rows {box.y0} to {box.y1}, columns {box.x0} to {box.x1}",
                (f"{true} true (blue), {seen} found (yellow), {errors(box)} missed or wrong",),
            )
        )
    return figures
