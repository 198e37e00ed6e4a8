"""What a TIFF says of itself -> µm per pixel and who says so, names of channels and images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from tifffile import TiffFile, TiffPage, TiffPageSeries

from nucleiflow.slide import NO_MPP, mean_mpp, mpp_from_resolution, sane_mpp, to_um

FORMATS = {
    "svs": "Aperio SVS",
    "ndpi": "Hamamatsu NDPI",
    "ome": "OME-TIFF",
    "imagej": "ImageJ TIFF",
    "scn": "Leica SCN",
    "philips": "Philips TIFF",
    "qpi": "Akoya QPTIFF",
}
SIDE_IMAGE = re.compile(
    r"(.*[\W_])?(label|macro|thumbnail|overview|map|barcode)([\W_]*image)?\W*", re.IGNORECASE
)
DIFFERENT = 0.05  # of the µm per pixel that two statements of one file may differ by
NOMINAL_UM = 10.0  # over the magnification of the objective, it is the usual size of a pixel
FAR_FROM_NOMINAL = 1.6

Xml = ET.Element | None


@dataclass(frozen=True)
class Size:
    """Width and height of a pixel in µm as `source` states them."""

    x: float | None
    y: float | None
    source: str


def side_image(series: TiffPageSeries) -> bool:
    """Whether an image is the slide's label, macro photograph or thumbnail, by its name."""
    return bool(SIDE_IMAGE.fullmatch(series.name.strip()))


def parse(text: str) -> Xml:
    """Root of the XML in a description (already known to be harmless), or None."""
    try:
        return ET.fromstring(text)  # noqa: S314  entities are refused before
    except ET.ParseError:
        return None


def named(node: Xml, tag: str) -> list[ET.Element]:
    """All elements below a node with a tag, whatever its namespace."""
    return [] if node is None else [e for e in node.iter() if e.tag.rpartition("}")[2] == tag]


def ome_pixels(root: Xml, number: int) -> Xml:
    """The Pixels element of an image in OME-XML."""
    found = named(root, "Pixels")
    return found[number] if number < len(found) else None


# channels


def channel_names(series: TiffPageSeries, ome: Xml, count: int) -> tuple[str, ...]:
    """Names of OME-XML or QPTIFF if there is one for each channel, or "channel 0", ..."""
    names: Sequence[str | None] = []
    if series.kind == "qpi":
        names = [_qpi_name(page) for page in series.pages]
    elif ome is not None:
        names = [node.get("Name") for node in named(ome, "Channel")]
    if len(names) != count:
        names = [None] * count
    return tuple(name or f"channel {i}" for i, name in enumerate(names))


def _qpi_name(page: Any) -> str | None:
    root = parse(getattr(page, "description", ""))
    texts = [node.text for tag in ("Biomarker", "Name") for node in named(root, tag)]
    return next((text.strip() for text in texts if text and text.strip()), None)


# µm per pixel


def pixel_size(
    tif: TiffFile, series: TiffPageSeries, root: Xml, ome: Xml
) -> tuple[float | None, str, list[str]]:
    """µm per pixel, who says so, and notes on what is odd about it.

    The format's own statement goes first, then the resolution tags, then tifffile's `mpp`: old
    versions of tifffile lack it, and it takes OME's unknown units for µm.
    """
    said = [*_own(series, root, ome), _resolution(tif, series.keyframe)]
    if series.kind not in ("ome", "imagej"):
        x, y = getattr(series, "mpp", None) or (None, None)
        said.append(Size(x, y, "tifffile mpp"))
    notes = [
        f"{one.source} is {one.x:g} µm, which no slide has: not used; --mpp states another"
        for one in said
        if one.x is not None and not sane_mpp(one.x)
    ]
    sane = [one for one in said if sane_mpp(one.x)]
    if not sane:
        return None, NO_MPP, notes
    mpp, note = mean_mpp(sane[0].x, sane[0].y)
    notes += [note] if note else []
    notes += [
        f"{sane[0].source} is {sane[0].x:.4g} µm, but {one.source} {one.x:.4g}: the first is used, "
        "or --mpp"
        for one in sane[1:]
        if abs((one.x or 0) / (sane[0].x or 1) - 1) > DIFFERENT
    ]
    return mpp, sane[0].source, notes + _check_objective(series.keyframe, mpp)


def _own(series: TiffPageSeries, root: Xml, ome: Xml) -> list[Size]:
    """What the vendor's own metadata say."""
    found = []
    if ome is not None:
        x, y = (_ome_size(ome, axis) for axis in "XY")
        found.append(Size(x, y, "OME PhysicalSizeX"))
    if aperio := re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", series.keyframe.description):
        size = number(aperio[1])
        found.append(Size(size, size, "Aperio MPP"))
    if series.kind == "scn":
        found += _scn(series, root)
    if series.kind == "philips":
        found += _philips(root)
    return found


def _ome_size(image: ET.Element, axis: str) -> float | None:
    size = number(image.get(f"PhysicalSize{axis}"))
    return None if size is None else to_um(size, image.get(f"PhysicalSize{axis}Unit", "µm"))


def _scn(series: TiffPageSeries, root: Xml) -> list[Size]:
    """Leica: an image's extent in nm (`view`) over its pixels."""
    height, width = series.keyframe.imagelength, series.keyframe.imagewidth
    for image in named(root, "image"):
        for pixels, view in zip(named(image, "pixels"), named(image, "view"), strict=False):
            if (pixels.get("sizeX"), pixels.get("sizeY")) == (str(width), str(height)):
                x, y = number(view.get("sizeX")), number(view.get("sizeY"))
                if x and y:
                    return [Size(x / width / 1000, y / height / 1000, "Leica view")]
    return []


def _philips(root: Xml) -> list[Size]:
    """Philips: mm between rows and between columns, of level 0 first."""
    for node in named(root, "Attribute"):
        if node.get("Name") == "DICOM_PIXEL_SPACING" and node.text:
            sizes = [number(part) for part in node.text.replace('"', " ").split()]
            if len(sizes) == 2 and sizes[0] and sizes[1]:
                return [Size(sizes[1] * 1000, sizes[0] * 1000, "Philips pixel spacing")]
    return []


def number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _check_objective(page: TiffPage, mpp: float | None) -> list[str]:
    """A note if Aperio's magnification and the µm per pixel do not belong together."""
    found = re.search(r"\|\s*AppMag\s*=\s*([0-9.]+)", page.description)
    power = number(found[1]) if found else None
    if not power or mpp is None:
        return []
    nominal = NOMINAL_UM / power
    if max(mpp / nominal, nominal / mpp) < FAR_FROM_NOMINAL:
        return []
    return [
        f"{mpp:.4g} µm per pixel, but {power:g}x objectives have about {nominal:.2g}: check it, "
        "or give --mpp"
    ]


def _resolution(tif: TiffFile, page: TiffPage) -> Size:
    """Pixel size from the resolution tags, whose unit ImageJ keeps in its own header."""
    rates = []
    for tag in ("XResolution", "YResolution"):
        value = page.tags.valueof(tag)  # numerator, denominator; hostile files have anything
        fine = isinstance(value, tuple) and len(value) == 2 and value[1] > 0
        rates.append(value[0] / value[1] if fine else 0.0)
    unit = str((tif.imagej_metadata or {}).get("unit", "")) if tif.is_imagej else ""
    if unit and unit not in ("inch", "cm"):
        x, y = (to_um(1 / rate, unit) if rate > 0 else None for rate in rates)
        return Size(x, y, "ImageJ unit")
    unit = unit or {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 2)), "")
    x, y = (mpp_from_resolution(rate, unit or None) for rate in rates)
    return Size(x, y, f"resolution tags (per {unit})")
