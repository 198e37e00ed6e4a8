"""Description of a Keras model (`config.json`) -> its layers, as they are computed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from nucleiflow.errors import ModelError

Config = Mapping[str, Any]

CONVOLUTIONS = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D"}
POOLINGS = {"MaxPooling2D", "AveragePooling2D"}
DAMAGED = (KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class Node:
    """One layer, the layers that feed it, and what is written of it."""

    name: str
    kind: str
    config: Config
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Layers by name, each after those that feed it; only those that the outputs need."""

    nodes: dict[str, Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def graph(model: Config) -> Graph:
    """A functional or sequential model -> its graph. Raises ModelError when there is none."""
    try:
        inner = model.get("config", model)
        if model.get("class_name") == "Sequential" or "input_layers" not in inner:
            nodes, inputs, outputs = _chain(inner)
        else:
            nodes, inputs, outputs = _functional(inner)
        order = _topological(nodes, outputs)
    except DAMAGED as error:
        raise ModelError(f"the model's description is damaged: {error!r} in it") from error
    return Graph({name: nodes[name] for name in order}, inputs, outputs)


Parts = tuple[dict[str, Node], tuple[str, ...], tuple[str, ...]]


def _functional(inner: Config) -> Parts:
    nodes = {}
    for layer in inner["layers"]:
        config = layer["config"]
        _refuse_models(layer["class_name"], config)
        calls = layer["inbound_nodes"]
        if len(calls) > 1:
            raise ModelError(f"layer {config['name']!r} is used {len(calls)} times: use it once")
        inputs = tuple(_tensor_names(calls))
        nodes[config["name"]] = Node(config["name"], layer["class_name"], config, inputs)
    return nodes, tuple(_ends(inner["input_layers"])), tuple(_ends(inner["output_layers"]))


def _chain(inner: Config) -> Parts:
    nodes: dict[str, Node] = {}
    last: tuple[str, ...] = ()
    for layer in inner["layers"]:
        name = layer["config"]["name"]
        _refuse_models(layer["class_name"], layer["config"])
        nodes[name] = Node(name, layer["class_name"], layer["config"], last)
        last = (name,)
    return nodes, tuple(nodes)[:1], last


def _refuse_models(kind: str, config: Config) -> None:
    if kind in ("Functional", "Sequential", "Model"):
        raise ModelError(
            f"layer {config.get('name')!r} ({kind}) is a model of its own: flatten it, "
            "that is, call its layers one by one"
        )


def _ends(part: Any) -> Iterator[str]:
    """Names of the layers at one end of a model: one, a list of them, or an object of them."""
    if isinstance(part, Mapping):
        for value in part.values():
            yield from _ends(value)
    elif part and isinstance(part[0], str):
        yield part[0]
    else:
        for value in part:
            yield from _ends(value)


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


def _topological(nodes: Mapping[str, Node], outputs: tuple[str, ...]) -> list[str]:
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


def steps(found: Graph) -> dict[str, Fraction]:
    """How many input pixels apart two neighbouring pixels of each layer's output are."""
    known: dict[str, Fraction] = {}
    for name, node in found.nodes.items():
        before = {known[one] for one in node.inputs} or {Fraction(1)}
        if len(before) > 1:
            raise ModelError(f"layer {name!r} joins tensors of different resolution")
        known[name] = before.pop() * _step_factor(node)
    return known


def _step_factor(node: Node) -> Fraction:
    across, along = (sides(node, axis)[1] for axis in (0, 1))
    if across != along:
        raise ModelError(f"layer {node.name!r} has unequal strides {across} and {along}")
    if node.kind in ("Conv2DTranspose", "UpSampling2D"):
        return Fraction(1, across)
    return Fraction(across)


def sides(node: Node, axis: int) -> tuple[int, int, int]:
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


def channels(found: Graph) -> dict[str, int]:
    """How many channels each layer's output has."""
    known: dict[str, int] = {}
    for name, node in found.nodes.items():
        before = [known[one] for one in node.inputs]
        known[name] = _channels_after(node, before)
    return known


def _channels_after(node: Node, before: list[int]) -> int:
    if not node.inputs:
        return int(node.config["batch_shape"][-1])
    if node.kind == "DepthwiseConv2D":
        return before[0] * int(node.config["depth_multiplier"])
    if node.kind == "Concatenate":
        return sum(before)
    return int(node.config.get("filters", max(before)))
