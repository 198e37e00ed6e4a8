"""True and found labels of many images -> their scores by image, by group and in total. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nucleiflow import metrics
from nucleiflow.metrics import Labels, Matching

IOUS = (0.5, 0.7, 0.9)  # pairs count at IoU >= these
ABOVE_HALF = math.nextafter(0.5, 1)  # panoptic quality counts pairs at IoU > 0.5
DIGITS = 4

Json = dict[str, Any]
Ratio = tuple[float, float]


@dataclass(frozen=True)
class ImageScore:
    """What is to be known of one image to score it alone and with others. Areas are in px."""

    at: tuple[Matching, ...]  # one for each of IOUS
    panoptic: Matching
    kaggle: float
    jaccard: Ratio  # intersection and union of the aggregated Jaccard index
    dice: Ratio  # twice the foreground of both, and the sum of both foregrounds
    pixels: Ratio  # those that agree, and all

    @property
    def true(self) -> int:
        return self.panoptic.true_positive + self.panoptic.false_negative

    @property
    def found(self) -> int:
        return self.panoptic.true_positive + self.panoptic.false_positive

    @property
    def count_error(self) -> float:
        """|found - true| / true; without true nuclei, the number found."""
        return abs(self.found - self.true) / max(self.true, 1)


def score(truth: Labels, found: Labels) -> ImageScore:
    """Score found labels (h, w) against the truth; found ones of another size are resized."""
    found = metrics.resized(found, truth.shape)
    pairs = metrics.overlaps(truth, found)
    both, total = int(pairs.shared.sum()), int(pairs.truth_area.sum() + pairs.found_area.sum())
    return ImageScore(
        at=tuple(pairs.matching(iou) for iou in IOUS),
        panoptic=pairs.matching(ABOVE_HALF),
        kaggle=pairs.kaggle_score(),
        jaccard=pairs.aggregated_pixels(),
        dice=(2 * both, total),
        pixels=(truth.size - total + 2 * both, truth.size),
    )


def of_image(one: ImageScore) -> Json:
    """The row of one image."""
    return _rounded(
        {
            "true": one.true,
            "found": one.found,
            "kaggle": one.kaggle,
            "iou": {_name(iou): _detection(at) for iou, at in zip(IOUS, one.at, strict=True)},
            "panoptic": _panoptic(one.panoptic),
            "aji": _share(one.jaccard),
            "dice": _share(one.dice),
            "pixel_accuracy": _share(one.pixels),
            "count_error": one.count_error,
        }
    )


def of_group(images: Sequence[ImageScore]) -> Json:
    """The row of several images: pooled, as if they were one image, and the mean by image."""
    true, found = sum(one.true for one in images), sum(one.found for one in images)
    return _rounded(
        {
            "images": len(images),
            "true": true,
            "found": found,
            "kaggle": _mean(one.kaggle for one in images),
            "iou": {
                _name(iou): _both(_detection, [one.at[index] for one in images])
                for index, iou in enumerate(IOUS)
            },
            "panoptic": _both(_panoptic, [one.panoptic for one in images]),
            "aji": _ratios([one.jaccard for one in images]),
            "dice": _ratios([one.dice for one in images]),
            "pixel_accuracy": _ratios([one.pixels for one in images]),
            "count_error": {
                "by_image": _mean(one.count_error for one in images),
                "total": (found - true) / max(true, 1),
            },
        }
    )


def _name(iou: float) -> str:
    return f"{iou:g}"


def _detection(one: Matching) -> Json:
    return {
        "ap": one.average_precision,
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
        "mean_true_iou": one.mean_true_iou,
    }


def _panoptic(one: Matching) -> Json:
    return {
        "pq": one.panoptic_quality,
        "sq": one.segmentation_quality,
        "rq": one.recognition_quality,
    }


def _both(describe: Callable[[Matching], Json], images: Sequence[Matching]) -> Json:
    """The scores of all nuclei together, with their counts, and the means of the images' scores."""
    whole, rows = metrics.pooled(images), [describe(one) for one in images]
    counts = {
        "true_positive": whole.true_positive,
        "false_positive": whole.false_positive,
        "false_negative": whole.false_negative,
    }
    means = {name: _mean(row[name] for row in rows) for name in describe(whole)}
    return {"pooled": describe(whole) | counts, "by_image": means}


def _ratios(images: Sequence[Ratio]) -> Json:
    parts, wholes = zip(*images, strict=True)
    whole = _share((sum(parts), sum(wholes)))
    return {"pooled": whole, "by_image": _mean(_share(one) for one in images)}


def _share(ratio: Ratio) -> float:
    return ratio[0] / ratio[1] if ratio[1] else 1.0


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _rounded(content: Json) -> Json:
    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(inner) for name, inner in value.items()}
        return round(value, DIGITS) if isinstance(value, float) else value

    return {name: short(value) for name, value in content.items()}


def table(rows: Sequence[tuple[str, Json]]) -> list[str]:
    """Lines of an aligned table, one for each named row of `of_group`."""
    wide = max(len("group"), *(len(name) for name, _ in rows))
    titles = "Kaggle     PQ     SQ     RQ    AJI   Dice pixels count    AP50   AP70   AP90"
    blank = " " * wide
    lines = [
        f"{blank}            nuclei           mean by image{' ' * 43}all nuclei together",
        f"{'group':{wide}}  images    true   found  {titles}",
    ]
    for name, row in rows:
        means = [
            row["kaggle"],
            *row["panoptic"]["by_image"].values(),
            *(row[kind]["by_image"] for kind in ("aji", "dice", "pixel_accuracy")),
        ]
        pooled = [at["pooled"]["ap"] for at in row["iou"].values()]
        lines.append(
            f"{name:{wide}}  {row['images']:>6} {row['true']:>7} {row['found']:>7}  "
            + " ".join(f"{value:6.3f}" for value in means)
            + f" {row['count_error']['by_image']:5.0%}  "
            + " ".join(f"{value:6.3f}" for value in pooled)
        )
    return lines


def detail(rows: Sequence[tuple[str, Json]]) -> list[str]:
    """Lines of a second table: the detection scores of each row at each IoU."""
    wide = max(len("group"), *(len(name) for name, _ in rows))
    titles = "    AP  prec.    rec.     F1"
    lines = [
        f"{' ' * wide}        all nuclei together          mean by image",
        f"{'group':{wide}}  IoU  {titles}   {titles}",
    ]
    for name, row in rows:
        for iou, at in row["iou"].items():
            columns = [
                "  ".join(
                    f"{at[kind][value]:6.3f}" for value in ("ap", "precision", "recall", "f1")
                )
                for kind in ("pooled", "by_image")
            ]
            lines.append(f"{name:{wide}}  {iou:3}  {'   '.join(columns)}")
        pooled, total = row["panoptic"]["pooled"], row["count_error"]["total"]
        rest = ", ".join(f"{kind.upper()} {pooled[kind]:.3f}" for kind in ("pq", "sq", "rq"))
        lines.append(
            f"{name:{wide}}  all nuclei together: {rest}, AJI {row['aji']['pooled']:.3f}, "
            f"Dice {row['dice']['pooled']:.3f}, pixels {row['pixel_accuracy']['pooled']:.3f}, "
            f"count {total:+.1%}"
        )
    return lines
