"""A design -> the U-Net of it, as a Keras model: built, folded, recognised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nucleiflow.errors import ModelError
from nucleiflow.inference import tensorflow

FILTERS = (16, 32, 64, 128, 256)


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
