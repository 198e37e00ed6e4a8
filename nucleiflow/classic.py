"""Annotated images -> the U-Net of the 2018 Data Science Bowl, by its own recipe, and its worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from nucleiflow import dataset, inference, metrics, unet
from nucleiflow.model import digest

THRESHOLD = 0.5  # of the map, as in 2018; instances are the connected components above it


class ClassicJob(BaseModel):
    """The recipe: whole images squeezed to one square, no augmentation, one map, a few epochs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Literal["classic"]
    data: tuple[Path, ...]
    output: Path
    epochs: int = Field(10, gt=0)
    batch: int = Field(16, gt=0)
    side_px: int = Field(256, multiple_of=16, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    filters: tuple[int, ...] = unet.FILTERS
    random_seed: int = 2018


Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def squeeze(image: NDArray[Any], labels: NDArray[Any], side_px: int) -> Pair:
    """Image (h, w, 1 or 3), labels (h, w) -> image (s, s, 3), mask 0 or 1 (s, s, 1), both uint8."""
    from skimage.transform import resize

    colour = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.float64)
    full = np.iinfo(image.dtype).max
    small = resize(colour / full, (side_px, side_px), order=1, anti_aliasing=True)
    mask = resize((labels > 0).astype(np.float64), (side_px, side_px), order=1, anti_aliasing=True)
    return np.rint(small * 255).astype(np.uint8), (mask > THRESHOLD)[..., None].astype(np.uint8)


def train(job: ClassicJob, *, say: Callable[[str], None]) -> Path:
    """Run the recipe; writes `<output>.keras` (one map) and `<output>.json` (record and scores)."""
    keras = inference.tensorflow().keras
    samples = [one for folder in job.data for one in dataset.find(folder)]
    held_out = [one for one in samples if one.split == "val"]
    say(f"reading {len(samples)} images, {len(held_out)} of them held out")
    trained = [squeeze(*dataset.read(one), job.side_px) for one in samples if one.split == "train"]
    judged = [squeeze(*dataset.read(one), job.side_px) for one in held_out]
    keras.utils.set_random_seed(job.random_seed)
    model = unet.build(unet.Design(job.filters, outputs=1, starter=True))
    model.compile(
        optimizer=keras.optimizers.Adam(job.learning_rate),
        loss="binary_crossentropy",
        metrics=["binary_accuracy"],
    )
    epochs: list[dict[str, float]] = []

    def note(epoch: int, logs: dict[str, float]) -> None:
        epochs.append({name: round(float(value), 4) for name, value in logs.items()})
        say(
            f"epoch {epoch + 1}/{job.epochs}  pixel accuracy: "
            f"training {logs['binary_accuracy']:.2%}, validation {logs['val_binary_accuracy']:.2%}"
        )

    model.fit(
        *_stacked(trained),
        batch_size=job.batch,
        epochs=job.epochs,
        validation_data=_stacked(judged),
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=note)],
    )
    job.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(f"{job.output}.keras")
    worth = instances(model, held_out, job.side_px)
    for group, scores in worth.items():
        told = [f"{name} {value:.3f}" for name, value in scores.items() if name != "images"]
        say(f"{group:20} images {scores['images']:.0f}  {'  '.join(told)}")
    _record(job, samples, epochs, worth)
    return Path(f"{job.output}.keras")


def _stacked(pairs: Sequence[Pair]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return np.stack([one for one, _ in pairs]), np.stack([one for _, one in pairs])


def instances(
    model: Any, samples: Sequence[dataset.Sample], side_px: int
) -> dict[str, dict[str, float]]:
    """Scores by group and in total of the components of the map, brought back to image size."""
    from skimage.transform import resize

    rows: dict[str, list[tuple[metrics.Matching, float, float]]] = {}
    for sample in samples:
        image, labels = dataset.read(sample)
        pixels, _ = squeeze(image, labels, side_px)
        small = np.asarray(model(pixels[None].astype(np.float32), training=False))[0, ..., 0]
        found = ndimage.label(resize(small, labels.shape, order=1) > THRESHOLD)[0]
        overlaps = metrics.overlaps(labels, found)
        accuracy = metrics.pixel_accuracy(labels, found)
        row = overlaps.matching(0.5), overlaps.kaggle_score(), accuracy
        for group in (sample.group, "all"):
            rows.setdefault(group, []).append(row)
    return {group: _scores(group_rows) for group, group_rows in sorted(rows.items())}


def _scores(rows: Sequence[tuple[metrics.Matching, float, float]]) -> dict[str, float]:
    total = metrics.pooled([matching for matching, _, _ in rows])
    return {
        "images": len(rows),
        "pixel_accuracy": round(float(np.mean([accuracy for _, _, accuracy in rows])), 4),
        "kaggle": round(float(np.mean([kaggle for _, kaggle, _ in rows])), 4),
        "ap50": round(total.average_precision, 4),
        "f1": round(total.f1, 4),
    }


def _record(
    job: ClassicJob,
    samples: Sequence[dataset.Sample],
    epochs: Sequence[dict[str, float]],
    worth: dict[str, dict[str, float]],
) -> None:
    path = Path(f"{job.output}.keras")
    threshold = round(THRESHOLD * 255)
    record = {
        "sha256": digest(path),
        "input": {"polarity": "as-is"},
        "postprocessing": {"nucleus_threshold": threshold, "seed_threshold": threshold},
        "training": {
            "data": [folder.name for folder in job.data],
            "images": sum(one.split == "train" for one in samples),
            "held_out": sum(one.split == "val" for one in samples),
            **job.model_dump(mode="json", exclude={"data", "output"}),
            "epochs_seen": epochs,
        },
        "instances": worth,
    }
    Path(f"{job.output}.json").write_text(json.dumps(record, indent=1) + "\n")
