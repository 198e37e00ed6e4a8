"""Every format: opened by its content; levels, size, channels and colours right; pixels exact.

`python tests/test_formats.py` prints the table of the README.
"""

from __future__ import annotations

import gc
import itertools
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import command
import numpy as np
import psutil
import pytest
import slidefiles
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from slidefiles import Made
from slidepixels import in_pieces, whole

from nucleiflow import dicom, formats, kept, ngff, openslide, plan, source, tiffread
from nucleiflow.box import Box, grid
from nucleiflow.errors import SlideError
from nucleiflow.receptive import Reach
from nucleiflow.slide import Slide

README = Path(__file__).parents[1] / "README.md"
TABLE_HEAD = "| format | proved on | opens | levels | µm/px | channels | colour | pixels | labels |"


@dataclass(frozen=True)
class Case:
    """A file of a format; `within` is how far pixels may be from those that its codec decodes."""

    name: str
    make: Callable[[Path], Made]
    format: str
    about: str
    within: int = 0


def zarr_image(path: Path, version: str) -> Made:
    """An OME-Zarr image of two channels and two levels."""
    levels = slidefiles.halves(slidefiles.stain(2), 2)
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    for k, level in enumerate(levels):
        group.create_array(str(k), data=level, chunks=(1, 256, 256))
    shown = ngff.omero(["A", "B"], rgb=False, windows=[(0, 9), (0, 9)], top=65535)
    described = ngff.image("slide", 2, (0.3, 0.3), shown)
    if version == "0.5":
        group.attrs["ome"] = described
    else:
        (one,) = described["multiscales"]
        group.attrs.update({"multiscales": [{**one, "version": "0.4"}], "omero": shown})
    return Made(path, slidefiles.last(levels), 0.3, ("A", "B"))


def picture(path: Path, **options: Any) -> Made:
    Image.fromarray(slidefiles.tissue()).save(path, **options)
    return Made(path, (np.asarray(Image.open(path)),), None)


RGB_J2K, YCC_J2K = "APERIO_JP2000_RGB", "APERIO_JP2000_YCBC"
svs, scan = slidefiles.svs, slidefiles.dicom
CASES = (
    Case("jpeg.svs", svs, "Aperio SVS", "JPEG; label, macro, thumbnail"),
    Case("rgb.svs", partial(svs, compression=RGB_J2K), "Aperio SVS", "JPEG 2000"),
    Case("ycc.svs", partial(svs, compression=YCC_J2K), "Aperio SVS", "JPEG 2000, YCbCr", 1),
    Case("a.ndpi", slidefiles.ndpi, "Hamamatsu NDPI", "one JPEG per level, macro"),
    Case("a.scn", slidefiles.scn, "Leica SCN", "BigTIFF, macro first"),
    Case("p.tiff", slidefiles.philips, "Philips TIFF", "padded levels, label, macro"),
    Case("a.qptiff", slidefiles.qptiff, "Akoya QPTIFF", "3 channels, 16 bit, thumbnail"),
    Case("a.ome.tif", slidefiles.ome_channels, "OME-TIFF", "SubIFDs, 4 channels, 16 bit"),
    Case("m.ome.tif", slidefiles.ome_files, "OME-TIFF", "2 files, 2 channels, 16 bit"),
    Case("p.tif", slidefiles.pyramid, "TIFF", "pyramid of pages"),
    Case("big.btf", partial(slidefiles.pyramid, bigtiff=True), "TIFF", "BigTIFF"),
    Case("s.tif", slidefiles.strips, "TIFF", "plain, strips, 16 bit grey"),
    Case("v4.zarr", partial(zarr_image, version="0.4"), "OME-Zarr 0.4", "2 channels, 16 bit"),
    Case("v5.zarr", partial(zarr_image, version="0.5"), "OME-Zarr 0.5", "2 channels, 16 bit"),
    Case("a.png", picture, "PNG", "8 bit RGB"),
    Case("a.jpg", partial(picture, quality=90), "JPEG", "8 bit RGB"),
    Case("ybr", scan, "DICOM WSI", "YBR_FULL_422, a label beside it"),
    Case("rgb", partial(scan, colours="RGB"), "DICOM WSI", "RGB"),
    Case("lies", partial(scan, lies=True), "DICOM WSI", "RGB header, YCbCr JPEG", 1),
    Case("a.mrxs", slidefiles.mrxs, "MIRAX MRXS", "2 levels, a part not scanned"),
    Case("a.czi", slidefiles.czi, "Zeiss CZI", "written by Zeiss's library"),
    Case("a.vms", slidefiles.vms, "Hamamatsu VMS or VMU", "JPEG with restart markers, macro"),
    Case("a.bif", slidefiles.bif, "Ventana BIF", "tiles joined by XML, label"),
)
TIFFS = CASES[:12]
THROUGH_OPENSLIDE = CASES[16:]
# one of each reader, and of each library behind OpenSlide; of all others a tenth
OPENED_OFTEN = (
    *("jpeg.svs", "a.ndpi", "m.ome.tif", "s.tif", "v4.zarr", "v5.zarr", "a.jpg"),
    *("ybr", "a.mrxs", "a.czi", "a.vms"),
)


@dataclass(frozen=True)
class File:
    case: Case
    made: Made

    def open(self) -> Slide:
        return source.open_slide(str(self.made.path))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.format}, {case.about}")
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> File:
    return written(request.param, tmp_path_factory.mktemp("slide"))


def written(case: Case, folder: Path) -> File:
    return File(case, case.make(folder / case.name))


def refusal(do: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(SlideError) as caught:
        do(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


# what a file says is what the slide says


def test_levels_size_channels_and_format(file: File) -> None:
    made = file.made
    with file.open() as slide:
        assert slide.format == file.case.format
        assert [level.shape for level in slide.levels][: len(made.levels)] == [
            level.shape[:2] for level in made.levels
        ]
        assert slide.channels == made.channels
        assert slide.rgb == (made.channels == ("R", "G", "B"))
        assert slide.mpp == (None if made.mpp is None else pytest.approx(made.mpp))
        assert "--mpp" in slide.mpp_source or slide.mpp is not None
        factors = slide.downsamples
        assert factors == pytest.approx([2**k for k in range(len(factors))], rel=0.01)


def test_pixels_and_colours(file: File) -> None:
    with file.open() as slide:
        assert slide.dtype == file.made.levels[0].dtype
        for k, expected in enumerate(file.made.levels):
            found = whole(slide, k)
            assert np.abs(found.astype(int) - expected).max() <= file.case.within


def test_a_pixel_does_not_depend_on_the_box_it_is_read_in(file: File) -> None:
    with file.open() as slide:
        for k in range(len(slide.levels)):
            np.testing.assert_array_equal(in_pieces(slide, k, 101), whole(slide, k))


def test_levels_that_openslide_would_interpolate_are_left_out(tmp_path: Path) -> None:
    levels = slidefiles.halves(slidefiles.tissue(513, 701), 2)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for k, level in enumerate(levels):
            writer.write(level, tile=(256, 256), metadata=None, subfiletype=int(k > 0))
    with openslide.open_slide("a", tmp_path / "a.tif") as slide:
        assert [level.shape for level in slide.levels] == [(513, 701)]
        assert "1 levels are not read: their pixels lie between" in slide.notes[0]


def test_the_name_says_nothing(file: File, tmp_path: Path) -> None:
    if file.made.path.is_dir() or file.case.format in ("MIRAX MRXS", "Hamamatsu VMS or VMU"):
        pytest.skip("consists of several files")
    if file.case.name == "m.ome.tif":
        shutil.copy(file.made.path.parent / "b.tif", tmp_path)
    other = tmp_path / "slide.dat"
    shutil.copy(file.made.path, other)
    with source.open_slide(str(other)) as slide:
        assert slide.format == file.case.format
        np.testing.assert_array_equal(whole(slide)[:50], file_pixels(file)[:50])


def file_pixels(file: File) -> NDArray[Any]:
    with file.open() as slide:
        return whole(slide)


def test_threads_read_what_one_reads(file: File) -> None:
    with file.open() as slide:
        boxes = [box.clip(*slide.shape) for box in grid(*slide.shape, 150)] * 2
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(slide.levels[0].read, boxes))
    expected = file_pixels(file)
    for box, pixels in zip(boxes, found, strict=True):
        np.testing.assert_array_equal(pixels, expected[box.slices()])


def test_a_hundred_or_a_thousand_opens_leave_nothing_open(file: File) -> None:
    def read(times: int) -> tuple[int, int]:
        for _ in range(times):
            with file.open() as slide:
                slide.levels[0].read(Box(0, 0, 30, 30))
        gc.collect()
        me = psutil.Process()
        return me.num_fds(), me.memory_info().rss

    read(50)
    opens = 1000 if file.case.name in OPENED_OFTEN else 100
    (files, rss), (files_then, rss_then) = read(50), read(opens)
    assert files_then == files
    assert rss_then - rss < 16e6
    assert kept.TILES.bytes == 0


@pytest.mark.parametrize("case", TIFFS + THROUGH_OPENSLIDE, ids=lambda case: case.name)
def test_a_closed_slide_is_not_read(case: Case, tmp_path: Path) -> None:
    with written(case, tmp_path).open() as slide:
        pass
    with pytest.raises(ValueError, match="read after close"):
        whole(slide)


def test_glass_that_a_scanner_left_out_is_white(tmp_path: Path) -> None:
    made = slidefiles.svs(tmp_path / "a.svs")
    with tifffile.TiffFile(made.path, mode="r+") as file:
        counts = list(file.pages.first.databytecounts)
        counts[1] = 0
        file.pages.first.tags["TileByteCounts"].overwrite(counts)
    with source.open_slide(str(made.path)) as slide:
        assert slide.notes == ("1 tiles are absent from the file and read as 255",)
        assert (slide.levels[0].read(Box(0, 240, 240, 480)) == 255).all()


def test_raw_ycbcr_is_left_to_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = slidefiles.tissue()
    stored = np.round(slidefiles.to_ycbcr(pixels)).clip(0, 255).astype(np.uint8)
    options: dict[str, Any] = {"photometric": "ycbcr", "subsampling": (1, 1), "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", stored, tile=(256, 256), **options)
    with source.open_slide(str(tmp_path / "a.tif")) as slide:
        assert np.abs(whole(slide).astype(int) - pixels).max() <= 2
    monkeypatch.setitem(sys.modules, "openslide", None)
    line = refusal(source.open_slide, str(tmp_path / "a.tif"))
    assert "raw YCbCr colours: convert it to RGB, or pip install 'nucleiflow[openslide]'" in line


# other readers


@pytest.mark.parametrize("case", [*CASES[:4], CASES[5], CASES[9]], ids=lambda case: case.name)
def test_openslide_sees_the_same(case: Case, tmp_path: Path) -> None:
    file = written(case, tmp_path)
    with (
        file.open() as slide,
        openslide.open_slide("other", file.made.path) as other,
    ):
        assert slide.shape == other.shape
        assert other.mpp is None or slide.mpp == pytest.approx(other.mpp)
        assert np.abs(whole(slide).astype(int) - whole(other)).max() <= 1


@pytest.mark.skipif(not command.SVS.exists(), reason="no real slides here")
def test_the_dicom_sample_looks_like_the_svs_that_it_was_made_from() -> None:
    """It was compressed once more, and its chroma has a quarter of the pixels."""
    folder = command.SVS.parent / "dicom-cmu-1-small-region"
    with source.open_slide(str(folder)) as one, source.open_slide(str(command.SVS)) as other:
        assert (one.shape, one.mpp) == (other.shape, other.mpp)
        assert any("YCbCr" in note for note in one.notes)
        difference = whole(one).astype(int) - whole(other)
    assert np.abs(difference).mean() < 4
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.5
    assert np.median(np.abs(difference)) <= 1


# several images in a file


@pytest.mark.parametrize(
    ("case", "number", "expected"),
    [
        ("jpeg.svs", 2, slidefiles.LABEL),
        ("jpeg.svs", 3, slidefiles.MACRO),
        ("p.tiff", 1, slidefiles.MACRO),
        ("a.qptiff", 1, slidefiles.LABEL),
    ],
)
def test_another_image_is_read_only_if_asked_for(
    case: str, number: int, expected: NDArray[Any], tmp_path: Path
) -> None:
    path = written(next(one for one in CASES if one.name == case), tmp_path).made.path
    with source.open_slide(str(path)) as slide:
        assert len(slide.images) > number
        assert slide.shape != expected.shape[:2]
        few = len(slide.images)
    with source.open_slide(str(path), series=number) as slide:
        np.testing.assert_array_equal(whole(slide), expected)
    assert f"has {few} images: there is no --series 9" in refusal(
        source.open_slide, str(path), series=9
    )


def test_formats_of_one_image_have_no_other(tmp_path: Path) -> None:
    path = str(picture(tmp_path / "a.png").path)
    assert source.open_slide(path, series=0).format == "PNG"
    assert "no --series 1" in refusal(source.open_slide, path, series=1)


@pytest.mark.parametrize("name", ["Label", "macro image", "slide overview", "Thumbnail"])
def test_a_large_side_image_is_not_the_slide(name: str, tmp_path: Path) -> None:
    large, small = np.zeros((900, 900), np.uint8), np.full((300, 300), 7, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(large, metadata={"axes": "YX", "Name": name})
        about = {"axes": "YX", "Name": "scan", "PhysicalSizeX": 0.7, "PhysicalSizeY": 0.7}
        writer.write(small, metadata=about)
    with source.open_slide(str(tmp_path / "a.ome.tif")) as slide:
        np.testing.assert_array_equal(whole(slide)[..., 0], small)
        assert slide.mpp == pytest.approx(0.7)
        assert slide.images == (f"0: {name}, 900 x 900 px", "1: scan, 300 x 300 px")


# µm per pixel: what is missing, absurd or contradictory is said before anything runs


def test_absurd_sizes_are_said_and_not_used(tmp_path: Path) -> None:
    made = slidefiles.svs(tmp_path / "a.svs", mpp="252.0")
    with source.open_slide(str(made.path)) as slide:
        assert slide.mpp is None
        assert slide.mpp_source == "none: give --mpp"
        assert "Aperio MPP is 252 µm, which no slide has: not used; --mpp" in slide.notes[0]


def test_a_size_that_does_not_suit_the_objective_is_said(tmp_path: Path) -> None:
    with source.open_slide(str(slidefiles.svs(tmp_path / "a.svs", mpp="0.5").path)) as slide:
        assert slide.mpp == 0.5
        assert "but 40x objectives have about 0.25: check it, or give --mpp" in slide.notes[0]


def test_contradictions_are_said(tmp_path: Path) -> None:
    about = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    options: dict[str, Any] = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((9, 9), np.uint8), metadata=about, **options)
    with source.open_slide(str(tmp_path / "a.ome.tif")) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "OME PhysicalSizeX")
        assert "is 0.5 µm, but resolution tags (per cm) 0.25: the first" in slide.notes[0]


@pytest.mark.parametrize(
    ("size", "said"),
    [((None, None), "--mpp"), ((0.5, 0.7), "not square"), ((5000.0, 5000.0), "which no slide has")],
)
def test_info_and_plan_say_what_is_wrong_and_the_flag(
    size: tuple[Any, Any], said: str, tmp_path: Path
) -> None:
    path, about = tmp_path / "a.ome.tif", {"axes": "YX"}
    if size[0]:
        about |= {"PhysicalSizeX": size[0], "PhysicalSizeY": size[1]}
    tifffile.imwrite(path, np.zeros((90, 90), np.uint8), metadata=about)
    for arguments in (
        ("info", path),
        ("plan", path, "--out", tmp_path / "out"),
    ):
        done = command.nucleiflow(*arguments)
        assert done.code == 0
        assert said in done.out
        assert "--mpp" in done.out


# slides of several files


def test_a_folder_of_dicom_files_is_one_slide(tmp_path: Path) -> None:
    made = scan(tmp_path / "one")
    assert source.find([str(tmp_path / "one")]) == [str(tmp_path / "one")]
    assert source.find([str(tmp_path)]) == [str(tmp_path / "one")]
    assert source.names([str(tmp_path / "one")]) == {str(tmp_path / "one"): "one"}
    assert dicom.slides(made.path) == [made.path / "slide.dcm"]
    other = scan(tmp_path / "other")
    shutil.copy(other.path / "slide.dcm", made.path / "second.dcm")
    both = [str(made.path / "second.dcm"), str(made.path / "slide.dcm")]
    assert source.find([str(made.path)]) == both
    assert "holds 2 DICOM slides: name a file of one" in refusal(source.open_slide, str(made.path))


def test_a_label_of_dicom_is_no_slide(tmp_path: Path) -> None:
    made = scan(tmp_path / "one")
    (made.path / "slide.dcm").unlink()
    assert "not an OME-Zarr image" in refusal(source.open_slide, str(made.path))
    assert "no slide in this folder" in refusal(source.find, [str(made.path)])


def test_parts_of_slides_are_no_slides_but_belong_to_their_identity(tmp_path: Path) -> None:
    made = [slidefiles.vms(tmp_path / "a.vms"), slidefiles.mrxs(tmp_path / "b.mrxs")]
    assert source.find([str(tmp_path)]) == [str(one.path) for one in made]
    before = [source.fingerprint(str(one.path)) for one in made]
    for part in (tmp_path / "a.jpg", tmp_path / "b" / "Data0000.dat"):
        part.write_bytes(part.read_bytes() + b"\0")
    after = [source.fingerprint(str(one.path)) for one in made]
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["/b.tif", "../b.tif", "a/../../b.tif", "..\\b.tif"])
def test_an_ome_file_may_not_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    path = slidefiles.ome_files(tmp_path / "m.ome.tif").path
    raw = path.read_bytes()
    tifffile.tiffcomment(path, raw[raw.index(b"<?xml") :].split(b"\0")[0].replace(
        b'"b.tif"', f'"{name}"'.encode()))  # fmt: skip
    assert "names files of other folders" in refusal(source.open_slide, str(path))


# what is not installed


@pytest.mark.parametrize("case", THROUGH_OPENSLIDE, ids=lambda case: case.name)
def test_without_openslide_one_line_names_the_extra(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(case, tmp_path)
    monkeypatch.setitem(sys.modules, "openslide", None)
    line = refusal(file.open)
    assert line.startswith(f"{file.made.path}: ")
    assert "pip install 'nucleiflow[openslide]'" in line


def test_formats_says_what_is_read_and_what_an_extra_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(one.readable for one in formats.FORMATS)
    assert "pip" not in formats.table()
    monkeypatch.setitem(sys.modules, "openslide", None)
    said = formats.table()
    assert said.splitlines()[-1] == "for more: pip install 'nucleiflow[openslide]'"
    assert {one.name for one in formats.FORMATS if not one.readable} == {
        one.name for one in formats.FORMATS if one.extra == "openslide"
    }
    assert said.count("no ") == 7


# each pixel is decoded once


def decodes(
    slide: Slide, boxes: list[Box], monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> float:
    """Tiles decoded to read boxes in order, over the tiles that the level has."""
    seen: list[tuple[int, int]] = []
    decode = tiffread.decode

    def counted(part: tiffread.Part, index: int) -> Any:
        seen.append((id(part), index))
        return decode(part, index)

    with monkeypatch.context() as patch:
        patch.setattr(tiffread, "decode", counted)
        patch.setattr(kept, "TILES", kept.Kept(kept_bytes))
        for box in boxes:
            slide.levels[0].read(box)
    return len(seen) / len(set(seen))


@pytest.mark.parametrize("halo", [0, 96], ids=["cores", "windows"])
@pytest.mark.parametrize("name", ["jpeg.svs", "a.ndpi", "a.qptiff", "p.tiff", "s.tif"])
def test_tiles_of_a_run_decode_each_tile_of_the_file_once(
    name: str, halo: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(next(case for case in CASES if case.name == name), tmp_path)
    with file.open() as slide:
        tiles = plan.Grid(*slide.shape, 128, Reach(halo, halo, 16))
        windows = [plan.mirror(tiles.tile(k).window, *slide.shape)[0] for k in range(len(tiles))]
        boxes = windows if halo else [tiles.core(k) for k in range(len(tiles))]
        assert decodes(slide, boxes, monkeypatch, kept.MAX_BYTES) == 1
        without = decodes(slide, boxes, monkeypatch, 0)
    fit = name == "a.ndpi" and not halo
    assert without == 1 if fit else without > 2, "tiles that do not fit those of the run are shared"


def test_what_is_kept_is_bounded_and_what_is_asked_for_at_once_is_made_once() -> None:
    store, made = kept.Kept(10_000), itertools.count()
    for k in range(100):
        store.get((0, k), lambda: np.zeros(1000, np.uint8), keep=True)
        assert store.bytes <= 10_000
    gate = threading.Barrier(8)

    def slow() -> NDArray[Any]:
        next(made)
        threading.Event().wait(0.05)
        return np.zeros(10, np.uint8)

    def ask(_: int) -> Any:
        gate.wait()
        return store.get((1, 0), slow, keep=True)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert next(made) == 1
    assert all(one is found[0] for one in found)
    store.forget(0)
    assert store.bytes == 10


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    store = kept.Kept(100)

    def fail() -> Any:
        raise OSError("gone")

    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            store.get((0, 0), fail, keep=True)
    assert store.get((0, 0), lambda: None, keep=True) is None


# the table


def row(file: File, folder: Path) -> list[str]:
    """What is measured of a file, as a line of the table."""
    case, made = file.case, file.made
    with file.open() as slide:
        pixels = whole(slide)
        levels = [whole(slide, k).astype(int) for k in range(len(made.levels))]
        worst = max(
            np.abs(found - wanted).max() for found, wanted in zip(levels, made.levels, strict=True)
        )
        said = (slide.format, slide.mpp and round(slide.mpp, 6), slide.channels, slide.rgb)
        count, dtype = len(slide.levels), slide.dtype
    assert said == (case.format, made.mpp, made.channels, made.channels == ("R", "G", "B"))
    own, _ = command.segment(made.path, folder / "own", "--mpp", 0.25)
    copied, _ = command.segment(_copy(folder / "copy.tif", pixels), folder / "copy", "--mpp", 0.25)
    assert own.max() > 5
    names = "RGB" if said[3] else str(len(made.channels))
    return [
        case.format,
        case.about,
        "yes",
        str(count),
        "none" if made.mpp is None else f"{made.mpp:g}",
        f"{names}, {8 * dtype.itemsize} bit",
        "right" if worst <= case.within else "WRONG",
        "exact" if worst == 0 else f"within {worst}",
        "same" if command.digest(own) == command.digest(copied) else "DIFFER",
    ]


def _copy(path: Path, pixels: NDArray[Any]) -> Path:
    """The same pixels as a plain TIFF."""
    rgb = pixels.dtype == np.uint8
    stored = pixels if rgb else np.moveaxis(pixels, -1, 0)
    about = {"axes": "YXS" if rgb else "CYX"}
    kind = "rgb" if rgb else "minisblack"
    tifffile.imwrite(path, stored, ome=True, photometric=kind, metadata=about)
    return path


def table(rows: list[list[str]]) -> str:
    lines = [TABLE_HEAD, "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def measured(folder: Path) -> str:
    """The table, made anew."""
    rows = []
    for number, case in enumerate(CASES):
        here = folder / str(number)
        here.mkdir()
        rows.append(row(written(case, here), here))
    return table(rows)


def test_the_table_of_the_readme_is_what_is_measured(tmp_path: Path) -> None:
    found = measured(tmp_path)
    assert "WRONG" not in found
    assert "DIFFER" not in found
    if TABLE_HEAD in README.read_text():
        assert found in README.read_text()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(measured(Path(name)))
