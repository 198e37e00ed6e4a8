"""Network input of one window -> its two maps, on the device that this process is given."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
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


class _Gate:
    """Of the network of this process: how many windows may be in it, and one at its end."""

    room = threading.Semaphore(1)
    end = threading.Lock()


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
