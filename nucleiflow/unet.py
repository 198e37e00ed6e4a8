"""Network input of one window -> its two maps. The only module that imports TensorFlow."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.errors import ModelError
from nucleiflow.model import digest

Predict = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
FILTERS = (16, 32, 64, 128, 256)
_GATE = threading.Lock()


def build(filters: Sequence[int] = FILTERS, *, outputs: int = 2, batch_norm: bool = False) -> Any:
    """A U-Net (Ronneberger et al. 2015): (n, h, w, 3) values 0..255 -> (n, h, w, outputs) 0..1.

    Each level but the last halves the resolution, so h and w are multiples of
    `2 ** (len(filters) - 1)`.
    """
    tensorflow()
    import keras
    from keras import layers

    def block(tensor: Any, width: int, name: str) -> Any:
        for part in ("a", "b"):
            tensor = layers.Conv2D(
                width,
                3,
                padding="same",
                use_bias=not batch_norm,
                kernel_initializer="he_normal",
                name=f"{name}{part}",
            )(tensor)
            if batch_norm:
                tensor = layers.BatchNormalization(momentum=0.97, name=f"{name}{part}_norm")(tensor)
            tensor = layers.ReLU(name=f"{name}{part}_relu")(tensor)
        return tensor

    pixels = keras.Input((None, None, 3), name="pixels")
    tensor = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    skips = []
    for level, width in enumerate(filters[:-1]):
        tensor = block(tensor, width, f"down{level}")
        skips.append(tensor)
        tensor = layers.MaxPooling2D(name=f"pool{level}")(tensor)
    tensor = block(tensor, filters[-1], "bottom")
    for level in reversed(range(len(filters) - 1)):
        tensor = layers.Conv2DTranspose(filters[level], 2, strides=2, name=f"up{level}_grow")(
            tensor
        )
        tensor = layers.Concatenate(name=f"up{level}_skip")([skips[level], tensor])
        tensor = block(tensor, filters[level], f"up{level}")
    maps = layers.Conv2D(outputs, 1, activation="sigmoid", dtype="float32", name="maps")(tensor)
    return keras.Model(pixels, maps, name="nucleiflow_unet")


def fold(trained: Any, filters: Sequence[int] = FILTERS, *, outputs: int = 2) -> Any:
    """The same network, its batch normalisation folded into the convolutions."""
    plain = build(filters, outputs=outputs)
    for layer in plain.layers:
        weights = trained.get_layer(layer.name).get_weights()
        if layer.name.startswith(("down", "bottom", "up")) and layer.name[-1] in "ab":
            gamma, beta, mean, variance = trained.get_layer(f"{layer.name}_norm").get_weights()
            epsilon = trained.get_layer(f"{layer.name}_norm").epsilon
            scale = gamma / np.sqrt(variance + epsilon)
            weights = [weights[0] * scale, beta - mean * scale]
        layer.set_weights(weights)
    return plain


def set_threads(count: int) -> None:
    """Give TensorFlow `count` CPU threads in this process; must come before its first use."""
    tf = tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, imported without the lines that it writes past every logger to standard error."""
    sys.stderr.flush()
    kept, void = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(void, 2)
        import tensorflow as tf

        return tf
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(void)


@functools.cache
def predictor(path: str, sha256: str) -> Predict:
    """The network of a file, loaded and compiled once per process.

    The result maps network input (h, w, 3) uint8 to maps (h, w, 2) uint8 with h and w multiples of
    the network's stride; one call at a time, so that threads share the processor instead of
    fighting for it. Raises ModelError when the file has another digest or cannot be loaded.
    """
    found = digest(path)
    if found != sha256:
        raise ModelError(f"model {path} has digest {found[:12]}, but {sha256[:12]} was asked for")
    tf = tensorflow()
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ModelError(f"model {path} cannot be loaded: {str(error).splitlines()[0]}") from error

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8)])
    def maps(pixels: Any) -> Any:
        unit = model(tf.cast(pixels, tf.float32), training=False)
        return tf.cast(tf.floor(unit * 255.0 + 0.5), tf.uint8)

    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with _GATE:
            found = np.asarray(maps(pixels[None]).numpy()[0])
        if found.shape != (*pixels.shape[:2], 2):
            raise ModelError(
                f"model {path} answers {pixels.shape} with maps of {found.shape}: "
                f"it must give {(*pixels.shape[:2], 2)}, nucleus and seed"
            )
        return found

    return predict
