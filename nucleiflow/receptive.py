"""Architecture of a network -> how far a pixel of its maps sees (halo) and its stride. Pure.

Follows each output pixel back through the graph, layer by layer, as intervals of indices
(Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill 2019),
once for each phase of the stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm

from nucleiflow.errors import ModelError
from nucleiflow.graph import (
    CONVOLUTIONS,
    DAMAGED,
    POOLINGS,
    Config,
    Graph,
    Node,
    graph,
    sides,
    steps,
)

Interval = tuple[int, int]  # first and last index, both included

POINTWISE = {
    "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "BatchNormalization",
    "Concatenate", "Dropout", "ELU", "GaussianDropout", "GaussianNoise", "Identity", "InputLayer",
    "LeakyReLU", "Maximum", "Minimum", "Multiply", "Normalization", "ReLU", "Rescaling", "Softmax",
    "SpatialDropout2D", "Subtract",
}  # fmt: skip
MAX_STRIDE_PX = 256
SIDE_IN_STRIDES = 64  # of the image on which the size of the maps is checked


@dataclass(frozen=True)
class Reach:
    """`radius_px`: how far from itself a pixel sees. `halo_px`: how far beyond a block of whole
    strides its pixels see, rounded up to the stride; less than the radius would make it, for the
    pixels that see furthest to one side lie on the other side of their stride.
    """

    radius_px: int
    halo_px: int
    stride_px: int


def reach(model_config: Config) -> Reach:
    """Keras model configuration (functional or sequential, as in `config.json`) -> its reach.

    Raises ModelError for a layer whose reach is unknown or unbounded.
    """
    found = graph(model_config)
    try:
        return _reach(found)
    except DAMAGED as error:
        raise ModelError(f"the model's description is damaged: {error!r} in it") from error


def _reach(found: Graph) -> Reach:
    stride = lcm(*(step.numerator for step in steps(found).values()))
    if stride > MAX_STRIDE_PX:
        raise ModelError(f"the model's stride is {stride} px: {MAX_STRIDE_PX} at most can be tiled")
    _check_size(found, SIDE_IN_STRIDES * stride)
    radius = beyond = 0
    for axis in (0, 1):
        for phase in range(stride):
            low, high = _seen(found, (phase, phase), axis)
            radius = max(radius, phase - low, high - phase)
            beyond = max(beyond, -low, high - (stride - 1))
    return Reach(radius, -(-beyond // stride) * stride, stride)


def _check_size(found: Graph, side_px: int) -> None:
    """Raises ModelError unless the maps of an image of `side_px` are as large as it is."""
    for axis in (0, 1):
        known = lengths(found, side_px, axis)
        for name in found.outputs:
            if known[name] != side_px:
                raise ModelError(
                    f"an image of {side_px} px gives maps of {known[name]} px: they must be as "
                    'large as the image (padding="same", as many up-samplings as poolings)'
                )


def lengths(found: Graph, side_px: int, axis: int) -> dict[str, int]:
    """How large each layer's output is along an axis, for an image of `side_px`."""
    known: dict[str, int] = {}
    for name, node in found.nodes.items():
        before = {known[one] for one in node.inputs} or {side_px}
        if len(before) > 1:
            raise ModelError(f"layer {name!r} joins tensors of different size")
        known[name] = _side_after(node, before.pop(), axis)
    return known


def _side_after(node: Node, side: int, axis: int) -> int:
    size, stride, dilation = sides(node, axis)
    span = (size - 1) * dilation
    same = node.config.get("padding", "valid") == "same"
    if node.kind in CONVOLUTIONS | POOLINGS:
        return -(-side // stride) if same else (side - span - 1) // stride + 1
    if node.kind == "Conv2DTranspose":
        return side * stride + (0 if same else max(span + 1 - stride, 0))
    if node.kind == "UpSampling2D":
        return side * stride
    if node.kind == "ZeroPadding2D":
        return side + sum(node.config["padding"][axis])
    if node.kind == "Cropping2D":
        return side - sum(node.config["cropping"][axis])
    return side


def _seen(found: Graph, wanted: Interval, axis: int) -> Interval:
    intervals = inputs_of(found, wanted, axis).values()
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def inputs_of(found: Graph, wanted: Interval, axis: int) -> dict[str, Interval]:
    """Indices of each of the graph's inputs that its outputs at `wanted` depend on."""
    needed: dict[str, Interval] = dict.fromkeys(found.outputs, wanted)
    for name, node in reversed(found.nodes.items()):
        interval = _back(node, needed[name], axis)
        for one in node.inputs:
            low, high = needed.get(one, interval)
            needed[one] = min(low, interval[0]), max(high, interval[1])
    return {name: needed[name] for name, node in found.nodes.items() if not node.inputs}


def _back(node: Node, wanted: Interval, axis: int) -> Interval:
    """Indices of a layer's input that its output at `wanted` depends on."""
    if node.kind in POINTWISE:
        if node.config.get("axis", -1) not in (-1, 3, [-1], [3]):
            raise ModelError(f"layer {node.name!r} works along axis {node.config['axis']}: use -1")
        return wanted
    rule = _RULES.get(node.kind)
    if rule is None:
        raise ModelError(
            f"layer {node.name!r} is a {node.kind}, whose reach is unknown or unbounded: "
            "use convolutions, poolings, up-sampling and pointwise layers"
        )
    return rule(node, wanted, axis)


def _convolution(node: Node, wanted: Interval, axis: int) -> Interval:
    size, stride, dilation = sides(node, axis)
    span = (size - 1) * dilation
    same = node.config.get("padding", "valid") == "same"
    before = max(span + 1 - stride, 0) // 2 if same else 0
    return wanted[0] * stride - before, wanted[1] * stride - before + span


def _transposed(node: Node, wanted: Interval, axis: int) -> Interval:
    size, stride, dilation = sides(node, axis)
    span = (size - 1) * dilation
    same = node.config.get("padding", "valid") == "same"
    before = max(span + 1 - stride, 0) // 2 if same else 0
    return -(-(wanted[0] + before - span) // stride), (wanted[1] + before) // stride


def _upsampling(node: Node, wanted: Interval, axis: int) -> Interval:
    size = sides(node, axis)[1]
    extra = {"nearest": 0, "bilinear": 1}.get(node.config.get("interpolation", "nearest"))
    if extra is None:
        raise ModelError(f"layer {node.name!r}: use nearest or bilinear interpolation")
    return wanted[0] // size - extra, wanted[1] // size + extra


def _padding(node: Node, wanted: Interval, axis: int) -> Interval:
    before = node.config["padding"][axis][0]
    return wanted[0] - before, wanted[1] - before


def _cropping(node: Node, wanted: Interval, axis: int) -> Interval:
    before, after = node.config["cropping"][axis]
    return wanted[0], wanted[1] + before + after  # what was cropped shows a window's edge


_RULES: dict[str, Callable[[Node, Interval, int], Interval]] = {
    **dict.fromkeys(CONVOLUTIONS | POOLINGS, _convolution),
    "Conv2DTranspose": _transposed,
    "UpSampling2D": _upsampling,
    "ZeroPadding2D": _padding,
    "Cropping2D": _cropping,
}
