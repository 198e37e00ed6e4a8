"""Layers of a network -> its parameters and its work per pixel. Pure."""

from __future__ import annotations

from fractions import Fraction

from nucleiflow.errors import ModelError
from nucleiflow.graph import DAMAGED, Graph, Node, channels, sides, steps


def parameters(found: Graph) -> int:
    """Numbers in the weights of convolutions and batch normalisations. Raises ModelError."""
    try:
        width = channels(found)
        return sum(_parameters(node, _before(node, width)) for node in found.nodes.values())
    except DAMAGED as error:
        raise ModelError(f"the model's description is damaged: {error!r} in it") from error


def flop_per_px(found: Graph) -> float:
    """Operations of the convolutions per pixel of the input: 2 for each multiply-add.

    Every layer counts at its own resolution; what else there is (sums, maxima, activations) is a
    few per cent of it. Raises ModelError.
    """
    try:
        width, apart = channels(found), steps(found)
        work = Fraction(0)
        for name, node in found.nodes.items():
            at = node.inputs[0] if node.kind == "Conv2DTranspose" else name
            work += 2 * _multiply_adds(node, _before(node, width)) / apart[at] ** 2
        return float(work)
    except DAMAGED as error:
        raise ModelError(f"the model's description is damaged: {error!r} in it") from error


def _before(node: Node, width: dict[str, int]) -> int:
    return width[node.inputs[0]] if node.inputs else 0


def _multiply_adds(node: Node, before: int) -> int:
    """For each pixel of the output; of the input for a transposed convolution."""
    config, area = node.config, sides(node, 0)[0] * sides(node, 1)[0]
    if node.kind in ("Conv2D", "Conv2DTranspose"):
        return area * before // int(config.get("groups", 1)) * int(config["filters"])
    if node.kind == "DepthwiseConv2D":
        return area * before * int(config["depth_multiplier"])
    if node.kind == "SeparableConv2D":
        deep = before * int(config["depth_multiplier"])
        return area * deep + deep * int(config["filters"])
    return 0


def _parameters(node: Node, before: int) -> int:
    config = node.config
    if node.kind == "BatchNormalization":
        return before * (2 + bool(config.get("scale", True)) + bool(config.get("center", True)))
    after = int(config.get("filters", before * int(config.get("depth_multiplier", 1))))
    kernel = _multiply_adds(node, before)
    return kernel + (after if kernel and config.get("use_bias", True) else 0)
