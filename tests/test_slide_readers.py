"""Slide readers: boxes equal another reader's pixels; what cannot be read right is refused."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from slidepixels import in_pieces, whole

from nucleiflow import picture, tiff
from nucleiflow.box import Box, grid
from nucleiflow.errors import SlideError
from nucleiflow.slide import (
    Level,
    Slide,
    mean_mpp,
    mpp_from_resolution,
    sane_mpp,
    to_channels_last,
    to_um,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
SVS = DATA / "slides" / "CMU-1-Small-Region.svs"
NDPI = DATA / "slides" / "dapi-tissue-40x.ndpi"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"no real slides at {DATA}")
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (300, 400), dtype=np.uint8)
COLOUR = RNG.integers(0, 255, (300, 400, 3), dtype=np.uint8)
STACK = RNG.integers(0, 65535, (4, 300, 400), dtype=np.uint16)
TILED: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "metadata": None}


def open_tiff(path: Path) -> Slide:
    return tiff.open_slide(str(path))


def refusal(open_slide: Callable[[], Slide]) -> str:
    """The one line with which a slide is refused, at open or at the first read."""
    with pytest.raises(SlideError) as caught, open_slide() as slide:
        whole(slide)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def written(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


def pyramid(path: Path, levels: list[NDArray[Any]], **options: Any) -> Path:
    with tifffile.TiffWriter(path, ome=True) as writer:
        common: dict[str, Any] = {"tile": (64, 64), "compression": "zlib"}
        writer.write(levels[0], subifds=len(levels) - 1, **common, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **common)
    return path


# real slides


@needs_data
def test_svs_is_its_baseline_page_and_never_its_label() -> None:
    with open_tiff(SVS) as slide, tifffile.TiffFile(SVS) as oracle:
        assert slide.shape == (2967, 2220)
        assert (slide.format, slide.rgb, slide.channels) == ("Aperio SVS", True, ("R", "G", "B"))
        assert (slide.mpp, slide.mpp_source, slide.notes) == (0.499, "Aperio MPP", ())
        assert slide.downsamples == (1.0,)
        np.testing.assert_array_equal(in_pieces(slide, 0, 700), oracle.pages[0].asarray())


@needs_data
def test_ndpi_levels_equal_the_pages() -> None:
    with open_tiff(NDPI) as slide, tifffile.TiffFile(NDPI) as oracle:
        assert slide.shape == (4864, 3968)
        assert slide.downsamples == (1.0, 2.0, 4.0, 8.0)
        assert slide.mpp == pytest.approx(1e4 / 43826)
        assert (slide.mpp_source, slide.notes) == ("resolution tags (per cm)", ())
        for level in (1, 3):
            pixels = in_pieces(slide, level, 1000)
            np.testing.assert_array_equal(pixels, oracle.pages[level].asarray())
        assert pixels[..., 2].mean() > 20 * pixels[..., :2].mean(), "the signal is in blue"


@needs_data
@pytest.mark.parametrize("path", [SVS, NDPI], ids=["svs", "ndpi"])
@pytest.mark.parametrize("part", [0.0001, 0.01, 0.3, 0.6, 0.9, 0.999999])
def test_a_truncated_slide_is_refused_when_opened(path: Path, part: float, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(SlideError, match=r"copy|no TIFF") as caught:
        open_tiff(copy)
    assert str(copy) in str(caught.value)


@needs_data
def test_a_corrupt_tile_is_refused_when_read_and_its_neighbours_are_not(tmp_path: Path) -> None:
    copy = tmp_path / SVS.name
    shutil.copy(SVS, copy)
    copy.chmod(0o600)
    with tifffile.TiffFile(copy) as file:
        page = file.pages.first
        offset, size = page.dataoffsets[0], page.databytecounts[0]
    with copy.open("r+b") as raw:
        raw.seek(offset)
        raw.write(bytes(size))
    with open_tiff(copy) as slide, open_tiff(SVS) as intact:
        with pytest.raises(SlideError, match="cannot decode Box"):
            slide.levels[0].read(Box(0, 0, 10, 10))
        beside = Box(240, 240, 500, 500)
        np.testing.assert_array_equal(slide.levels[0].read(beside), intact.levels[0].read(beside))


@needs_data
def test_threads_read_the_same_pixels() -> None:
    with open_tiff(SVS) as slide:
        boxes = list(grid(*slide.shape, 512))
        serial = [slide.levels[0].read(box) for box in boxes]
        with ThreadPoolExecutor(4) as pool:
            parallel = list(pool.map(slide.levels[0].read, boxes))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_data
def test_png_equals_another_decoder() -> None:
    paths = sorted((DATA / "dsb2018" / "images").glob("*.png"))[::15]
    kinds = set()
    for path in paths:
        expected = imagecodecs.png_decode(path.read_bytes())
        with picture.open_slide(str(path)) as slide:
            kinds.add(slide.rgb)
            assert slide.rgb == (expected.ndim == 3)
            assert (slide.mpp, slide.mpp_source) == (None, "none: give --mpp")
            expected = expected[..., :3] if slide.rgb else expected[..., None]
            np.testing.assert_array_equal(in_pieces(slide, 0, 100), expected)
    assert kinds == {True, False}, "the sample holds grey and colour images"


@needs_data
def test_16_bit_png_keeps_its_numbers() -> None:
    path = min((DATA / "dsb2018" / "labels").glob("*.png"))
    with picture.open_slide(str(path)) as slide:
        assert slide.dtype == np.uint16
        np.testing.assert_array_equal(
            whole(slide)[..., 0], imagecodecs.png_decode(path.read_bytes())
        )


@needs_data
def test_jpeg_equals_another_decoder() -> None:
    for path in sorted((DATA / "nuinsseg" / "images").glob("*.jpg"))[::150]:
        expected = imagecodecs.jpeg8_decode(path.read_bytes())
        with picture.open_slide(str(path)) as slide:
            assert (slide.format, slide.rgb, slide.mpp) == ("JPEG", True, None)
            np.testing.assert_array_equal(in_pieces(slide, 0, 300), expected)


# what a TIFF says is what the slide says


def test_ome_pyramid_of_subifds_keeps_its_levels(tmp_path: Path) -> None:
    levels = [COLOUR, COLOUR[::2, ::2], COLOUR[::4, ::4]]
    metadata = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "axes": "YXS"}
    with open_tiff(pyramid(tmp_path / "a.ome.tif", levels, metadata=metadata)) as slide:
        assert slide.downsamples == (1.0, 2.0, 4.0)
        assert (slide.format, slide.rgb, slide.mpp) == ("OME-TIFF", True, 0.25)
        assert slide.mpp_source == "OME PhysicalSizeX"
        for k, level in enumerate(levels):
            np.testing.assert_array_equal(in_pieces(slide, k, 130), level)


def test_a_level_of_another_aspect_is_no_level(tmp_path: Path) -> None:
    levels = [GREY, GREY[::2, ::2], GREY[::4, :200]]
    with open_tiff(pyramid(tmp_path / "a.ome.tif", levels, metadata={"axes": "YX"})) as slide:
        assert slide.downsamples == (1.0, 2.0)


def test_16_bit_channels_names_and_nanometres(tmp_path: Path) -> None:
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 325.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 325.0,
        "PhysicalSizeYUnit": "nm",
        "Channel": {"Name": ["DAPI", "CD3", "CD8", "CK"]},
    }
    path = pyramid(tmp_path / "a.ome.tif", [STACK, STACK[:, ::2, ::2]], metadata=metadata)
    with open_tiff(path) as slide:
        assert slide.channels == ("DAPI", "CD3", "CD8", "CK")
        assert (slide.rgb, slide.dtype.name) == (False, "uint16")
        assert slide.mpp == pytest.approx(0.325)
        np.testing.assert_array_equal(in_pieces(slide, 0, 130), np.moveaxis(STACK, 0, -1))
        np.testing.assert_array_equal(whole(slide, 1), np.moveaxis(STACK[:, ::2, ::2], 0, -1))


def test_pixels_that_are_not_square_are_noted_and_averaged(tmp_path: Path) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.6}
    with open_tiff(written(tmp_path / "a.ome.tif", GREY, metadata=metadata)) as slide:
        assert slide.mpp == pytest.approx(0.55)
        assert "not square" in slide.notes[0]


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_an_ome_size_without_a_length_is_no_size(unit: str, tmp_path: Path) -> None:
    metadata = {"axes": "YX"} | {f"PhysicalSize{a}": 1.0 for a in "XY"}
    metadata |= {f"PhysicalSize{a}Unit": unit for a in "XY"}
    with open_tiff(written(tmp_path / "a.ome.tif", GREY, metadata=metadata)) as slide:
        assert (slide.mpp, slide.mpp_source) == (None, "none: give --mpp")


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((40_000, 40_000), "CENTIMETER", 0.25),
        ((101_600, 101_600), "INCH", 0.25),
        ((40_000, 40_000), "NONE", None),
    ],
)
def test_only_a_microscopes_resolution_is_an_mpp(
    resolution: tuple[int, int], unit: str, mpp: float | None, tmp_path: Path
) -> None:
    path = written(
        tmp_path / "a.tif", GREY, metadata=None, resolution=resolution, resolutionunit=unit
    )
    with open_tiff(path) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))
        assert (slide.mpp_source == "none: give --mpp") == (mpp is None)


def test_imagej_unit_and_channels(tmp_path: Path) -> None:
    options = {"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um", "axes": "CYX"}}
    with open_tiff(written(tmp_path / "a.tif", STACK, **options)) as slide:
        assert (slide.format, slide.mpp, slide.mpp_source) == ("ImageJ TIFF", 0.25, "ImageJ unit")
        assert slide.channels == ("channel 0", "channel 1", "channel 2", "channel 3")
        pixels = in_pieces(slide, 0, 130)
        np.testing.assert_array_equal(pixels, np.moveaxis(STACK, 0, -1))
        assert whole(slide).dtype.isnative, "ImageJ writes big-endian"


@pytest.mark.parametrize(
    "options",
    [
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
        {"tile": (64, 64), "compression": "zlib"},
        {"planarconfig": "separate", "tile": (64, 64)},
        {"planarconfig": "separate"},
        {"bigtiff": True, "byteorder": ">"},
    ],
    ids=str,
)
def test_layout_does_not_change_pixels(options: dict[str, Any], tmp_path: Path) -> None:
    planar = options.get("planarconfig") == "separate"
    stored = np.moveaxis(COLOUR, -1, 0) if planar else COLOUR
    path = written(tmp_path / "a.tif", stored, photometric="rgb", metadata=None, **options)
    with open_tiff(path) as slide:
        assert (slide.rgb, slide.format, slide.notes) == (True, "TIFF", ())
        np.testing.assert_array_equal(in_pieces(slide, 0, 130), COLOUR)


def test_a_read_gives_memory_of_its_own(tmp_path: Path) -> None:
    with open_tiff(written(tmp_path / "a.tif", GREY)) as slide:
        whole(slide)[:] = 0
        np.testing.assert_array_equal(whole(slide)[..., 0], GREY)


def test_alpha_is_dropped_and_noted(tmp_path: Path) -> None:
    rgba = np.dstack([COLOUR, GREY])
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    with open_tiff(written(tmp_path / "a.tif", rgba, **options)) as slide:
        assert slide.channels == ("R", "G", "B")
        assert "samples per pixel" in slide.notes[0]
        np.testing.assert_array_equal(whole(slide), COLOUR)


def test_min_is_white_is_turned_round(tmp_path: Path) -> None:
    with open_tiff(written(tmp_path / "a.tif", GREY, photometric="miniswhite")) as slide:
        np.testing.assert_array_equal(whole(slide)[..., 0], 255 - GREY)


@pytest.mark.parametrize("axis", ["Z", "T"])
def test_a_stack_gives_its_first_plane_and_a_note(axis: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.ome.tif", STACK, metadata={"axes": f"{axis}YX"})
    with open_tiff(path) as slide:
        assert slide.notes == (f"the file is a stack of 4 along {axis}; only the first is read",)
        np.testing.assert_array_equal(whole(slide)[..., 0], STACK[0])


def test_pages_of_unknown_meaning_give_the_first_and_a_note(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", STACK, metadata=None, photometric="minisblack")
    with open_tiff(path) as slide:
        assert len(slide.channels) == 1
        assert "stack of 4" in slide.notes[0]
        np.testing.assert_array_equal(whole(slide)[..., 0], STACK[0])


def test_the_largest_image_is_the_slide(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY[:50, :50], metadata=None)
        writer.write(GREY, metadata=None)
    with open_tiff(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(whole(slide)[..., 0], GREY)


def test_absent_tiles_are_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, **TILED)
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = list(file.pages.first.databytecounts)
        counts[3] = 0
        file.pages.first.tags["TileByteCounts"].overwrite(counts)
    with open_tiff(path) as slide:
        assert slide.notes == ("1 tiles are absent from the file and read as 0",)
        assert not slide.levels[0].read(Box(0, 192, 64, 256)).any()


# what cannot be read right is refused in one line


@pytest.mark.parametrize(
    "options",
    [
        TILED,
        {"bigtiff": True} | TILED,
        {"metadata": None},
        {},
        {"ome": True},
        {"imagej": True},
        {"imagej": True, "truncate": True},
    ],
    ids=["tiled", "bigtiff", "one strip", "shaped", "ome", "imagej", "imagej of one page"],
)
def test_a_truncated_tiff_is_refused_at_open_or_lacks_nothing(
    options: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.tif", STACK, photometric="minisblack", **options)
    with open_tiff(path) as slide:
        expected, facts = whole(slide), (slide.channels, slide.notes, slide.mpp, slide.format)
    data, opened, refusals = path.read_bytes(), 0, list[str]()
    cuts = [0, 1, 4, 8, 9, 100, *range(200, len(data) - 1500, len(data) // 20)]
    for kept in cuts + list(range(len(data) - 1500, len(data), 7)):
        path.write_bytes(data[:kept])
        try:
            slide = open_tiff(path)
        except SlideError as error:
            refusals.append(str(error))
            continue
        with slide:
            opened += 1
            assert (slide.channels, slide.notes, slide.mpp, slide.format) == facts
            np.testing.assert_array_equal(whole(slide), expected)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in refusals)
    assert opened < 10, "only what nobody reads may be missing"


def test_what_is_no_tiff_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.tif"
    text.write_text("this is not an image\n")
    assert "no TIFF" in refusal(lambda: open_tiff(text))
    assert "no such file" in refusal(lambda: open_tiff(tmp_path / "missing.tif"))
    assert "is a folder" in refusal(lambda: open_tiff(tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32", "bool"])
def test_other_pixel_types_are_refused(dtype: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY.astype(dtype))
    assert "convert to 8 or 16 bit" in refusal(lambda: open_tiff(path))


def test_palettes_and_unknown_codecs_are_refused(tmp_path: Path) -> None:
    colormap = np.zeros((3, 256), np.uint16)
    path = written(tmp_path / "a.tif", GREY, photometric="palette", colormap=colormap)
    assert "PALETTE" in refusal(lambda: open_tiff(path))
    path = written(tmp_path / "b.tif", GREY, **TILED)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["Compression"].overwrite(33333)
    assert "unsupported encoding" in refusal(lambda: open_tiff(path))


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, **TILED)
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[tag].overwrite(400_000, dtype=4)
    assert "over the limit" in refusal(lambda: open_tiff(path))


def test_more_tiles_than_indexed_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, **TILED)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageLength"].overwrite(1000, dtype=3)
    assert "indexes 35 of 112 tiles" in refusal(lambda: open_tiff(path))


def test_a_circle_of_pages_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY, **TILED)
    raw = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", raw, 4)
    (tags,) = struct.unpack_from("<H", raw, first)
    struct.pack_into("<I", raw, first + 2 + 12 * tags, first)
    path.write_bytes(raw)
    assert "leads nowhere" in refusal(lambda: open_tiff(path))


def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    xml = '<?xml version="1.0"?><!DOCTYPE o [<!ENTITY a "aaaa">]><OME>&a;</OME>'
    path = written(tmp_path / "a.tif", GREY, description=xml, metadata=None)
    assert "entities" in refusal(lambda: open_tiff(path))


def without_its_other_file(folder: Path) -> Path:
    """An OME-TIFF of four channels, the last in a file that does not exist."""
    path = written(folder / "a.ome.tif", STACK, metadata={"axes": "CYX"})
    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata or ""
    here = '<TiffData FirstC="0" IFD="0" PlaneCount="3"/>'
    there = '<TiffData FirstC="3" IFD="0" PlaneCount="1"><UUID FileName="b.tif">urn:b</UUID>'
    xml = xml.replace('<TiffData IFD="0" PlaneCount="4"/>', f"{here}{there}</TiffData>")
    assert "urn:b" in xml
    options = {"ome": False, "metadata": None, "photometric": "minisblack"}
    return written(folder / "split.ome.tif", STACK[:3], description=xml, **options)


def test_an_ome_file_without_its_other_files_is_refused(tmp_path: Path) -> None:
    path = without_its_other_file(tmp_path)
    assert "planes are missing" in refusal(lambda: open_tiff(path))


def test_reading_is_silent(tmp_path: Path) -> None:
    code = (
        "import sys; from nucleiflow import errors, tiff\n"
        "try: tiff.open_slide(sys.argv[1])\n"
        "except errors.SlideError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(without_its_other_file(tmp_path))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("refused\n", "")


# pictures


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_modes(mode: str, tmp_path: Path) -> None:
    base = Image.fromarray(STACK[0]) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)
    expected = np.asarray(base)
    if mode == "1":
        expected = expected.astype(np.uint8) * 255
    elif mode == "LA":
        expected = expected[..., 0]
    elif mode == "P":
        expected = np.array(base.getpalette()).reshape(-1, 3)[expected]
    elif mode == "RGBA":
        expected = expected[..., :3]
    with picture.open_slide(str(saved(tmp_path / "a.png", base))) as slide:
        assert slide.dtype == (np.uint16 if mode == "I;16" else np.uint8)
        assert slide.rgb == (mode in ("P", "RGB", "RGBA"))
        np.testing.assert_array_equal(in_pieces(slide, 0, 130), np.atleast_3d(expected))


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    smooth = Image.new("RGB", (64, 64), (200, 40, 90))
    path = saved(tmp_path / "a.jpg", smooth.convert("CMYK"), quality=95)
    with picture.open_slide(str(path)) as slide:
        assert slide.rgb
        assert np.abs(whole(slide).astype(int) - (200, 40, 90)).max() < 6


def test_png_resolution(tmp_path: Path) -> None:
    fine, print_ = Image.fromarray(GREY), Image.fromarray(GREY)
    with picture.open_slide(str(saved(tmp_path / "a.png", fine, dpi=(50_800, 50_800)))) as slide:
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
    for dpi in (72, 300):
        path = saved(tmp_path / "b.png", print_, dpi=(dpi, dpi))
        with picture.open_slide(str(path)) as slide:
            assert (slide.mpp, slide.mpp_source) == (None, "none: give --mpp")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kept", [0, 2, 10, 30, 100, 0.3, 0.9, 0.99])
def test_a_truncated_picture_is_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(COLOUR))
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert str(path) in refusal(lambda: picture.open_slide(str(path)))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", GREY)
    assert "neither PNG nor JPEG" in refusal(lambda: picture.open_slide(str(path)))
    assert "no such file" in refusal(lambda: picture.open_slide(str(tmp_path / "none.png")))
    assert "is a folder" in refusal(lambda: picture.open_slide(str(tmp_path)))


def test_16_bit_colour_png_is_refused_not_halved(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(STACK[:3], 0, -1))))
    assert "save it as TIFF" in refusal(lambda: picture.open_slide(str(path)))


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GREY))
    raw = bytearray(path.read_bytes())
    struct.pack_into(">II", raw, 16, 60_000, 60_000)
    struct.pack_into(">I", raw, 29, zlib.crc32(raw[12:29]))
    path.write_bytes(raw)
    assert "too large" in refusal(lambda: picture.open_slide(str(path)))


def test_a_picture_over_pillows_own_limit_opens_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GREY))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with picture.open_slide(str(path)) as slide:
        np.testing.assert_array_equal(whole(slide)[..., 0], GREY)


# the shape that every reader gives


@pytest.mark.parametrize(
    "box", [Box(-1, 0, 5, 5), Box(0, -1, 5, 5), Box(0, 0, 301, 5), Box(0, 0, 5, 401)]
)
def test_a_box_outside_the_level_is_a_mistake(box: Box, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", GREY)
    with open_tiff(path) as slide, pytest.raises(ValueError, match="not inside the level"):
        slide.levels[0].read(box)


def test_a_closed_slide_is_not_read(tmp_path: Path) -> None:
    with open_tiff(written(tmp_path / "a.tif", GREY, **TILED)) as slide:
        pass
    with pytest.raises(ValueError, match="read after close"):
        whole(slide)


def test_a_slide_needs_pixels_of_8_or_16_bit() -> None:
    def slide(dtype: str, levels: tuple[Level, ...]) -> Slide:
        return Slide("x", "f", levels, ("c",), False, np.dtype(dtype), None, "", (), lambda: None)

    level = Level((2, 2), lambda box: np.zeros((*box.shape, 1)))
    assert slide("uint16", (level,)).shape == (2, 2)
    with pytest.raises(SlideError, match="float32"):
        slide("float32", (level,))
    with pytest.raises(SlideError, match="no pixels"):
        slide("uint8", ())


@given(st.floats(1e-3, 1e3), st.sampled_from(["inch", "cm"]))
def test_a_resolution_round_trips_or_is_refused(mpp: float, unit: str) -> None:
    found = mpp_from_resolution({"inch": 25_400, "cm": 10_000}[unit] / mpp, unit)
    if found is None:
        assert not sane_mpp(mpp) or mpp > 21
    else:
        assert found == pytest.approx(mpp)
        assert mpp < 25


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_resolutions_are_refused(bad: float) -> None:
    assert mpp_from_resolution(bad, "cm") is None
    assert not sane_mpp(bad)


@pytest.mark.parametrize(
    ("unit", "um"),
    [("nm", 1e-3), ("µm", 1), ("μm", 1), ("\\u00B5m", 1), ("micron", 1), ("mm", 1e3), ("cm", 1e4)],
)
def test_units(unit: str, um: float) -> None:
    assert to_um(3.0, unit) == pytest.approx(3 * um)


def test_units_that_are_no_lengths() -> None:
    assert [to_um(1.0, unit) for unit in ("pixel", "", None, "Mm")] == [None] * 4


def test_mean_mpp_ignores_an_insane_side() -> None:
    assert mean_mpp(0.5, 352.8) == (0.5, None)
    assert mean_mpp(None, 352.8) == (None, None)
    assert mean_mpp(0.5, 0.504)[1] is None


@pytest.mark.parametrize(
    ("axes", "shape"), [("YX", (4, 5)), ("YXS", (4, 5, 3)), ("SYX", (3, 4, 5)), ("CYX", (3, 4, 5))]
)
def test_channels_come_last(axes: str, shape: tuple[int, ...]) -> None:
    block = np.arange(np.prod(shape)).reshape(shape)
    result = to_channels_last(block, axes)
    assert result.shape == (4, 5, 1 if axes == "YX" else 3)
    expected = block[1, 2] if axes[0] == "Y" else block[:, 1, 2]
    np.testing.assert_array_equal(result[1, 2], np.atleast_1d(expected))
