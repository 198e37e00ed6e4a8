"""Annotated images -> a trained U-Net, its digest and its training record."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nucleiflow import dataset, unet
from nucleiflow.augment import Planes, crop
from nucleiflow.errors import ConfigError
from nucleiflow.model import digest

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class TrainJob(BaseModel):
    """A training job file: every field has a unit in its name or is a plain count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[Path, ...]
    output: Path
    steps: int = Field(gt=0)
    batch: int = Field(16, gt=0)
    crop_px: int = Field(256, multiple_of=16, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    filters: tuple[int, ...] = unet.FILTERS
    precision: str = "float32"
    group_weights: dict[str, float] = {}
    default_weight: float = Field(1.0, gt=0)
    checkpoint_steps: int = Field(200, gt=0)
    random_seed: int = 2018
    postprocessing: dict[str, int] = {}


def load_job(path: Path) -> TrainJob:
    """Read a YAML job; its relative paths count from the file's folder. Raises ConfigError."""
    try:
        job = TrainJob.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ConfigError(f"job {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"job {path} is not YAML: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"job {path}: {where}: {first['msg']}") from error
    here = path.parent
    return job.model_copy(
        update={"data": tuple(here / data for data in job.data), "output": here / job.output}
    )


def batches(job: TrainJob, images: Sequence[Planes], first_step: int) -> Iterator[Batch]:
    """Batches from `first_step` on; batch k depends on the job and k alone, so training resumes."""
    weights = np.array([job.group_weights.get(one.group, job.default_weight) for one in images])
    sizes = {
        group: sum(one.group == group for one in images) for group in {i.group for i in images}
    }
    chance = weights / np.array([sizes[one.group] for one in images])
    chance /= chance.sum()
    for step in range(first_step, job.steps):
        rng = np.random.default_rng((job.random_seed, step))
        chosen = rng.choice(len(images), size=job.batch, p=chance)
        crops = [crop(images[index], job.crop_px, rng) for index in chosen]
        yield np.stack([one for one, _ in crops]), np.stack([one for _, one in crops])


def ahead(items: Iterator[Batch], depth: int = 4) -> Iterator[Batch]:
    """The same items, prepared by a thread while the network is busy."""
    waiting: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)

    def fill() -> None:
        try:
            for item in items:
                waiting.put(item)
            waiting.put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            waiting.put(error)

    threading.Thread(target=fill, daemon=True).start()
    while (item := waiting.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def _loss(wanted: Any, maps: Any) -> Any:
    """Cross-entropy and soft Dice of both maps; pixels in contact zones weigh more."""
    tf = unet.tensorflow()
    truth = tf.cast(wanted[..., :2], tf.float32) / 255.0
    contact = tf.cast(wanted[..., 2:], tf.float32) / 255.0
    maps = tf.clip_by_value(tf.cast(maps, tf.float32), 1e-6, 1 - 1e-6)
    entropy = -(truth * tf.math.log(maps) + (1 - truth) * tf.math.log(1 - maps))
    entropy = tf.reduce_mean(entropy * (1.0 + 3.0 * contact), axis=(0, 1, 2))
    both = tf.reduce_sum(truth * maps, axis=(0, 1, 2))
    each = tf.reduce_sum(truth + maps, axis=(0, 1, 2))
    dice = 1.0 - (2.0 * both + 1.0) / (each + 1.0)
    return tf.reduce_sum(entropy) + 0.5 * tf.reduce_sum(dice)


def _stepper(model: Any, optimizer: Any) -> Callable[[Any, Any], Any]:
    tf = unet.tensorflow()

    @tf.function(reduce_retracing=True)
    def step(pixels: Any, wanted: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = _loss(wanted, model(tf.cast(pixels, tf.float32), training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return step


def train(job: TrainJob, *, resume: bool, say: Callable[[str], None]) -> Path:
    """Run a job to its end and write `<output>.keras` and `<output>.json`.

    A killed training goes on with `resume`: weights, optimiser, schedule and data order continue
    where the last checkpoint stood.
    """
    tf = unet.tensorflow()
    keras = tf.keras
    samples = [one for folder in job.data for one in dataset.find(folder)]
    say(f"reading {len(samples)} images")
    images = list(dataset.planes([one for one in samples if one.split == "train"]))
    keras.utils.set_random_seed(job.random_seed)
    keras.mixed_precision.set_global_policy(job.precision)
    model = unet.build(job.filters, batch_norm=True)
    keras.mixed_precision.set_global_policy("float32")
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, job.steps, alpha=0.01, warmup_target=job.learning_rate, warmup_steps=job.steps // 20
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4, clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    state = tf.train.Checkpoint(model=model, optimizer=optimizer)
    keeper = tf.train.CheckpointManager(state, f"{job.output}.checkpoints", max_to_keep=2)
    first = 0
    if resume and keeper.latest_checkpoint:
        state.restore(keeper.latest_checkpoint).assert_consumed()
        first = int(optimizer.iterations.numpy())
        say(f"going on from step {first}")
    step, began, losses = _stepper(model, optimizer), time.monotonic(), []
    for number, (pixels, wanted) in enumerate(ahead(batches(job, images, first)), first + 1):
        losses.append(float(step(pixels, wanted)))
        if number % 50 == 0:
            pace = (time.monotonic() - began) / (number - first)
            left = pace * (job.steps - number) / 60
            say(f"step {number}/{job.steps}  loss {np.mean(losses[-50:]):.4f}  {left:.0f} min left")
        if number % job.checkpoint_steps == 0 or number == job.steps:
            keeper.save(number)
            _export(job, model)
    _record(job, samples, losses)
    return Path(f"{job.output}.keras")


def _export(job: TrainJob, model: Any) -> None:
    job.output.parent.mkdir(parents=True, exist_ok=True)
    unet.fold(model, job.filters).save(f"{job.output}.keras")


def _record(job: TrainJob, samples: Sequence[dataset.Sample], losses: Sequence[float]) -> None:
    path = Path(f"{job.output}.keras")
    record = {
        "sha256": digest(path),
        "postprocessing": job.postprocessing,
        "training": {
            "data": [folder.name for folder in job.data],
            "images": sum(one.split == "train" for one in samples),
            "held_out": sum(one.split == "val" for one in samples),
            **job.model_dump(mode="json", exclude={"data", "output", "postprocessing"}),
            "final_loss": round(float(np.mean(losses[-100:])), 4) if losses else None,
        },
    }
    Path(f"{job.output}.json").write_text(json.dumps(record, indent=1) + "\n")
