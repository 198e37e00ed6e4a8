"""What is known of a model -> its card, as an object for JSON and as lines of text. Pure."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from nucleiflow import cost, scores
from nucleiflow.errors import ModelError
from nucleiflow.graph import Graph
from nucleiflow.model import Model

Json = dict[str, Any]
OTHER_WEIGHTS = "measured on other weights"


@dataclass(frozen=True)
class Facts:
    """A model with its layers and all that lies beside its file.

    `evaluations` are what `nucleiflow evaluate` wrote, by the names of their files.
    """

    model: Model
    graph: Graph
    size_bytes: int
    sidecar: Mapping[str, Any]
    evaluations: Mapping[str, Json]
    trials: str = ""
    notice: str = ""


def card(facts: Facts) -> Json:
    """The card. Raises ModelError for an evaluation that has no scores."""
    model, known = facts.model, facts.sidecar
    seen = model.reach
    shown = model.settings.as_json()
    return {
        "file": PurePath(model.path).name,
        "sha256": model.sha256,
        "bytes": facts.size_bytes,
        "network": {
            "parameters": cost.parameters(facts.graph),
            "kflop_per_px": round(cost.flop_per_px(facts.graph) / 1000, 2),
            "radius_px": seen.radius_px,
            "halo_px": seen.halo_px,
            "stride_px": seen.stride_px,
        },
        "input": {
            "channels": model.contract.channels,
            "polarity": shown["polarity"],
            "mpp": model.mpp_range,
            "nucleus_px": model.nucleus_px,
        },
        "maps": ["nucleus", "seed"][: model.contract.maps],
        "sidecar": bool(known),
        "postprocessing": shown["postprocessing"],
        "training": known.get("training"),
        "evaluations": {
            name: _evaluation(name, one, model.sha256) for name, one in facts.evaluations.items()
        },
        "trials": facts.trials,
        "weaknesses": _lines(known.get("weaknesses", [])),
        "notice": facts.notice,
    }


def _lines(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _evaluation(name: str, content: Json, sha256: str) -> Json:
    try:
        of = content["model"]["sha256"]
        kept = {key: content[key] for key in ("folder", "split", "images", "date", "version")}
        rows = {key: content[key] for key in ("modalities", "groups", "total")}
        scores.table([*rows["modalities"].items(), *rows["groups"].items(), ("", rows["total"])])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{name} is not what `nucleiflow evaluate` writes: {error!r}") from None
    note = None if of == sha256 else f"{OTHER_WEIGHTS} ({str(of)[:12]})"
    return {**kept, "sha256": of, "note": note, **rows}


def sections(card: Json) -> list[tuple[str, list[str]]]:
    """The card as headings, each with its lines of text."""
    return [
        (card["file"], _network(card)),
        ("thresholds and growth", _postprocessing(card)),
        ("training", _training(card["training"])),
        *((_title(one), scored(one)) for one in card["evaluations"].values()),
        *([] if card["evaluations"] else [("scores", ["none beside the file"])]),
        *([("trials", _trials(card["trials"]))] if card["trials"] else []),
        ("known weaknesses", card["weaknesses"] or ["none are written down"]),
        *([("data and licences", card["notice"].splitlines())] if card["notice"] else []),
    ]


def text(card: Json) -> str:
    """The card to print."""
    return "\n\n".join(
        "\n".join([heading, *(f"  {line}".rstrip() for line in lines)])
        for heading, lines in sections(card)
    )


def _network(card: Json) -> list[str]:
    network, shown = card["network"], card["input"]
    takes = "3 channels" if shown["channels"] == 3 else "1 channel (luminance of colour slides)"
    how = {
        "bright-nuclei": "nuclei bright on dark: stained and bright-field slides as negatives",
        "as-is": "slides as they are, nuclei dark where they are stained",
    }[shown["polarity"]]
    return [
        f"sha256      {card['sha256']}",
        f"size        {card['bytes'] / 1e6:.1f} MB, {network['parameters']:,} parameters",
        f"work        {network['kflop_per_px']:.1f} kFLOP per pixel",
        f"sees        {network['radius_px']} px around a pixel; halo {network['halo_px']} px, "
        f"stride {network['stride_px']} px",
        f"takes       {takes}, {how}",
        f"pixel size  {_range(shown['mpp'], 'µm per pixel')}",
        f"nuclei      {_range(shown['nucleus_px'], 'px wide')}",
        f"gives       {' and '.join(card['maps'])} map{'s' if len(card['maps']) > 1 else ''}",
    ]


def _range(pair: Sequence[float] | None, unit: str) -> str:
    return f"{pair[0]:g} to {pair[1]:g} {unit}" if pair else "not written down"


def _postprocessing(card: Json) -> list[str]:
    lines = [f"{'stain':12}  nucleus  seed  growth  least seed"]
    lines += [
        f"{stain:12}  {one['nucleus_threshold']:7}  {one['seed_threshold']:4}  "
        f"{one['grow_px']:3} px  {one['min_seed_area_px']:6} px"
        for stain, one in card["postprocessing"].items()
    ]
    return lines if card["sidecar"] else [*lines, "no sidecar: these are the defaults"]


def _training(training: Any) -> list[str]:
    if not isinstance(training, Mapping):
        return ["not written down"]
    lines = []
    for name, value in training.items():
        values = value if isinstance(value, list) and name == "data" else [value]
        told = [line for one in values for line in textwrap.wrap(_told(one), 80) or [""]]
        names = [name, *[""] * (len(told) - 1)]
        lines += [f"{left:18}  {line}" for left, line in zip(names, told, strict=True)]
    return lines


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_told(one)}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _trials(text: str) -> list[str]:
    r"""A table of comma-separated values as a paragraph for each row; anything else as it is.

    >>> _trials("trial,AP50,PQ\nwider,0.9,\n")
    ['wider: AP50 0.9']
    """
    head, *rows = list(csv.reader(text.splitlines())) or [[]]
    if len(head) < 2 or any(len(row) != len(head) for row in rows):
        return text.splitlines()
    lines = []
    for row in rows:
        told = [f"{name} {value}" for name, value in zip(head[1:], row[1:], strict=True) if value]
        lines += textwrap.wrap(f"{row[0]}: {', '.join(told)}", 100, subsequent_indent="    ")
    return lines


def _title(one: Json) -> str:
    note = f" ({one['note']})" if one["note"] else ""
    return f"scores on {one['folder']}, split {one['split']}, {one['images']} images{note}"


def scored(one: Json, *, groups: bool = False) -> list[str]:
    """Tables of an evaluation: by modality, or by group, and in total."""
    rows = [*one["groups" if groups else "modalities"].items(), ("all", one["total"])]
    return [*scores.table(rows), "", *scores.detail(rows)]
