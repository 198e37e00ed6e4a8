"""Network input of one window -> its two maps. The only module that imports TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import contract, heap, strips
from nucleiflow.errors import ModelError, RunError
from nucleiflow.graph import graph
from nucleiflow.model import architecture, digest
from nucleiflow.normalise import grey

Predict = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
FILTERS = (16, 32, 64, 128, 256)


class _Gate:
    """Of the network of this process: how many windows may be in it, and one at its end."""

    room = threading.Semaphore(1)
    end = threading.Lock()


@dataclass(frozen=True)
class Design:
    """The form of a U-Net: `filters` per level, each level half as fine as the one before.

    With `stem_stride` 2 the first level already works at half resolution and the maps are brought
    back by a transposed convolution: four times the pixels for the same work. `starter` is the
    network of the 2018 Data Science Bowl: exponential units, dropout within the blocks (0.1 in the
    two finest levels, 0.2 below, 0.3 in the last), and input of 0 to 1.
    """

    filters: tuple[int, ...] = FILTERS
    stem_stride: int = 1
    decoder_convolutions: int = 2
    outputs: int = 2
    batch_norm: bool = False
    starter: bool = False

    def __post_init__(self) -> None:
        if len(self.filters) < 2 or min(self.filters) < 1:
            raise ValueError(f"filters is {list(self.filters)}: give two levels or more")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride is {self.stem_stride}: use 1 or 2")
        if not 1 <= self.decoder_convolutions <= 4:
            raise ValueError(f"decoder_convolutions is {self.decoder_convolutions}: use 1 to 4")

    @property
    def stride_px(self) -> int:
        """Height and width of what the network takes are multiples of this."""
        return int(self.stem_stride * 2 ** (len(self.filters) - 1))


def build(design: Design) -> Any:
    """A U-Net (Ronneberger et al. 2015): (n, h, w, 3) values 0..255 -> (n, h, w, outputs) 0..1.

    h and w are multiples of `design.stride_px`.
    """
    tensorflow()
    import keras
    from keras import layers

    def convolution(tensor: Any, width: int, name: str, size: int = 3, stride: int = 1) -> Any:
        tensor = layers.Conv2D(
            width,
            size,
            strides=stride,
            padding="same",
            use_bias=not design.batch_norm,
            kernel_initializer="he_normal",
            name=name,
        )(tensor)
        if design.batch_norm:
            tensor = layers.BatchNormalization(momentum=0.97, name=f"{name}_norm")(tensor)
        if design.starter:
            return layers.ELU(name=f"{name}_elu")(tensor)
        return layers.ReLU(name=f"{name}_relu")(tensor)

    def dropout(tensor: Any, level: int, name: str) -> Any:
        if not design.starter:
            return tensor
        rate = 0.3 if level == len(design.filters) - 1 else 0.1 if level < 2 else 0.2
        return layers.Dropout(rate, name=f"{name}_dropout")(tensor)

    filters, skips = design.filters, []
    pixels = keras.Input((None, None, 3), name="pixels")
    scale, offset = (1 / 255, 0.0) if design.starter else (1 / 127.5, -1.0)
    tensor = layers.Rescaling(scale, offset=offset, name="rescale")(pixels)
    for level, width in enumerate(filters):
        if level == 0 and design.stem_stride == 2:
            tensor = convolution(tensor, width, "down0a", size=5, stride=2)
        else:
            tensor = convolution(tensor, width, f"down{level}a")
        tensor = dropout(tensor, level, f"down{level}")
        tensor = convolution(tensor, width, f"down{level}b")
        if level < len(filters) - 1:
            skips.append(tensor)
            tensor = layers.MaxPooling2D(name=f"pool{level}")(tensor)
    for level in reversed(range(len(filters) - 1)):
        grown = layers.Conv2DTranspose(filters[level], 2, strides=2, name=f"up{level}_grow")(tensor)
        tensor = layers.Concatenate(name=f"up{level}_skip")([skips[level], grown])
        for part in "abcd"[: design.decoder_convolutions]:
            if part == "b":
                tensor = dropout(tensor, level, f"up{level}")
            tensor = convolution(tensor, filters[level], f"up{level}{part}")
    last = {"activation": "sigmoid", "dtype": "float32", "name": "maps"}
    if design.stem_stride == 2:
        head = layers.Conv2DTranspose(design.outputs, 4, strides=2, padding="same", **last)
    else:
        head = layers.Conv2D(design.outputs, 1, **last)
    return keras.Model(pixels, head(tensor), name="nucleiflow_unet")


def fold(trained: Any, design: Design) -> Any:
    """The same network, its batch normalisation folded into the convolutions."""
    plain = build(replace(design, batch_norm=False))
    names = {layer.name for layer in trained.layers}
    for layer in plain.layers:
        weights = trained.get_layer(layer.name).get_weights()
        if f"{layer.name}_norm" in names:
            norm = trained.get_layer(f"{layer.name}_norm")
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            weights = [weights[0] * scale, beta - mean * scale]
        layer.set_weights(weights)
    return plain


def design_of(network: Any) -> Design:
    """The design of a network that `build` made. Raises ModelError for any other."""
    names = {layer.name for layer in network.layers}
    levels = sum(f"down{level}b" in names for level in range(len(names)))
    other = ModelError(
        "the network is not one that `nucleiflow train` wrote: train it on where it was made"
    )
    if not {"down0a", "up0a"} <= names:
        raise other
    try:
        design = Design(
            filters=tuple(network.get_layer(f"down{level}b").filters for level in range(levels)),
            stem_stride=network.get_layer("down0a").strides[0],
            decoder_convolutions=sum(f"up0{part}" in names for part in "abcd"),
            outputs=network.output_shape[-1],
            batch_norm="down0a_norm" in names,
        )
    except ValueError:
        raise other from None
    if _parts(build(design)) != _parts(network):
        raise other
    return design


def _parts(network: Any) -> list[tuple[str, str, list[Any]]]:
    return [
        (type(layer).__name__, layer.name, [weight.shape for weight in layer.weights])
        for layer in network.layers
    ]


def set_threads(count: int, calls: int = 1) -> None:
    """Give TensorFlow `count` CPU threads in this process, for so many windows at once; must come
    before its first use.

    Threads that share a window wait for each other at the end of each layer; with a second window
    they have something to do meanwhile.
    """
    tf = tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(calls)
    _Gate.room = threading.Semaphore(calls)


def use(device: str, threads: int, calls: int = 1) -> str:
    """Bind this process to its device, before TensorFlow's first use; returns what it works on.

    `device` gpu needs exactly one, cpu leaves GPUs alone, auto takes the one that is there. GPU
    memory is taken as it is needed. `threads` 0 is left to TensorFlow; they compute as many windows
    at once as there are `calls`, a GPU one. Raises RunError where the device is not as given:
    TensorFlow itself would silently go on with the CPU.
    """
    tf = tensorflow()
    with contextlib.suppress(RuntimeError):  # a worker that outlives its run keeps its threads
        set_threads(threads, calls)
    seen = tf.config.list_physical_devices("GPU")
    if device == "cpu":
        if seen:
            tf.config.set_visible_devices([], "GPU")
        return "CPU"
    if len(seen) > 1 or (device == "gpu" and not seen):
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        told = "a GPU" if given is None else f"GPU {given}" if given else "no GPU"
        raise RunError(
            f"worker on {socket.gethostname()} was given {told} "
            f"but TensorFlow sees {len(seen) or 'none'}: "
            + (
                "give each process one, by CUDA_VISIBLE_DEVICES"
                if seen
                else "look at nvidia-smi there, and pip install 'nucleiflow[gpu]'; "
                "device: cpu works without"
            )
        )
    if not seen:
        return "CPU"
    _Gate.room = threading.Semaphore(1)
    for gpu in seen:
        tf.config.experimental.set_memory_growth(gpu, True)
    return str(tf.config.experimental.get_device_details(seen[0]).get("device_name", "GPU"))


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, imported without the lines that it writes past every logger to standard error."""
    sys.stderr.flush()
    kept, void = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(void, 2)
        with heap.loading():
            import tensorflow as tf

        return tf
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(void)


def read_network(path: str | Path, sha256: str) -> Any:
    """The Keras model of a file, which holds nothing but layers that Keras itself knows.

    Raises ModelError when the file has another digest, does not keep the contract or cannot be
    loaded.
    """
    found = digest(path)
    if found != sha256:
        raise ModelError(f"model {path} has digest {found[:12]}, but {sha256[:12]} was asked for")
    contract.check(architecture(Path(path)))
    tensorflow()
    import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ModelError(f"model {path} cannot be loaded: {str(error).splitlines()[0]}") from error


@functools.cache
def predictor(path: str, sha256: str) -> Predict:
    """The network of a file, loaded and compiled once per process.

    The result maps network input (h, w, 3) uint8 to maps (h, w, 2) uint8 with h and w multiples of
    the network's stride; as many calls at a time as `use` was told, so that threads share the
    processor instead of fighting for it. A network that takes one channel gets the luminance; the
    map of a network that gives one stands for both. Raises ModelError as `read_network` does.
    """
    model = read_network(path, sha256)
    channels, count = model.input_shape[-1], model.output_shape[-1]
    whole = _whole(model)
    of_large = _in_strips(model) or whole

    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        seen = pixels if channels == 3 else grey(pixels)
        large = pixels.shape[0] * pixels.shape[1] > strips.STRIP_PX
        with _Gate.room:
            found = of_large(seen) if large else whole(seen)
        if found.shape != (*pixels.shape[:2], count):
            raise ModelError(
                f"model {path} answers {pixels.shape} with maps of {found.shape}: "
                f"it must give {(*pixels.shape[:2], count)}"
            )
        return found if count == 2 else np.repeat(found, 2, axis=-1)

    return predict


def _whole(model: Any) -> Predict:
    """The network as one function, compiled once for windows of any size."""
    maps = _compiled(model, pixels=True, maps=True)
    return lambda pixels: np.asarray(maps(pixels[None])[0].numpy()[0])


def _compiled(model: Any, *, pixels: bool = False, maps: bool = False) -> Any:
    """A network as a function of tensors of any height and width, compiled once for all of them.

    `pixels`: it takes bytes, as they are; `maps`: it gives bytes, for 0 to 1.
    """
    tf = tensorflow()
    kinds = [tf.uint8 if pixels else one.dtype for one in model.inputs]
    taken = zip(kinds, model.inputs, strict=True)
    any_size = [tf.TensorSpec((1, None, None, one.shape[-1]), kind) for kind, one in taken]
    # Keras 3.15 interpolates tensors of known size only: then one is compiled for each
    interpolates = any(getattr(layer, "interpolation", "") == "bilinear" for layer in model.layers)

    @tf.function(input_signature=None if interpolates else any_size, autograph=False)
    def computed(*tensors: Any) -> list[Any]:
        given = [tf.cast(one, tf.float32) for one in tensors] if pixels else list(tensors)
        found = tf.nest.flatten(model(given if len(given) > 1 else given[0], training=False))
        if maps:
            found = [tf.floor(tf.cast(one, tf.float32) * 255.0 + 0.5) for one in found]
            found = [tf.cast(one, tf.uint8) for one in found]
        return list(found)

    return computed


def _in_strips(model: Any) -> Predict | None:
    """The same answers, bit for bit, in less memory (see `strips`).

    None where that is of no use: on a GPU, and for a network that cannot be cut.
    """
    tf = tensorflow()
    split = strips.cut(graph(json.loads(model.to_json())))
    if split is None or tf.config.list_logical_devices("GPU"):
        return None
    import keras

    def rows(tensor: Any, bands: strips.Bands, of: strips.Bands) -> Any:
        per_band = tensor.shape[1] // (of[1] - of[0])
        first, last = ((band - of[0]) * per_band for band in bands)
        return tensor[0][first:last][None]  # one step at a time, none of which copies

    crossing = [model.get_layer(name).output for name in split.crossing]
    front = _compiled(keras.Model(model.inputs, crossing), pixels=True)
    tail = _compiled(keras.Model(crossing, model.outputs), maps=True)

    def maps(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        bands, found = pixels.shape[0] // strips.BAND_PX, []
        tensors = front(pixels[None])
        with _Gate.end:
            for core, around in strips.strips(split, bands, pixels.shape[1]):
                part = tail(*(rows(tensor, around, (0, bands)) for tensor in tensors))[0]
                found.append(rows(part, core, around).numpy()[0])
        return np.concatenate(found)

    return maps
