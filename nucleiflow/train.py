"""Annotated images -> a trained U-Net, its digest and its training record."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nucleiflow import dataset, inference, settings, unet
from nucleiflow.augment import Planes, crop
from nucleiflow.classic import ClassicJob
from nucleiflow.errors import ConfigError, ModelError
from nucleiflow.model import digest, load, sidecar

INHERITED = ("postprocessing", "resolution", "weaknesses")  # by a network tuned from another

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class TrainJob(BaseModel):
    """A training job file: every field has a unit in its name or is a plain count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[Path, ...]
    output: Path
    steps: int = Field(gt=0)
    batch: int = Field(16, gt=0)
    crop_px: int = Field(256, multiple_of=16, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(200, ge=0)
    decay_steps: int = Field(0, ge=0)
    average: float = Field(0.999, ge=0, lt=1)
    network: unet.Design = unet.Design(batch_norm=True)
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    group_weights: dict[str, float] = {}
    default_weight: float = Field(1.0, gt=0)
    checkpoint_steps: int = Field(200, gt=0)
    random_seed: int = 2018
    postprocessing: dict[str, Any] = {}
    resolution: dict[str, Any] = {}
    weaknesses: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.crop_px % self.network.stride_px:
            raise ValueError(
                f"crop_px is {self.crop_px}: this network needs a multiple of "
                f"{self.network.stride_px}"
            )
        try:
            settings.read(self.sidecar(), name="the job")
        except ModelError as error:
            raise ValueError(str(error)) from None
        return self

    def sidecar(self) -> dict[str, Any]:
        """What goes as it is into the file beside the weights."""
        told = {
            "postprocessing": self.postprocessing,
            "resolution": self.resolution,
            "weaknesses": list(self.weaknesses),
        }
        return {key: value for key, value in told.items() if value}


def load_job(path: Path) -> TrainJob | ClassicJob:
    """Read a YAML job; its relative paths count from the file's folder. Raises ConfigError."""
    try:
        content = yaml.safe_load(path.read_text())
        kind = ClassicJob if isinstance(content, dict) and "recipe" in content else TrainJob
        job = kind.model_validate(content)
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
    tf = inference.tensorflow()
    truth = tf.cast(wanted[..., :2], tf.float32) / 255.0
    contact = tf.cast(wanted[..., 2:], tf.float32) / 255.0
    maps = tf.clip_by_value(tf.cast(maps, tf.float32), 1e-6, 1 - 1e-6)
    entropy = -(truth * tf.math.log(maps) + (1 - truth) * tf.math.log(1 - maps))
    entropy = tf.reduce_mean(entropy * (1.0 + 3.0 * contact), axis=(0, 1, 2))
    both = tf.reduce_sum(truth * maps, axis=(0, 1, 2))
    each = tf.reduce_sum(truth + maps, axis=(0, 1, 2))
    dice = 1.0 - (2.0 * both + 1.0) / (each + 1.0)
    return tf.reduce_sum(entropy) + 0.5 * tf.reduce_sum(dice)


def rate_at(job: TrainJob, step: Any) -> Any:
    """Learning rate of a step: a rise, a plateau, and over the last `decay_steps` a fall to 0.

    Raising `steps` changes nothing of what was done before the fall, so a training can go on.
    """
    tf = inference.tensorflow()
    step = tf.cast(step, tf.float32)
    rise = (step + 1.0) / max(job.warmup_steps, 1)
    fall = (job.steps - step) / max(job.decay_steps, 1)
    return job.learning_rate * tf.clip_by_value(tf.minimum(rise, fall), 0.0, 1.0)


def _stepper(job: TrainJob, model: Any, optimizer: Any, average: list[Any]) -> Callable[..., Any]:
    """One step; the running average of all weights is what is used in the end (Polyak 1992)."""
    tf = inference.tensorflow()

    @tf.function(reduce_retracing=True)
    def step(pixels: Any, wanted: Any) -> Any:
        optimizer.learning_rate.assign(rate_at(job, optimizer.iterations))
        with tf.GradientTape() as tape:
            loss = _loss(wanted, model(tf.cast(pixels, tf.float32), training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        count = tf.cast(optimizer.iterations, tf.float32)
        keep = tf.minimum(job.average, count / (10.0 + count))
        for mean, weight in zip(average, model.variables, strict=True):
            mean.assign(keep * mean + (1.0 - keep) * weight)
        return loss

    return step


@dataclass(frozen=True)
class Start:
    """A network to go on from: its design, its weights in order, and what is known of its file."""

    design: unet.Design
    weights: list[NDArray[Any]]
    sha256: str
    known: dict[str, Any]


def start_from(path: Path, job: TrainJob) -> Start:
    """The network of a file that `train` wrote, to be tuned to the data of another job.

    Its batch normalisation stays folded: what is tuned is then the very function that the file
    computes, in training as in use, and small batches do no harm. Raises ModelError or ConfigError.
    """
    known = load(path)
    if (known.contract.channels, known.contract.maps) != (3, 2):
        raise ModelError(
            f"model {path} takes {known.contract.channels} channels and gives "
            f"{known.contract.maps} maps: training goes on from networks of 3 channels and 2 maps "
            "(nucleus, seed)"
        )
    if path.resolve() == Path(f"{job.output}.keras").resolve():
        raise ConfigError(f"--from {path} is where the job writes: give it another output")
    if job.crop_px % known.reach.stride_px:
        raise ConfigError(
            f"crop_px is {job.crop_px}: {path} needs a multiple of {known.reach.stride_px}"
        )
    network = inference.read_network(path, known.sha256)
    try:
        design = unet.design_of(network)
    except ModelError as error:
        raise ModelError(f"model {path}: {error}") from None
    return Start(design, network.get_weights(), known.sha256, sidecar(path))


def train(
    job: TrainJob, *, resume: bool, say: Callable[[str], None], base: Path | None = None
) -> Path:
    """Run a job to its end and write `<output>.keras` and `<output>.json`.

    A killed training goes on with `resume`: weights, their average, optimiser, schedule and data
    order continue where the last checkpoint stood. With `base`, a file that `train` wrote, the
    training starts from its weights and the network is as there, whatever the job says of it.
    """
    tf = inference.tensorflow()
    keras = tf.keras
    start = start_from(base, job) if base else None
    if start:
        job = job.model_copy(update={"network": start.design})
    samples = [one for folder in job.data for one in dataset.find(folder)]
    _check_groups(job, samples)
    say(f"reading {len(samples)} images")
    images = list(dataset.planes([one for one in samples if one.split == "train"]))
    keras.utils.set_random_seed(job.random_seed)
    keras.mixed_precision.set_global_policy(job.precision)
    model = unet.build(job.network)
    if start:
        model.set_weights(start.weights)
    keras.mixed_precision.set_global_policy("float32")
    optimizer = keras.optimizers.AdamW(job.learning_rate, weight_decay=1e-4, clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    average = [tf.Variable(weight) for weight in model.variables]
    state = tf.train.Checkpoint(model=model, optimizer=optimizer, average=average)
    keeper = tf.train.CheckpointManager(state, f"{job.output}.checkpoints", max_to_keep=2)
    first = 0
    if resume and keeper.latest_checkpoint:
        state.restore(keeper.latest_checkpoint).assert_consumed()
        first = int(optimizer.iterations.numpy())
        say(f"going on from step {first}")
    step, began, losses = _stepper(job, model, optimizer, average), time.monotonic(), []
    for number, (pixels, wanted) in enumerate(ahead(batches(job, images, first)), first + 1):
        losses.append(float(step(pixels, wanted)))
        if number % 50 == 0:
            pace = (time.monotonic() - began) / (number - first)
            left = pace * (job.steps - number) / 60
            say(f"step {number}/{job.steps}  loss {np.mean(losses[-50:]):.4f}  {left:.0f} min left")
        if number % job.checkpoint_steps == 0 or number == job.steps:
            keeper.save(number)
            _export(job, model, average)
    _record(job, samples, losses, start)
    return Path(f"{job.output}.keras")


def _check_groups(job: TrainJob, samples: Sequence[dataset.Sample]) -> None:
    """A weight for a group that is not there is a slip of the pen, and would go unnoticed."""
    known = sorted({one.group for one in samples})
    unknown = sorted(set(job.group_weights) - set(known))
    if unknown:
        raise ConfigError(f"group_weights names {unknown[0]!r}: there are {', '.join(known)}")


def _export(job: TrainJob, model: Any, average: list[Any]) -> None:
    """Write the network with the averaged weights, folded; `model` is left as it was."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    kept = [weight.numpy() for weight in model.variables]
    for weight, mean in zip(model.variables, average, strict=True):
        weight.assign(mean)
    unet.fold(model, job.network).save(f"{job.output}.keras")
    for weight, value in zip(model.variables, kept, strict=True):
        weight.assign(value)


def _record(
    job: TrainJob,
    samples: Sequence[dataset.Sample],
    losses: Sequence[float],
    start: Start | None,
) -> None:
    path = Path(f"{job.output}.keras")
    before = start.known if start else {}
    record = {
        "sha256": digest(path),
        **{key: before[key] for key in INHERITED if key in before},
        **job.sidecar(),
        "training": {
            "data": [folder.name for folder in job.data],
            "images": sum(one.split == "train" for one in samples),
            "held_out": sum(one.split == "val" for one in samples),
            **job.model_dump(mode="json", exclude={"data", "output", *INHERITED}),
            **({"from": start.sha256, "before": before.get("training")} if start else {}),
            "final_loss": round(float(np.mean(losses[-100:])), 4) if losses else None,
        },
    }
    Path(f"{job.output}.json").write_text(json.dumps(record, indent=1) + "\n")
