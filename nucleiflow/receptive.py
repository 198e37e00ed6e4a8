"""Architecture of a network -> how far a pixel of its maps sees (halo) and its stride. Pure.

Follows each output pixel back through the graph, layer by layer, as intervals of indices
(Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill 2019),
once for each phase of the stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

from nucleiflow.errors import ModelError

Interval = tuple[int, int]  # first and last index, both included
Config = Mapping[str, Any]

POINTWISE = {
    "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "BatchNormalization",
    "Concatenate", "Dropout", "ELU", "GaussianDropout", "GaussianNoise", "Identity", "InputLayer",
    "LeakyReLU", "Maximum", "Minimum", "Multiply", "Normalization", "ReLU", "Rescaling", "Softmax",
    "SpatialDropout2D", "Subtract",
}  # fmt: skip
CONVOLUTIONS = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D"}
POOLINGS = {"MaxPooling2D", "AveragePooling2D"}
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


@dataclass(frozen=True)
class _Node:
    name: str
    kind: str
    config: Config
    inputs: tuple[str, ...]


def reach(model_config: Config) -> Reach:
    """Keras model configuration (functional or sequential, as in `config.json`) -> its reach.

    Raises ModelError for a layer whose reach is unknown or unbounded.
    """
    try:
        nodes, outputs = _graph(model_config)
        order = _topological(nodes, outputs)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"the model's description is damaged: {error!r} in it") from error
    stride = _stride(order, nodes)
    _check_size(order, nodes, outputs, SIDE_IN_STRIDES * stride)
    radius = beyond = 0
    for axis in (0, 1):
        for phase in range(stride):
            low, high = _seen(order, nodes, outputs, (phase, phase), axis)
            radius = max(radius, phase - low, high - phase)
            beyond = max(beyond, -low, high - (stride - 1))
    return Reach(radius, -(-beyond // stride) * stride, stride)


def _graph(model: Config) -> tuple[dict[str, _Node], list[str]]:
    inner = model.get("config", model)
    if model.get("class_name") == "Sequential" or "input_layers" not in inner:
        return _chain(inner)
    nodes = {}
    for layer in inner["layers"]:
        config = layer["config"]
        if layer["class_name"] in ("Functional", "Sequential", "Model"):
            raise ModelError(f"layer {config.get('name')!r} is a model of its own: flatten it")
        calls = layer["inbound_nodes"]
        if len(calls) > 1:
            raise ModelError(f"layer {config['name']!r} is used {len(calls)} times: use it once")
        inputs = tuple(_tensor_names(calls))
        nodes[config["name"]] = _Node(config["name"], layer["class_name"], config, inputs)
    outputs = inner["output_layers"]
    named = [outputs] if isinstance(outputs[0], str) else outputs
    return nodes, [output[0] for output in named]


def _chain(inner: Config) -> tuple[dict[str, _Node], list[str]]:
    nodes: dict[str, _Node] = {}
    last: tuple[str, ...] = ()
    for layer in inner["layers"]:
        name = layer["config"]["name"]
        nodes[name] = _Node(name, layer["class_name"], layer["config"], last)
        last = (name,)
    return nodes, list(last)


def _tensor_names(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if "keras_history" in part:
            yield part["keras_history"][0]
        else:
            for value in part.values():
                yield from _tensor_names(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _tensor_names(value)


def _topological(nodes: Mapping[str, _Node], outputs: list[str]) -> list[str]:
    order: dict[str, None] = {}
    open_: set[str] = set()
    stack = [(name, False) for name in outputs]
    while stack:
        name, ready = stack.pop()
        if ready:
            order[name] = None
        elif name in open_ and name not in order:
            raise ModelError(f"layer {name!r} feeds itself")
        elif name not in order:
            open_.add(name)
            stack.append((name, True))
            stack.extend((one, False) for one in nodes[name].inputs if one not in order)
    return list(order)


def _stride(order: list[str], nodes: Mapping[str, _Node]) -> int:
    """The least common multiple of the steps, in input pixels, that any tensor takes."""
    steps: dict[str, Fraction] = {}
    for name in order:
        node = nodes[name]
        before = {steps[one] for one in node.inputs} or {Fraction(1)}
        if len(before) > 1:
            raise ModelError(f"layer {name!r} joins tensors of different resolution")
        steps[name] = before.pop() * _step_factor(node)
    return lcm(*(step.numerator for step in steps.values()))


def _check_size(
    order: list[str], nodes: Mapping[str, _Node], outputs: list[str], side_px: int
) -> None:
    """Raises ModelError unless the maps of an image of `side_px` are as large as it is."""
    for axis in (0, 1):
        sides: dict[str, int] = {}
        for name in order:
            before = {sides[one] for one in nodes[name].inputs} or {side_px}
            if len(before) > 1:
                raise ModelError(f"layer {name!r} joins tensors of different size")
            sides[name] = _side_after(nodes[name], before.pop(), axis)
        for name in outputs:
            if sides[name] != side_px:
                raise ModelError(
                    f"an image of {side_px} px gives maps of {sides[name]} px: they must be as "
                    'large as the image (padding="same", as many up-samplings as poolings)'
                )


def _side_after(node: _Node, side: int, axis: int) -> int:
    size, stride, dilation = _sides(node, axis)
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


def _step_factor(node: _Node) -> Fraction:
    across, along = (_sides(node, axis)[1] for axis in (0, 1))
    if across != along:
        raise ModelError(f"layer {node.name!r} has unequal strides {across} and {along}")
    if node.kind in ("Conv2DTranspose", "UpSampling2D"):
        return Fraction(1, across)
    return Fraction(across)


def _sides(node: _Node, axis: int) -> tuple[int, int, int]:
    """Kernel size, stride and dilation of a layer along an axis."""
    config = node.config
    if node.kind in CONVOLUTIONS or node.kind == "Conv2DTranspose":
        dilation = config.get("dilation_rate", 1)
        return (
            _pick(config["kernel_size"], axis),
            _pick(config["strides"], axis),
            _pick(dilation, axis),
        )
    if node.kind in POOLINGS:
        size = _pick(config["pool_size"], axis)
        strides = config.get("strides")
        return size, _pick(strides, axis) if strides is not None else size, 1
    if node.kind == "UpSampling2D":
        return 1, _pick(config["size"], axis), 1
    return 1, 1, 1


def _pick(value: Any, axis: int) -> int:
    return int(value[axis]) if isinstance(value, (list, tuple)) else int(value)


def _seen(
    order: list[str],
    nodes: Mapping[str, _Node],
    outputs: list[str],
    wanted: Interval,
    axis: int,
) -> Interval:
    needed: dict[str, Interval] = dict.fromkeys(outputs, wanted)
    reached: list[Interval] = []
    for name in reversed(order):
        node = nodes[name]
        interval = _back(node, needed[name], axis)
        if not node.inputs:
            reached.append(interval)
        for one in node.inputs:
            low, high = needed.get(one, interval)
            needed[one] = min(low, interval[0]), max(high, interval[1])
    return min(low for low, _ in reached), max(high for _, high in reached)


def _back(node: _Node, wanted: Interval, axis: int) -> Interval:
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


def _convolution(node: _Node, wanted: Interval, axis: int) -> Interval:
    size, stride, dilation = _sides(node, axis)
    span = (size - 1) * dilation
    same = node.config.get("padding", "valid") == "same"
    before = max(span + 1 - stride, 0) // 2 if same else 0
    return wanted[0] * stride - before, wanted[1] * stride - before + span


def _transposed(node: _Node, wanted: Interval, axis: int) -> Interval:
    size, stride, dilation = _sides(node, axis)
    span = (size - 1) * dilation
    same = node.config.get("padding", "valid") == "same"
    before = max(span + 1 - stride, 0) // 2 if same else 0
    return -(-(wanted[0] + before - span) // stride), (wanted[1] + before) // stride


def _upsampling(node: _Node, wanted: Interval, axis: int) -> Interval:
    size = _sides(node, axis)[1]
    extra = {"nearest": 0, "bilinear": 1}.get(node.config.get("interpolation", "nearest"))
    if extra is None:
        raise ModelError(f"layer {node.name!r}: use nearest or bilinear interpolation")
    return wanted[0] // size - extra, wanted[1] // size + extra


def _padding(node: _Node, wanted: Interval, axis: int) -> Interval:
    before = node.config["padding"][axis][0]
    return wanted[0] - before, wanted[1] - before


def _cropping(node: _Node, wanted: Interval, axis: int) -> Interval:
    before, after = node.config["cropping"][axis]
    return wanted[0], wanted[1] + before + after  # what was cropped shows a window's edge


_RULES: dict[str, Callable[[_Node, Interval, int], Interval]] = {
    **dict.fromkeys(CONVOLUTIONS | POOLINGS, _convolution),
    "Conv2DTranspose": _transposed,
    "UpSampling2D": _upsampling,
    "ZeroPadding2D": _padding,
    "Cropping2D": _cropping,
}
