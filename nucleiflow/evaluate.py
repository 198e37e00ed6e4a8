"""Annotated images -> the whole pipeline's labels -> scores, a table, JSON and a picture page."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import (
    __version__,
    batch,
    layouts,
    metrics,
    overlay,
    page,
    picture,
    pyramid,
    records,
    scores,
    stain,
    store,
)
from nucleiflow.config import RunConfig
from nucleiflow.errors import ConfigError, SlideError
from nucleiflow.layouts import Sample
from nucleiflow.model import SHIPPED, digest
from nucleiflow.progress import Progress
from nucleiflow.scores import ImageScore, Json
from nucleiflow.snapshot import Snapshot

SPLITS = ("all", "val", "train")
WORST, OTHERS = 24, 6  # pictures of the page
PICTURE_PX, COLOURS = 512, 240  # of a picture: no longer side, no more colours
SEED = 2018


@dataclass(frozen=True)
class Choice:
    """Which images of a folder: a split, and no more than `limit` of it, spread evenly."""

    folder: Path
    split: str = "all"
    limit: int | None = None

    def samples(self) -> list[Sample]:
        """Raises ConfigError where none is left, or SlideError."""
        return choose(layouts.find(self.folder), self.split, self.limit)


@dataclass(frozen=True)
class Judged:
    """One image with its scores and the final word of its run, or why that failed."""

    sample: Sample
    name: str
    modality: str
    score: ImageScore
    word: Json

    @property
    def failed(self) -> bool:
        return bool(self.word["status"] == "failed")

    def row(self) -> Json:
        facts = {
            "image": self.name,
            "group": self.sample.group,
            "modality": self.modality,
            "split": self.sample.split,
            "status": self.word["status"],
        }
        told = {key: self.word[key] for key in ("reason", "stain") if key in self.word}
        return facts | told | scores.of_image(self.score)


@dataclass(frozen=True)
class Evaluation:
    """All that is said of a data set; `exit_code` is that of the run."""

    title: str
    content: Json
    judged: tuple[Judged, ...]
    exit_code: int

    def text(self) -> list[str]:
        """The tables to print: each group, then the modalities and the total in detail."""
        groups, modalities = self.content["groups"], self.content["modalities"]
        total = ("all", self.content["total"])
        inner = {f"all {name}": row for name, row in modalities.items()}
        shown = {**groups, **(inner if groups.keys() != modalities.keys() else {})}
        overall = [*modalities.items(), total] if len(modalities) > 1 else [total]
        lines = [*scores.table([*shown.items(), total]), "", *scores.detail(overall)]
        for one in self.judged:
            if one.failed:
                lines += ["", f"failed, counted as nothing found: {one.name}: {one.word['reason']}"]
        return lines


def choose(samples: Sequence[Sample], split: str, limit: int | None) -> list[Sample]:
    """The samples of a split; with a limit, that many of them, spread evenly over the groups.

    Raises ConfigError where none is left.
    """
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}: choose one of {', '.join(SPLITS)}")
    kept = [one for one in samples if split in ("all", one.split)]
    if not kept:
        raise ConfigError(
            f"no image is in the split {split}: of {len(samples)} images, every "
            f"{layouts.EVERY}th of a group is for validation: use --split all"
        )
    if limit is None or limit >= len(kept):
        return kept
    return [kept[index] for index in np.linspace(0, len(kept) - 1, limit).round().astype(int)]


def evaluate(
    choice: Choice,
    config: RunConfig,
    *,
    out: Path | None = None,
    workers: int | None = 0,
    progress: Progress,
) -> Evaluation:
    """Segment the images of a folder and score the labels; `out` gets results, JSON and the page.

    Without `out` the results are dropped. Raises NucleiflowError for what concerns all images; an
    image that fails is scored as an empty answer.
    """
    stain.check((), stain=config.stain, channel=None)
    samples, folder = choice.samples(), choice.folder
    sizes = [layouts.size(one.image) for one in samples]
    for one, size in zip(samples, sizes, strict=True):
        layouts.read_labels(one, size)  # what is wrong with the truth is said before the work
    with _folder(out) as work:
        run = batch.run(
            batch.slides(
                [str(one.image) for one in samples], config.model_copy(update={"restart": True})
            ),
            work,
            cluster=batch.local(workers),
            progress=_Counted(progress),
        )
        judged = tuple(
            _judge(folder, one, size, word)
            for one, size, word in zip(samples, sizes, run.slides, strict=True)
        )
        content = _content(folder, config, judged) | {"split": choice.split, "limit": choice.limit}
        title = f"{content['folder']}, split {choice.split}: {len(judged)} images"
        done = Evaluation(title, content, judged, run.exit_code)
        if out is not None:
            records.put_json(out / "evaluation.json", content)
            records.put(out / "evaluation.html", _page(done).encode())
    return done


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Where the runs go: below `out`, or a folder that is removed in the end."""
    if out is not None:
        yield out / "runs"
        return
    with tempfile.TemporaryDirectory(prefix="nucleiflow-") as scratch:
        yield Path(scratch)


def _judge(folder: Path, sample: Sample, size: tuple[int, int], word: Json) -> Judged:
    truth = layouts.read_labels(sample, size)
    return Judged(
        sample,
        sample.image.relative_to(folder).as_posix(),
        sample.modality or _modality(sample.image),
        scores.score(truth, _found(word, size)),
        word,
    )


def _modality(image: Path) -> str:
    try:
        return layouts.recognise(image)
    except SlideError:  # its run failed, too
        return "unreadable"


def _found(word: Json, size: tuple[int, int]) -> NDArray[Any]:
    """Labels of a finished slide at its working size; none of a failed one."""
    if word["status"] == "failed":
        return np.zeros(size, np.uint32)
    return np.asarray(store.open_readonly(Path(word["folder"]) / word["labels"] / "0")[:])


def _content(folder: Path, config: RunConfig, judged: Sequence[Judged]) -> Json:
    groups: dict[str, list[Judged]] = {}
    modalities: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.sample.group, []).append(one)
        modalities.setdefault(one.modality, []).append(one)
    path = config.model or SHIPPED
    stains = {one.word["stain"]: one.word for one in judged if not one.failed}
    return {
        "folder": folder.resolve().name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "model": {"name": path.name, "sha256": digest(path)},
        "options": config.model_dump(include={"stain", "mpp", "working_mpp"}),
        "thresholds": {
            "iou": list(scores.IOUS),
            "panoptic": "IoU > 0.5",
            "kaggle": "IoU > 0.50, 0.55 .. 0.95",
            "maps": {stain: word.get("postprocessing") for stain, word in sorted(stains.items())},
        },
        "images": len(judged),
        "failed": [one.name for one in judged if one.failed],
        "groups": _rows(groups),
        "modalities": _rows(modalities),
        "total": _row(judged),
        "per_image": [one.row() for one in judged],
    }


def _rows(named: dict[str, list[Judged]]) -> Json:
    return {name: _row(images) for name, images in sorted(named.items())}


def _row(images: Sequence[Judged]) -> Json:
    return scores.of_group([one.score for one in images])


def _page(done: Evaluation) -> str:
    """The worst images by AP50, then a few of the others."""
    ranked = sorted(done.judged, key=lambda one: (one.score.at[0].average_precision, one.name))
    rest = ranked[WORST:]
    others = random.Random(SEED).sample(rest, min(OTHERS, len(rest)))
    return page.page(
        done.title,
        done.text(),
        [_figure(one) for one in ranked[:WORST]],
        [_figure(one) for one in others],
    )


def _figure(one: Judged) -> page.Figure:
    row = scores.of_image(one.score)
    at_half = one.score.at[0]
    lines = [
        f"{one.sample.group}: AP50 {row['iou']['0.5']['ap']:.3f}, PQ {row['panoptic']['pq']:.3f}, "
        f"AJI {row['aji']:.3f}, Kaggle {row['kaggle']:.3f}",
        f"{one.score.true} true, {one.score.found} found: {at_half.false_negative} missed, "
        f"{at_half.false_positive} wrong",
    ]
    lines += [f"failed: {one.word['reason']}"] if one.failed else []
    try:
        drawn = _picture(one)
    except Exception as error:  # a failed image may be unreadable, and its row is enough
        if not one.failed:
            raise
        lines.append(f"no picture: {error}")
        drawn = np.zeros((8, 8, 3), np.uint8)
    return page.Figure(picture.png(drawn, colours=COLOURS), one.name, tuple(lines))


def _picture(one: Judged) -> NDArray[np.uint8]:
    """The image with both outlines, halved until it is small."""
    image = layouts.read_image(one.sample.image)
    truth = layouts.read_labels(one.sample, image.shape[:2])
    found = metrics.resized(_found(one.word, truth.shape), truth.shape)
    missed, wrong = metrics.overlaps(truth, found).unmatched(scores.IOUS[0])
    planes = np.moveaxis(_shown(image, one.word), -1, 0)
    maps = [truth, found, np.isin(truth, missed), np.isin(found, wrong)]
    while max(planes.shape[1:]) > PICTURE_PX:
        planes = pyramid.halve_mean(planes)
        maps = [pyramid.halve_nearest(one) for one in maps]
    return overlay.compare(
        np.moveaxis(planes, 0, -1), maps[0], maps[1], missed=maps[2], wrong=maps[3]
    )


def _shown(image: NDArray[Any], word: Json) -> NDArray[np.uint8]:
    """Picture (h, w, 3) uint8: the channels that the network saw, stretched as it saw them."""
    norm = word.get("normalisation")
    if norm is None:
        return overlay.stretched(image[..., :1], 0, max(1, int(image.max())))
    return overlay.stretched(image[..., norm["channels"]], norm["low"], norm["high"])


class _Counted:
    """Progress by images: silent on what each of them says, but for failures."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner

    def say(self, text: str) -> None:
        if text.startswith("failed"):
            self._inner.say(text)

    def show(self, now: Snapshot) -> None:
        self._inner.show(now)

    def close(self) -> None:
        self._inner.close()
