"""A finished slide, or a run of several -> whether its labels are what they must be.

What is stored is compared with what run.json and the table say of it, everywhere; some windows are
computed once more.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nucleiflow import (
    inference,
    integrity,
    look,
    pixels,
    provenance,
    recompute,
    records,
    regions,
    runfile,
    store,
)
from nucleiflow.errors import ConfigError, NucleiflowError, RunError, explain
from nucleiflow.integrity import Difference, Say
from nucleiflow.place import Place

WINDOWS = 8
MOST_TOLD = 12  # differences of a slide that are written out


@dataclass
class Slide:
    """What was found of one slide; `unreadable` says why nothing could be."""

    name: str
    nuclei: int = 0
    windows: int = 0
    compared: int = 0
    differences: list[Difference] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    unreadable: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "slide": self.name,
            "nuclei": self.nuclei,
            "windows": self.windows,
            "nuclei_compared": self.compared,
            "differences": [one.as_json() for one in self.differences],
            "changes": self.changes,
            "unreadable": self.unreadable,
        }

    def text(self) -> str:
        amounts = (
            f"{self.nuclei:,} nuclei; {self.windows} windows computed again, with {self.compared:,}"
        )
        if not self.differences and not self.unreadable:
            return f"{self.name}: as it must be, bit for bit ({amounts})"
        told = [f"  {one}" for one in self.differences[:MOST_TOLD]]
        if len(self.differences) > MOST_TOLD:
            told.append(f"  … and {len(self.differences) - MOST_TOLD:,} more")
        told += [f"  changed since: {one}" for one in self.changes if self.differences]
        if self.unreadable:
            told.append(f"  cannot be verified: {self.unreadable}")
        head = "NOT as it must be" if self.differences else "not verified"
        return "\n".join([f"{self.name}: {head} ({amounts})", *told])


@dataclass(frozen=True)
class Report:
    slides: tuple[Slide, ...]

    @property
    def exit_code(self) -> int:
        """0 all is as it must be, 1 something differs, 2 a slide is unfinished or not readable."""
        if any(one.differences for one in self.slides):
            return 1
        return 2 if any(one.unreadable for one in self.slides) else 0

    def as_json(self) -> dict[str, Any]:
        return {"exit_code": self.exit_code, "slides": [one.as_json() for one in self.slides]}

    def text(self) -> str:
        return "\n".join(one.text() for one in self.slides)


def verify(
    folder: Place,
    *,
    windows: int = WINDOWS,
    seed: int = 0,
    model: Path | None = None,
    say: Say = lambda _: None,
) -> Report:
    """Look at every pixel of a slide's labels, and compute `windows` of them again.

    `folder` is that of a slide, or of a run of many; `model` is where the model lies now. Windows
    lie on seams, drawn by `seed`. Memory: a tile, the network, and 4 bytes a nucleus. Raises
    ConfigError where there is no run.
    """
    found = [_slide(one, windows, seed, model, say) for one in _folders(folder)]
    return Report(tuple(found))


def _folders(folder: Place) -> list[Place]:
    """The folder of a slide (or of its OME-Zarr), or those of a run, finished or not."""
    for one in (folder, folder.parent):
        if records.exists(one / "run.json"):
            return [one]
    there = [folder / name for name in records.names(folder)]
    slides = [
        one
        for one in there
        if records.exists(one / "run.json") or records.exists(one / "work" / "fingerprint.json")
    ]
    if not slides:
        raise ConfigError(f"{folder} holds no slide of a run: give the folder that was --out")
    return slides


def _slide(folder: Place, windows: int, seed: int, model: Path | None, say: Say) -> Slide:
    found = Slide(folder.name)
    try:
        word = runfile.read(folder)
        if word is None:
            found.unreadable = "it is not finished: give the command of the run again"
            return found
        found.nuclei = word["nuclei"]
        found.changes = provenance.changes(word["provenance"])
        job = runfile.job(word, folder, model)
        found.differences.extend(integrity.check(job, word, say))
        with tempfile.TemporaryDirectory() as scratch:
            again = recompute.second(job, Path(scratch))
            if again.partial:
                runfile.check_slide(word, again)
            if job.region is not None:
                told = records.get_arrays(job.region_place)
                records.put_arrays(again.region_place, told or {})
                regions.lay(again)
            pixels.ensure(again)
            again = _looked(again, word, found)
            cores = recompute.choose(again, windows, seed)
            _recompute(recompute.windows(again, cores), job.labels / "0", found, say)
        store.forget()
    except (NucleiflowError, OSError) as error:
        found.unreadable = explain(error)
    return found


def _looked(job: recompute.Second, word: dict[str, Any], found: Slide) -> recompute.Second:
    """The job with its tissue mask, and the look of the run, once more from the image."""
    lost = frozenset(hole["tile"] for hole in word["holes"] if hole["stage"] == "image")
    told = word["provenance"]["config"]
    seen = look.decide(
        replace(job, holes=lost),
        kind=told["stain"],
        channel=told["channel"],
        tissue_only=told["tissue_only"],
    ).look
    if seen is None or job.look is None:
        raise RunError(f"{job.name}: the look was not decided")
    differs = provenance.differences(
        job.look.as_json(), replace(seen, block_px=None).as_json(), "look"
    )
    if differs:
        found.differences.append(Difference(f"the image is another one: {'; '.join(differs)}"))
    return replace(job, look=replace(job.look, block_px=seen.block_px))


def _recompute(job: recompute.Second, labels: Place, found: Slide, say: Say) -> None:
    """Compute windows again and compare them."""
    if len(job.grid):
        inference.use("auto", 0)
    for index in range(len(job.grid)):
        core = job.grid.core(index)
        say(f"{job.name}: window {index + 1} of {len(job.grid)}, at {core.y0:,},{core.x0:,}")
        nuclei, wrong = recompute.compare(job, labels, index)
        found.windows += 1
        found.compared += nuclei
        found.differences.extend(Difference(text, place) for place, text in wrong)
