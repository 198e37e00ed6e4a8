"""The run.json of a finished slide -> the same run once more, and whether its labels are equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nucleiflow import batch, digest, model, provenance, records, regions, source, store
from nucleiflow.box import grid
from nucleiflow.config import Cluster, RunConfig, Wanted
from nucleiflow.errors import ConfigError, RunError, SlideError
from nucleiflow.place import Place
from nucleiflow.progress import Progress

BLOCK_PX = 2048


@dataclass(frozen=True)
class Verdict:
    """`equal`: labels of both runs. `pixels`: how many differ, None if only digests could be
    compared. `changes`: what else is not as it was.
    """

    equal: bool
    pixels: int | None
    digests: tuple[str, str]
    changes: tuple[str, ...]
    labels: str

    def as_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "pixels_that_differ": self.pixels,
            "labels_digest": {"before": self.digests[0], "now": self.digests[1]},
            "changes": list(self.changes),
            "labels": self.labels,
        }

    def text(self) -> str:
        how = "bit for bit" if self.pixels is not None else "by their digests"
        result = f"the labels are equal, {how}" if self.equal else self._difference()
        return "\n".join([*(f"changed: {one}" for one in self.changes), result, self.labels])

    def _difference(self) -> str:
        amount = "" if self.pixels is None else f" at {self.pixels:,} pixels"
        return f"the labels differ{amount}: {self.digests[0]} before, {self.digests[1]} now"


def rerun(run_json: Place, out: Place, *, cluster: Cluster, progress: Progress) -> Verdict:
    """Run again what a run.json tells of, into `out`, and compare.

    Raises ConfigError for a file that tells too little, SlideError or ConfigError where the slide
    or the model is not what it was, RunError where the run fails.
    """
    word = _word(run_json)
    told = word["provenance"]
    wanted = Wanted(
        slide=told["slide"],
        name=run_json.parent.name,
        config=RunConfig(**{**told["config"], "model": told["model"]}),
    )
    if out / wanted.name == run_json.parent:
        raise ConfigError(f"{out} holds the run that is compared with: give another --out")
    _check_input(word, run_json)
    outcome = batch.run([wanted], out, cluster=cluster, progress=progress)
    row = outcome.slides[0]
    if row["status"] != "done":
        raise RunError(f"the second run failed: {row['reason']}")
    digests = word["labels_digest"], row["labels_digest"]
    before, now = run_json.parent / word["labels"] / "0", out / wanted.name / word["labels"] / "0"
    pixels = _pixels_that_differ(before, now) if records.exists(before / "zarr.json") else None
    return Verdict(
        equal=digests[0] == digests[1] if pixels is None else not pixels,
        pixels=pixels,
        digests=digests,
        changes=tuple(provenance.changes(told)),
        labels=str(now),
    )


def _word(run_json: Place) -> dict[str, Any]:
    word = records.get_json(run_json)
    if word is None:
        raise ConfigError(f"{run_json}: no such file: give the run.json of a finished slide")
    if not {"provenance", "fingerprint", "labels", "labels_digest"} <= word.keys():
        raise ConfigError(f"{run_json} is not the run.json of a finished slide of this version")
    labels = run_json.parent / str(word["labels"]) / "0" / "zarr.json"
    if not digest.is_known(word["labels_digest"]) and not records.exists(labels):
        raise ConfigError(
            f"{run_json}: an earlier version made its digest, and the labels are gone: there is "
            "nothing to compare with"
        )
    return word


def _check_input(word: dict[str, Any], run_json: Place) -> None:
    """The slide and the model must be those of the first run."""
    told, mark = word["provenance"], word["fingerprint"]
    with source.open_slide(told["slide"]):
        differs = provenance.differences(mark["input"], source.fingerprint(told["slide"]), "input")
    if differs:
        raise SlideError(
            f"{told['slide']} is not the slide of {run_json} any more ({'; '.join(differs)}): "
            "bring it back"
        )
    region = told["config"].get("region")
    if region:
        resolution = word["resolution"]
        size = resolution["slide_height"], resolution["slide_width"]
        if regions.read(region, size).digest != mark["options"].get("region"):
            raise ConfigError(f"the region is not that of {run_json} any more: bring it back")
    sha256 = model.digest(told["model"])
    if sha256 != mark["model"]:
        raise ConfigError(
            f"model {told['model']} has digest {sha256[:12]}, the run had {mark['model'][:12]}: "
            "bring it back"
        )


def _pixels_that_differ(before: Place, now: Place) -> int:
    """Their number; of labels of other sizes it is all of them."""
    one, other = store.open_readonly(before), store.open_readonly(now)
    if one.shape != other.shape:
        return int(max(one.size, other.size))
    boxes = grid(one.shape[0], one.shape[1], BLOCK_PX)
    return sum(int(np.count_nonzero(one[at] != other[at])) for at in (b.slices() for b in boxes))
