"""The content of a slide's run.json -> what a person should know first, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nucleiflow.page import duration, percent


def remarks(word: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a person should know first, the worst first; that all is well, if nothing is said."""
    found = []
    holes, audit = word.get("holes") or [], word.get("seam_audit") or {}
    if holes:
        some = "1 tile" if len(holes) == 1 else f"{len(holes):,} tiles"
        of = f" of {word['tiles']:,}" if word.get("tiles") else ""
        holds = "holds" if len(holes) == 1 else "hold"
        found.append(("bad", f"{some}{of} could not be done and {holds} no labels"))
    if audit.get("suspicious"):
        found.append(("bad", sentence(audit["text"])))
    found += [("warn", sentence(line)) for line in (word.get("quality") or {}).get("flags", [])]
    if not word.get("mpp"):
        line = "µm per pixel are not known, so sizes are in pixels: --mpp tells them"
        found.append(("warn", line))
    well = "Nothing stands out: all tiles are done, and no pen marks, folds or blur were seen"
    return found or [("good", well)]


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def headline(word: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers that a slide comes down to, with what they are."""
    quality = word.get("quality") or {}
    pairs = [("nuclei", f"{word['nuclei']:,}")]
    region = word.get("region") or {}
    if region.get("area_mm2") is not None:
        pairs.append(("region", f"{region['area_mm2']:,.2f} mm²"))
        pairs.append(("nuclei per mm² of it", f"{region['nuclei_per_mm2']:,.0f}"))
    elif region:
        pairs.append(("region, px", f"{region['area_px']:,}"))
    if quality.get("tissue_mm2") is not None:
        pairs.append(("tissue", f"{quality['tissue_mm2']:,.2f} mm²"))
    if quality.get("nuclei_per_mm2") is not None:
        pairs.append(
            (
                "nuclei per mm² of tissue" if region else "nuclei per mm²",
                f"{quality['nuclei_per_mm2']:,.0f}",
            )
        )
    if quality.get("out_of_focus_fraction") is not None:
        pairs.append(("out of focus", percent(quality["out_of_focus_fraction"])))
    pairs.append(("stain", str(word.get("stain"))))
    pairs.append(("resolution", f"{word['mpp']:.3g} µm/px" if word.get("mpp") else "unknown"))
    pairs.append(("size, px", f"{word['width']:,} × {word['height']:,}"))
    seconds = sum((word.get("seconds") or {}).values())
    return [*pairs, ("time", duration(seconds))] if seconds else pairs
