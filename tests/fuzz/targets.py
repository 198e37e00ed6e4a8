"""What hostile bytes are given to: each target reads them as a part of nucleiflow does.

A target takes bytes and a scratch folder and returns a word for what came of it. It lets no error
out but those that a user understands; everything else that it raises is a finding.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import mutations
import numpy as np
import slidefiles
import tifffile
import zarr
from mutations import Mutate
from PIL import Image

from nucleiflow import (
    contract,
    demo,
    jobfile,
    manifest,
    model,
    ngff,
    openslide,
    records,
    runfile,
    source,
)
from nucleiflow import settings as model_settings
from nucleiflow.box import Box
from nucleiflow.errors import NucleiflowError, explain

WINDOW_PX = 48
MAX_LEVELS = 4


@dataclass(frozen=True)
class Target:
    """`seeds` writes good files into a folder and gives their bytes; `run` reads bad ones."""

    name: str
    seeds: Callable[[Path], list[bytes]]
    run: Callable[[bytes, Path], str]
    mutate: Mutate
    max_bytes: int = 1 << 16


class WrongAnswerError(Exception):
    """A file was read, but not as it promised."""


def outcome(error: NucleiflowError) -> str:
    """The kind of a refusal, without the numbers and names of the file. Checks that it is one line.

    Want of memory is nothing that a file may cause.
    """
    text, cause = str(error), error.__cause__
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise WrongAnswerError(f"memory ran out: {text[:200]}")
        cause = cause.__cause__
    if not explain(error).isprintable():
        raise WrongAnswerError(f"not one line: {explain(error)!r}")
    words = re.sub(r"/\S+|'[^']*'|\"[^\"]*\"", "_", text.partition(": ")[2] or text)
    return re.sub(r"[\d.]+", "#", words)[:60]


def read_windows(path: str) -> str:
    """Open a slide and read corners of its levels, which must be as it says."""
    try:
        with source.open_slide(path) as slide:
            for level in slide.levels[:MAX_LEVELS]:
                h, w = level.shape
                for box in (
                    Box(0, 0, min(h, WINDOW_PX), min(w, WINDOW_PX)),
                    Box(max(0, h - WINDOW_PX), max(0, w - WINDOW_PX), h, w),
                ):
                    pixels = level.read(box)
                    wanted = (*box.shape, len(slide.channels))
                    if pixels.shape != wanted or pixels.dtype != slide.dtype:
                        raise WrongAnswerError(f"{pixels.shape} {pixels.dtype}, not {wanted}")
            if slide.mpp is not None and not 0.01 < slide.mpp < 100:
                raise WrongAnswerError(f"{slide.mpp} µm")
            return f"read: {slide.format}"
    except NucleiflowError as error:
        return outcome(error)


def _of_file(name: str) -> Callable[[bytes, Path], str]:
    def run(data: bytes, folder: Path) -> str:
        path = folder / name
        path.write_bytes(data)
        return read_windows(str(path))

    return run


# seeds


@contextlib.contextmanager
def small() -> Iterator[None]:
    """The writers of vendors' files, but with few pixels: a fuzzer changes small files better."""
    tissue, stain = slidefiles.tissue, slidefiles.stain

    def less(height: int = 512, width: int = 700) -> Any:
        return tissue(height // 8, width // (4 if width == 768 else 8))

    with (
        mock.patch.object(slidefiles, "tissue", less),
        mock.patch.object(slidefiles, "stain", lambda channels: stain(channels, 64, 88)),
    ):
        yield


def tiff_seeds(folder: Path) -> list[bytes]:
    """One file of each vendor, and of each way to lay out pixels."""
    found, grey = [], slidefiles.stain(1, 64, 88)[0]
    j2k = functools.partial(slidefiles.svs, compression="APERIO_JP2000_YCBC")
    with small():
        for number, make in enumerate((
            slidefiles.svs, j2k, slidefiles.ndpi, slidefiles.scn, slidefiles.philips,
            slidefiles.qptiff, slidefiles.ome_channels, slidefiles.pyramid, slidefiles.strips,
            functools.partial(slidefiles.pyramid, bigtiff=True),
        )):  # fmt: skip
            found.append(make(folder / f"{number}.tif").path.read_bytes())
    eight = (grey >> 8).astype(np.uint8)
    plain: dict[str, Any] = {"metadata": None}
    for pixels, options in (
        (grey, {}), (grey, {"imagej": True}), (grey, {"ome": True, "bigtiff": True}),
        (eight, plain | {"tile": (16, 16), "compression": "zstd"}),
        (eight, plain | {"tile": (16, 16), "compression": "packbits"}),
        (eight, plain | {"tile": (16, 16), "compression": "lzma"}),
        (eight, plain | {"tile": (32, 32), "compression": "png"}),
        (eight, plain | {"tile": (32, 32), "compression": "jpeg2000"}),
        (eight, plain | {"tile": (32, 32), "compression": "jpegxr"}),
        (np.stack([eight] * 3, -1), plain | {"tile": (32, 32), "compression": "webp",
                                             "photometric": "rgb"}),
    ):  # fmt: skip
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **options)
        found.append(file.getvalue())
    return found


def picture_seeds(_: Path) -> list[bytes]:
    found, pixels = [], demo.make_slide(64, seam_px=64)[0]
    eight = (pixels >> 8).astype(np.uint8)
    colour = Image.fromarray(np.stack([eight] * 3, -1))
    for image, options in (
        (Image.fromarray(pixels), {"format": "PNG"}),
        (Image.fromarray(eight), {"format": "PNG", "dpi": (50_800, 50_800)}),
        (colour, {"format": "PNG"}),
        (colour.convert("P"), {"format": "PNG", "transparency": 0}),
        (colour, {"format": "JPEG", "quality": 60, "dpi": (50_800, 50_800)}),
        (colour, {"format": "JPEG", "progressive": True, "exif": Image.Exif()}),
        (colour.convert("CMYK"), {"format": "JPEG"}),
    ):
        file = io.BytesIO()
        image.save(file, **options)
        found.append(file.getvalue())
    return found


# OME-Zarr: a good image of which one file is replaced; the first byte says which


ZARR_FILES = (
    ("v2", ".zattrs"), ("v2", "0/.zarray"), ("v2", "1/.zarray"), ("v2", "0/0.0.0"),
    ("v2z", "0/.zarray"), ("v2z", "0/0.0.0"), ("v3", "zarr.json"), ("v3", "0/zarr.json"),
    ("v3", "1/zarr.json"), ("v3", "0/c/0/0/0"), ("v3g", "0/zarr.json"), ("v3g", "0/c/0/0/0"),
)  # fmt: skip
PACKED = {"v2": "auto", "v2z": "zlib", "v3": "auto", "v3g": "gzip"}


def zarr_image(path: Path, kind: str) -> None:
    """Two channels, two levels; v3 is in shards."""
    import numcodecs

    packed: Any = {
        "auto": "auto",
        "zlib": numcodecs.Zlib(),
        "gzip": zarr.codecs.GzipCodec(),
    }[PACKED[kind]]
    levels = slidefiles.halves(slidefiles.stain(2, 64, 88), 2)
    version = kind.startswith("v3") + 2
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for k, level in enumerate(levels):
        options: dict[str, Any] = {"chunks": (1, 32, 32), "compressors": packed}
        if version == 3:
            options["shards"] = (2, 64, 64)
        group.create_array(str(k), shape=level.shape, dtype=level.dtype, **options)[:] = level
    shown = ngff.omero(["A", "B"], rgb=False, windows=[(0, 9), (0, 9)], top=65535)
    described = ngff.image("slide", 2, (0.3, 0.3), shown)
    if version == 3:
        group.attrs["ome"] = described
    else:
        (one,) = described["multiscales"]
        group.attrs.update({"multiscales": [{**one, "version": "0.4"}], "omero": shown})


def zarr_seeds(folder: Path) -> list[bytes]:
    for kind in PACKED:
        if not (folder / kind).exists():
            zarr_image(folder / kind, kind)
    return [
        bytes([number]) + (folder / kind / name).read_bytes()
        for number, (kind, name) in enumerate(ZARR_FILES)
    ]


def run_zarr(data: bytes, folder: Path) -> str:
    kind, name = ZARR_FILES[data[0] % len(ZARR_FILES) if data else 0]
    good, path = folder / "good" / kind, folder / "bad.zarr"
    if not good.exists():
        zarr_image(good, kind)
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(good, path)
    (path / name).write_bytes(data[1:])
    return read_windows(str(path))


def mutate_zarr(data: bytes, rng: Any) -> bytes:
    is_json = data[1:2] == b"{"
    return data[:1] + (mutations.jsons if is_json else mutations.damaged)(data[1:], rng)


# DICOM and the other formats of OpenSlide


def dicom_seeds(folder: Path) -> list[bytes]:
    with small():
        made = [slidefiles.dicom(folder / name, colours=name) for name in ("RGB", "YBR_FULL_422")]
    return [(one.path / "slide.dcm").read_bytes() for one in made]


def openslide_seeds(folder: Path) -> list[bytes]:
    with small():
        return [slidefiles.czi(folder / "a.czi").path.read_bytes()]


# text


def run_job(data: bytes, folder: Path) -> str:
    path = folder / "job.yaml"
    path.write_bytes(data)
    try:
        loaded = jobfile.load(path, environ={})
        return f"read: {len(loaded.job.slides)} slides"
    except NucleiflowError as error:
        return outcome(error)


def job_seeds(_: Path) -> list[bytes]:
    jobs = Path(__file__).parents[2] / "jobs"
    own = b"slides: [{slide: &a x.svs, id: b, mpp: 0.5}, *a]\nout: o\ntiles: {tile_px: 512}\n"
    shipped = sorted(path for path in jobs.glob("*.yaml") if not path.name.startswith("train"))
    return [own, *(path.read_bytes().replace(b"manifest:", b"slides: [a] #") for path in shipped)]


def run_manifest(data: bytes, folder: Path) -> str:
    try:
        rows = manifest.parse(
            data.decode(errors="replace"), name="m.csv", folder=folder, environ={"A": "b"}
        )
        return f"read: {len(rows)} rows"
    except NucleiflowError as error:
        return outcome(error)


def manifest_seeds(_: Path) -> list[bytes]:
    jobs = Path(__file__).parents[2] / "jobs"
    return [
        (jobs / "slides.csv").read_bytes(),
        b'slide;mpp;id\n"a;b.svs";0.5;x\n${A}/c.svs;;\n',
        b"slide,id,mpp,stain,channel,model,level,working_mpp,tile_px,halo_px,whole_slide\n"
        b"a.svs,case 1,0.25,h&e,0,my.keras,1,0.5,512,96,true\n",
    ]


# records


def run_arrays(data: bytes, folder: Path) -> str:
    path = folder / "0"
    path.write_bytes(data)
    try:
        found = records.get_arrays(path) or {}
        return f"read: {sum(one.nbytes for one in found.values())} bytes"
    except NucleiflowError as error:
        return outcome(error)


def array_seeds(folder: Path) -> list[bytes]:
    records.put_arrays(
        folder / "0", {"seeds": np.arange(9, dtype=np.uint32), "strip": np.zeros((2, 30), np.int64)}
    )
    return [(folder / "0").read_bytes()]


def run_json(data: bytes, folder: Path) -> str:
    path = folder / "run.json"
    path.write_bytes(data)
    try:
        return f"read: {len(records.get_json(path) or {})} keys"
    except NucleiflowError as error:
        return outcome(error)


def json_seeds(_: Path) -> list[bytes]:
    return [json.dumps({"nuclei": 7, "look": {"stain": "h&e"}, "holes": [[0, 1, 2]]}).encode()]


# models


def run_model(data: bytes, folder: Path) -> str:
    path = folder / "m.keras"
    path.write_bytes(data)
    try:
        return f"read: {model.load(path).reach.halo_px} px"
    except NucleiflowError as error:
        return outcome(error)


def model_seeds(_: Path) -> list[bytes]:
    """The shipped network without its weights, which are not looked at."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(model.SHIPPED) as whole, zipfile.ZipFile(file, "w") as less:
        for name in whole.namelist():
            less.writestr(name, b"" if name.endswith(".h5") else whole.read(name))
    return [file.getvalue()]


def run_sidecar(data: bytes, folder: Path) -> str:
    path = folder / "s.json"
    path.write_bytes(data)
    try:
        known = model.sidecar(path.with_suffix(".keras"))
        return f"read: {model_settings.read(known, maps=2, name='s.json').of('h&e')}"[:40]
    except NucleiflowError as error:
        return outcome(error)


def run_architecture(data: bytes, _: Path) -> str:
    """The contract alone: `config.json` of a model, already parsed."""
    try:
        described = json.loads(data)
        return f"read: {contract.check(described).maps}" if isinstance(described, dict) else "no"
    except (ValueError, RecursionError):
        return "not JSON"
    except NucleiflowError as error:
        return outcome(error)


def architecture_seeds(_: Path) -> list[bytes]:
    return [json.dumps(model.architecture(model.SHIPPED)).encode()]


def sidecar_seeds(_: Path) -> list[bytes]:
    return [model.SHIPPED.with_suffix(".json").read_bytes()]


# a finished slide


def run_finished(data: bytes, folder: Path) -> str:
    """What `verify`, `view` and later reports read of a run.json, its pixels left alone."""
    (folder / "run.json").write_bytes(data)
    try:
        word = runfile.read(folder)
        if word is None:
            raise WrongAnswerError("no run.json")
        return f"read: {runfile.job(word, folder).grid.tile_px} px"[:20]
    except NucleiflowError as error:
        return outcome(error)


def finished_seeds(_: Path) -> list[bytes]:
    """As a run writes it, without what nobody reads again."""
    shipped = model.load()
    thresholds = {"nucleus_threshold": 156, "seed_threshold": 192, "grow_px": 32}
    word = {
        "labels": "s.ome.zarr/labels/nuclei", "nuclei": 10, "labels_digest": "143b", "height": 128,
        "width": 128, "channels": ["A"], "dtype": "uint16", "colour": False, "image": "copy",
        "stain": "fluorescence", "stain_reason": "dark", "halo_px": 96, "holes": [{"tile": 0}],
        "normalisation": {"channels": [0], "low": 110.0, "high": 2320.7, "gamma": 0.5,
                          "inverted": False},
        "resolution": {"level": 0, "factor": 1.0, "mpp": None, "slide_mpp": None,
                       "slide_height": 128, "slide_width": 128, "reason": "as it is"},
        "fingerprint": {"input": {"bytes": 9}, "model": shipped.sha256,
                        "options": {"tile_px": 128},
                        "settings": {"polarity": "bright-nuclei", "postprocessing": {
                            "fluorescence": thresholds | {"min_seed_area_px": 11}}}},
        "provenance": {"slide": "s.tif", "model": str(model.SHIPPED)},
    }  # fmt: skip
    return [json.dumps(word).encode()]


# regions


def run_region(data: bytes, folder: Path) -> str:
    regions = importlib.import_module("nucleiflow.regions")
    path = folder / "region.geojson"
    path.write_bytes(data)
    try:
        return f"read: {type(regions.read([str(path)], (512, 700))).__name__}"
    except NucleiflowError as error:
        return outcome(error)


def region_seeds(_: Path) -> list[bytes]:
    ring = [[10, 10], [10, 200.5], [300, 200], [10, 10]]
    hole = [[20, 20], [20, 30], [30, 30], [20, 20]]
    shapes: list[Any] = [
        {"type": "Polygon", "coordinates": [ring, hole]},
        {"type": "MultiPolygon", "coordinates": [[ring], [hole]]},
    ]
    features = [{"type": "Feature", "properties": {"a": 1}, "geometry": one} for one in shapes]
    whole: Any = {"type": "FeatureCollection", "features": features}
    return [json.dumps(one).encode() for one in (whole, *shapes)]


TARGETS = {
    one.name: one
    for one in (
        Target("tiff", tiff_seeds, _of_file("a.tif"), mutations.tiff),
        Target("picture", picture_seeds, _of_file("a.png"), mutations.damaged),
        Target("zarr", zarr_seeds, run_zarr, mutate_zarr),
        Target("dicom", dicom_seeds, _of_file("a.dcm"), mutations.damaged),
        Target("czi", openslide_seeds, _of_file("a.czi"), mutations.damaged),
        Target("job", job_seeds, run_job, mutations.damaged, 1 << 13),
        Target("manifest", manifest_seeds, run_manifest, mutations.damaged, 1 << 13),
        Target("arrays", array_seeds, run_arrays, mutations.damaged, 1 << 13),
        Target("json", json_seeds, run_json, mutations.jsons, 1 << 13),
        Target("model", model_seeds, run_model, mutations.zipped(mutations.jsons)),
        Target("network", architecture_seeds, run_architecture, mutations.jsons),
        Target("sidecar", sidecar_seeds, run_sidecar, mutations.jsons),
        Target("finished", finished_seeds, run_finished, mutations.jsons),
        Target("region", region_seeds, run_region, mutations.jsons, 1 << 13),
    )
    if one.name not in ("dicom", "czi") or openslide.installed()
}
