"""Description of a Keras model (`config.json`) -> what it takes and gives, if we may load it. Pure.

The contract: one image of any height and width with 3 channels or 1, values 0..255; one output of
the same height and width with 2 maps (nucleus, seed) or 1 (nucleus), values 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nucleiflow import cost
from nucleiflow.errors import ModelError
from nucleiflow.graph import CONVOLUTIONS, DAMAGED, POOLINGS, Config, Graph, Node, channels, graph
from nucleiflow.receptive import Reach, reach

MAX_PARAMETERS = 1 << 28  # a gigabyte of weights; the U-Net of 2015 has an eighth of that
HOW = "keras.Input((None, None, 3))"
TRUSTED = {  # modules whose classes hold no code of the file's author
    "keras.layers",
    "keras.initializers",
    "keras.regularizers",
    "keras.constraints",
    "keras.activations",
    "keras.dtype_policies",
}
MODELS = {("keras", "Functional"), ("keras", "Sequential"), ("keras", "DTypePolicy")} | {
    (module, "Functional") for module in ("keras.models", "keras.src.models.functional")
}
VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__tuple__"}  # written like classes
UNIT = {"sigmoid", "hard_sigmoid"}  # activations with values 0..1, each map by itself
KEEPS_UNIT = {
    "Average", "Concatenate", "Cropping2D", "Dropout", "Identity", "Maximum", "Minimum", "Multiply",
    "SpatialDropout2D", "UpSampling2D", "ZeroPadding2D", *POOLINGS,
}  # fmt: skip


@dataclass(frozen=True)
class Contract:
    """What a network takes (`channels`, 3 or 1) and gives (`maps`, 2 or 1), and how far it sees."""

    channels: int
    maps: int
    reach: Reach


def check(model: Config) -> Contract:
    """Raises ModelError, which says what to change, for a model that does not keep the contract."""
    try:
        refuse_code(model)
        found = graph(model)
        taken = _taken(found)
        seen = reach(model)
        if cost.parameters(found) > MAX_PARAMETERS:
            raise ModelError(f"the model has over {MAX_PARAMETERS:,} parameters: use a smaller one")
        return Contract(taken, _given(found), seen)
    except DAMAGED as error:
        raise ModelError(f"the model's description is damaged: {error!r} in it") from error


def refuse_code(part: Any) -> None:
    """Raises ModelError if loading would run anything but Keras's own layers."""
    if isinstance(part, (list, tuple)):
        for one in part:
            refuse_code(one)
    if not isinstance(part, Mapping):
        return
    if "class_name" in part:
        _refuse_class(part)
    for key, value in part.items():
        if key != "compile_config":  # of training; never loaded
            refuse_code(value)


def _refuse_class(part: Mapping[str, Any]) -> None:
    module, kind = part.get("module"), part["class_name"]
    inner = part.get("config")
    name = inner.get("name", kind) if isinstance(inner, Mapping) else inner or kind
    if kind in ("Lambda", "__lambda__"):
        raise ModelError(
            f"layer {name!r} is a Lambda, which holds code of its own and is never loaded: "
            "say the same with layers of keras.layers"
        )
    if kind in VALUES or (module, kind) in MODELS:
        return
    if module not in TRUSTED or part.get("registered_name") not in (None, kind):
        raise ModelError(
            f"{name!r} is a {part.get('registered_name') or kind} of {module or 'your own code'}, "
            "and only keras.layers are loaded: say the same with them"
        )


def _taken(found: Graph) -> int:
    """Channels of the input."""
    if len(found.inputs) != 1:
        raise ModelError(
            f"the model has {len(found.inputs)} inputs ({', '.join(found.inputs)}): "
            f"it gets one image, {HOW}"
        )
    node = found.nodes.get(found.inputs[0])
    shape = node.config.get("batch_shape") if node else None
    if not isinstance(shape, list):
        raise ModelError(f"the model does not say what it takes: begin it with {HOW}")
    if len(shape) != 4 or any(
        one.config.get("data_format") == "channels_first" for one in found.nodes.values()
    ):
        raise ModelError(f"the model takes {shape}: images are (n, height, width, channels), {HOW}")
    if shape[-1] not in (1, 3):
        raise ModelError(f"the model takes {shape[-1]} channels: it gets 3, or 1 (grey), {HOW}")
    if any(side is not None for side in shape[:3]):
        raise ModelError(
            f"the model takes only {shape[:3]} (images, height, width): rebuild it with {HOW}, "
            "give it the same weights (set_weights) and save it again"
        )
    return int(shape[-1])


def _given(found: Graph) -> int:
    """Maps of the output, each of values 0..1."""
    if len(found.outputs) != 1:
        raise ModelError(
            f"the model has {len(found.outputs)} outputs ({', '.join(found.outputs)}): "
            "join them by Concatenate(), nucleus first, then seed"
        )
    count = channels(found)[found.outputs[0]]
    if count not in (1, 2):
        raise ModelError(
            f"the model gives {count} maps: it must give 2 (nucleus, seed) or 1 (nucleus)"
        )
    _refuse_unbounded(found, found.nodes[found.outputs[0]])
    return count


def _refuse_unbounded(found: Graph, node: Node) -> None:
    if node.kind in KEEPS_UNIT and node.inputs:
        for one in node.inputs:
            _refuse_unbounded(found, found.nodes[one])
        return
    acts = node.kind in CONVOLUTIONS | {"Activation", "Conv2DTranspose"}
    activation = node.config.get("activation") if acts else None
    if isinstance(activation, Mapping):
        activation = activation.get("config")
    if activation not in UNIT:
        raise ModelError(
            f"the maps come from layer {node.name!r} ({node.kind}, activation "
            f"{activation or 'none'}): their values must be 0..1, each map by itself, "
            "so end with activation='sigmoid'"
        )
