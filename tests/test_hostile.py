"""Hostile and broken input: one line, in bounded memory, and never pixels that are not in the file.

`make fuzz` runs the same targets longer, guided by coverage.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command
import imagecodecs
import numcodecs
import numpy as np
import pytest
import slidefiles
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from slidepixels import whole

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import mutations
import targets

from nucleiflow import (
    chunks,
    coded,
    contract,
    errors,
    manifest,
    memory,
    model,
    records,
    source,
    store,
)
from nucleiflow.box import Box
from nucleiflow.errors import ModelError, SlideError, StoreError

FUZZ = Path(__file__).parent / "fuzz" / "fuzz.py"
MEMORY_BYTES = 2**30
IN_PROCESS = (
    *("tiff", "picture", "zarr", "job", "manifest", "arrays", "json", "model", "sidecar"),
    "finished",
)
TISSUE = slidefiles.tissue(512, 512)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """No more memory than now and MEMORY_BYTES: what takes more ends in a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(path: Path, box: Box | None = None) -> str:
    """The one line with which a slide is refused when opened, or when a box of it is read."""
    with bounded_memory(), pytest.raises(SlideError) as caught, source.open_slide(str(path)) as one:
        one.levels[0].read(box or Box(0, 0, *one.shape))
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


# anything at all


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Good files of each target."""
    return {name: targets.TARGETS[name].seeds(tmp_path_factory.mktemp(name)) for name in IN_PROCESS}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", IN_PROCESS)
def test_no_change_does_more_than_be_read_or_refused(
    name: str, good: dict[str, list[bytes]], tmp_path: Path
) -> None:
    target = targets.TARGETS[name]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(good[name]) - 1), st.integers(1, 3), st.integers(0, 2**32))
    def check(which: int, times: int, seed: int) -> None:
        data, rng = good[name][which], random.Random(seed)
        for _ in range(times):
            data = target.mutate(data, rng)
        with bounded_memory():
            target.run(data, tmp_path)

    check()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["tiff", "picture"])
def test_what_is_cut_off_anywhere_is_refused_or_lacks_nothing(
    name: str, good: dict[str, list[bytes]], tmp_path: Path
) -> None:
    """Pixels that are read of a file that was cut are those of the whole file."""
    path, known = tmp_path / "a", dict[int, Any]()

    def pixels(data: bytes) -> Any:
        path.write_bytes(data)
        with source.open_slide(str(path)) as slide:
            return [whole(slide, k) for k in range(len(slide.levels))], slide.mpp, slide.channels

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(good[name]) - 1), st.floats(0, 1, exclude_max=True))
    def check(which: int, part: float) -> None:
        data = good[name][which]
        if which not in known:
            known[which] = pixels(data)
        try:
            levels, mpp, channels = pixels(data[: int(part * len(data))])
        except SlideError:
            return
        assert (mpp, channels) == known[which][1:]
        for one, other in zip(levels, known[which][0], strict=False):
            np.testing.assert_array_equal(one, other)

    check()


@pytest.mark.timeout(300)
def test_codecs_of_others_do_not_crash(tmp_path: Path) -> None:
    """DICOM and Zeiss files in a process of their own: a crash would end this one."""
    done = subprocess.run(
        [sys.executable, FUZZ, tmp_path, "dicom", "czi", "--blind", "--runs", "150"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("| 150 |") == 2


def test_what_a_target_should_not_do_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    """The fuzzer is no rubber stamp."""
    import fuzz

    def run(data: bytes, _: Path) -> str:
        if b"x" in data:
            raise KeyError("x")
        return "read"

    bad = targets.Target("bad", lambda _: [b"seed"], run, mutations.damaged)
    watched = fuzz.Watched(bad, tmp_path, tmp_path)
    for data in (b"a", b"xx", b"yx"):
        watched(data)
    (found,) = tmp_path.glob("finding-*")
    assert found.read_bytes() == b"xx"
    want = SlideError("a: b")
    want.__cause__ = MemoryError()
    with pytest.raises(targets.WrongAnswerError, match="memory"):
        targets.outcome(want)


# TIFF


def with_tile(path: Path, change: Callable[[bytes], bytes], *, number: int = 0) -> Path:
    """The same TIFF whose tile has other bytes, at the end of the file."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        starts, sizes = list(page.dataoffsets), list(page.databytecounts)
    raw = path.read_bytes()
    tile = change(raw[starts[number] : starts[number] + sizes[number]])
    starts[number], sizes[number] = len(raw), len(tile)
    path.write_bytes(raw + tile)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["TileOffsets"].overwrite(starts)
        file.pages.first.tags["TileByteCounts"].overwrite(sizes)
    return path


def jpeg_slide(folder: Path) -> Path:
    options: dict[str, Any] = {"tile": (256, 256), "compression": "jpeg", "metadata": None}
    tifffile.imwrite(folder / "a.tif", TISSUE, photometric="rgb", **options)
    return folder / "a.tif"


FIRST, OTHER = Box(0, 0, 256, 256), Box(256, 256, 512, 512)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("zeros", [False, True], ids=["cut", "zeros to its end"])
def test_a_jpeg_tile_that_breaks_off_is_refused_and_its_neighbours_are_not(
    part: float, zeros: bool, tmp_path: Path
) -> None:
    """Its decoder would fill it up with grey."""
    path = jpeg_slide(tmp_path)
    with source.open_slide(str(path)) as slide:
        expected = slide.levels[0].read(OTHER)

    def cut(tile: bytes) -> bytes:
        kept = int(part * len(tile))
        return tile[:kept] + bytes(len(tile) - kept if zeros else 0)

    assert "breaks off" in refusal(with_tile(path, cut), FIRST)
    with source.open_slide(str(path)) as slide:
        np.testing.assert_array_equal(slide.levels[0].read(OTHER), expected)


@pytest.mark.parametrize("end", [b"", b"\xff\xd9\0\0\0", b"\0\0"])
def test_a_jpeg_tile_that_lacks_only_its_end_is_read(end: bytes, tmp_path: Path) -> None:
    path = jpeg_slide(tmp_path)
    with source.open_slide(str(path)) as slide:
        expected = whole(slide)
    with_tile(path, lambda tile: tile.removesuffix(coded.EOI) + end)
    with source.open_slide(str(path)) as slide:
        np.testing.assert_array_equal(whole(slide), expected)


def test_a_tile_of_too_few_rows_is_not_spread_over_the_others(tmp_path: Path) -> None:
    grey = TISSUE[..., 0]
    options: dict[str, Any] = {"tile": (256, 256), "compression": "png", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", grey, **options)
    row = imagecodecs.png_encode(np.ascontiguousarray(grey[:1, :256]))
    with_tile(tmp_path / "a.tif", lambda _: row)
    refusal(tmp_path / "a.tif", FIRST)


def jpeg_claims(tile: bytes) -> bytes:
    at = tile.index(b"\xff\xc0") + 5
    return tile[:at] + struct.pack(">HH", 65_000, 65_000) + tile[at + 4 :]


def j2k_claims(_: bytes) -> bytes:
    pixels = np.ascontiguousarray(TISSUE[:256, :256])
    small = bytearray(imagecodecs.jpeg2k_encode(pixels, codecformat="J2K"))
    struct.pack_into(">II", small, 8, 60_000, 60_000)
    return bytes(small)


def png_claims(_: bytes) -> bytes:
    raw = bytearray(imagecodecs.png_encode(np.ascontiguousarray(TISSUE[:64, :64])))
    struct.pack_into(">II", raw, 16, 60_000, 60_000)
    struct.pack_into(">I", raw, 29, zlib.crc32(raw[12:29]))
    return bytes(raw)


def webp_claims(_: bytes) -> bytes:
    return imagecodecs.webp_encode(np.zeros((9000, 9000, 3), np.uint8))


@pytest.mark.parametrize(
    ("compression", "claims"),
    [("jpeg", jpeg_claims), ("jpeg2000", j2k_claims), ("png", png_claims), ("webp", webp_claims)],
)
def test_a_tile_that_claims_more_than_a_tile_is_not_decoded(
    compression: str, claims: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"tile": (256, 256), "compression": compression, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", TISSUE, photometric="rgb", **options)
    assert "claims" in refusal(with_tile(tmp_path / "a.tif", claims), FIRST)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lzma", "packbits"])
def test_a_tile_that_unpacks_to_more_than_a_tile_takes_no_memory(
    compression: str, tmp_path: Path
) -> None:
    grey = TISSUE[..., 0]
    options: dict[str, Any] = {"tile": (256, 256), "compression": compression, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", grey, **options)
    zeros, encode = bytes(2**22), getattr(imagecodecs, f"{compression}_encode")
    bomb = b"\x81\0" * 10**6 if compression == "packbits" else encode(zeros)
    with_tile(tmp_path / "a.tif", lambda _: bomb)
    with bounded_memory(), source.open_slide(str(tmp_path / "a.tif")) as slide:
        try:
            pixels = slide.levels[0].read(FIRST)
        except SlideError:
            return
        assert not pixels.any(), "the first bytes of what is packed"


@pytest.mark.parametrize("compression", [50002, 34887, 65000, 48124])
def test_codecs_without_a_known_header_are_refused(compression: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, TISSUE[..., 0], tile=(256, 256), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["Compression"].overwrite(compression)
    assert "unsupported encoding" in refusal(path)


def test_a_million_directories_are_refused(tmp_path: Path) -> None:
    count = 70_000
    pages = b"".join(struct.pack("<HI", 0, 8 + 6 * (k + 1)) for k in range(count))
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + pages + bytes(6))
    assert "more than 65536 pages" in refusal(tmp_path / "a.tif")


def test_a_page_of_very_many_tags_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"metadata": None, "bigtiff": True}
    tifffile.imwrite(tmp_path / "a.tif", np.stack([TISSUE[..., 0]] * 2), **options)
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    (first,) = struct.unpack_from("<Q", raw, 8)
    (tags,) = struct.unpack_from("<Q", raw, first)
    (second,) = struct.unpack_from("<Q", raw, first + 8 + 20 * tags)
    struct.pack_into("<Q", raw, second, 2**40)
    (tmp_path / "a.tif").write_bytes(raw)
    assert "a page of 1099511627776 tags" in refusal(tmp_path / "a.tif")


PIXELS = (
    'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="16" SizeY="16" SizeC="{}" SizeZ="1" '
    'SizeT="1"'
)


@pytest.mark.parametrize(
    "inside",
    [
        f'<Image ID="Image:0"><Pixels {PIXELS.format(10**9)}><TiffData/></Pixels></Image>',
        f'<Image ID="Image:0"><Pixels {PIXELS.format(1)}><TiffData IFD="0" '
        f'PlaneCount="{10**9}"/></Pixels></Image>',
        "<Image/>" * 10_000,
    ],
    ids=["channels", "planes", "images"],
)
def test_xml_of_very_many_planes_is_refused(inside: str, tmp_path: Path) -> None:
    xml = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    options: dict[str, Any] = {"metadata": None, "description": f"{xml}{inside}</OME>"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), **options)
    assert "too many planes or images" in refusal(tmp_path / "a.tif")


# pictures


def test_a_picture_of_too_few_bytes_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    raw = bytearray(imagecodecs.png_encode(np.ascontiguousarray(TISSUE[:64, :64])))
    struct.pack_into(">II", raw, 16, 32_000, 32_000)
    struct.pack_into(">I", raw, 29, zlib.crc32(raw[12:29]))
    (tmp_path / "a.png").write_bytes(raw)
    assert "cannot be 1024000000 px" in refusal(tmp_path / "a.png")


def test_a_picture_that_memory_cannot_hold_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    Image.fromarray(TISSUE).save(tmp_path / "a.png")
    monkeypatch.setattr(memory, "free", lambda: 1000)
    assert "GB are free: convert it to a tiled TIFF" in refusal(tmp_path / "a.png")


def test_a_limit_of_the_process_counts() -> None:
    with bounded_memory():
        assert memory.free() < 2 * MEMORY_BYTES
    assert memory.free() > 0


def test_a_piece_of_a_picture_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    Image.fromarray(TISSUE).save(tmp_path / "a.png")
    raw = bytearray((tmp_path / "a.png").read_bytes())
    struct.pack_into(">I", raw, raw.index(b"IEND") - 4, 2**31 - 1)
    (tmp_path / "a.png").write_bytes(raw)
    assert "beyond the end" in refusal(tmp_path / "a.png")


# OME-Zarr


def zarr_image(path: Path, *, version: int = 3, **options: Any) -> Path:
    """A grey image of 128 x 128 px."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    pixels = TISSUE[:128, :128, 0]
    array = group.create_array(
        "0", shape=pixels.shape, dtype="u1", **({"chunks": (64, 64)} | options)
    )
    array[:] = pixels
    axes = [{"name": name, "type": "space"} for name in "yx"]
    step = [{"type": "scale", "scale": [1.0, 1.0]}]
    described = {
        "version": "0.5" if version == 3 else "0.4",
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": step}],
    }
    if version == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [described]}
    else:
        group.attrs["multiscales"] = [described]
    return path


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    "codecs",
    [
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "shuffle", "elementsize": 1}, {"id": "pickle"}]},
        {"compressor": {"id": "pickle"}},
    ],
    ids=str,
)
def test_a_pickle_in_a_zarr_is_never_opened(codecs: dict[str, Any], tmp_path: Path) -> None:
    """One of the codecs of numcodecs runs code."""
    path, witness = zarr_image(tmp_path / "a.zarr", version=2, compressors=None), tmp_path / "ran"

    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (witness,)

    import pickle

    (path / "0" / "0.0").write_bytes(pickle.dumps(Harm()))
    changed(path / "0" / ".zarray", **codecs)
    assert "pickle" in refusal(path)
    assert not witness.exists()
    pickle.loads((path / "0" / "0.0").read_bytes())
    assert witness.exists(), "it would have"


BOMB_BYTES = 2**25


@pytest.mark.parametrize("name", ["zlib", "gzip", "bz2", "lzma", "zstd", "blosc", "lz4"])
def test_a_chunk_that_unpacks_to_more_than_a_chunk_takes_no_memory(
    name: str, tmp_path: Path
) -> None:
    codec = numcodecs.get_codec({"id": name})
    path = zarr_image(tmp_path / "a.zarr", version=2, compressors=codec)
    with source.open_slide(str(path)) as slide:
        np.testing.assert_array_equal(whole(slide), TISSUE[:128, :128, :1])
    (path / "0" / "0.0").write_bytes(codec.encode(bytes(BOMB_BYTES)))
    line = refusal(path, Box(0, 0, 64, 64))
    assert "are the most" in line or "unpacks to more than" in line


@pytest.mark.parametrize("sharded", [False, True])
def test_a_chunk_of_zarr_3_is_bounded_too(sharded: bool, tmp_path: Path) -> None:
    codec = zarr.codecs.GzipCodec()
    options = {"shards": (128, 128)} if sharded else {}
    path = zarr_image(tmp_path / "a.zarr", compressors=codec, **options)
    with source.open_slide(str(path)) as slide:
        np.testing.assert_array_equal(whole(slide), TISSUE[:128, :128, :1])
    bomb = numcodecs.GZip().encode(bytes(BOMB_BYTES))
    file = path / "0" / "c" / "0" / "0"
    if sharded:  # all four chunks are the bomb
        index = struct.pack("<8Q", *(0, len(bomb)) * 4)
        bomb += index + struct.pack("<I", _crc32c(index))
    file.write_bytes(bomb)
    assert "unpacks to more than 4160 bytes" in refusal(path, Box(0, 0, 64, 64))


def _crc32c(data: bytes) -> int:
    return int.from_bytes(
        bytes(numcodecs.CRC32C().encode(np.frombuffer(data, "u1")))[-4:], "little"
    )


def test_zstd_that_does_not_state_its_size_is_read(tmp_path: Path) -> None:
    """Streams of others do not; they are bounded all the same."""
    data = bytes(range(256)) * 16
    stream = _without_size(numcodecs.Zstd().encode(data))
    assert chunks.unpacked("zstd", stream, len(data)) == data
    with pytest.raises(Exception, match="too small"):
        chunks.unpacked("zstd", stream, len(data) - 1)


def _without_size(frame: bytes) -> bytes:
    """A frame of zstd with a window in place of the size (one segment, size of 2 bytes)."""
    assert frame[4] >> 5 == 0b011
    return frame[:4] + bytes([frame[4] & 0b11011]) + b"\x18" + frame[7:]


@pytest.mark.parametrize("shape", [[2**60, 64], [2**31, 2**31], [0, 64], [-1, 64], "x", None])
@pytest.mark.parametrize("version", [2, 3])
def test_chunks_of_impossible_shapes_are_refused(version: int, shape: Any, tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=version)
    if version == 2:
        changed(path / "0" / ".zarray", chunks=shape)
    else:
        grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
        changed(path / "0" / "zarr.json", chunk_grid=grid)
    refusal(path)


def test_a_million_tiny_chunks_are_refused(tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=2)
    changed(path / "0" / ".zarray", chunks=[1, 1])
    assert "chunks have 1 px each: write it anew with larger ones" in refusal(path)


@pytest.mark.parametrize("shape", [[10**9, 10**9], [10**12, 128], [2**60, 2**60]])
def test_impossible_sizes_of_zarr_are_refused(shape: list[int], tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr")
    changed(path / "0" / "zarr.json", shape=shape)
    assert "claims a shape" in refusal(path, Box(0, 0, 64, 64))


@pytest.mark.parametrize("content", ["[]", "5", "null", '"x"', '{"attributes": []}', "[" * 9999])
@pytest.mark.parametrize("version", [2, 3])
def test_metadata_that_are_none_are_refused(version: int, content: str, tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=version)
    (path / ("zarr.json" if version == 3 else ".zattrs")).write_text(content)
    refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"axes": ["y", "y", "x"]},
        {"axes": [{"name": 5}, "x"]},
        {"datasets": [{"path": "../b", "coordinateTransformations": [{"scale": [1, 1]}]}]},
        {"datasets": [{"path": "/etc", "coordinateTransformations": [{"scale": [1, 1]}]}]},
        {"datasets": [{"path": "\0", "coordinateTransformations": [{"scale": [1, 1]}]}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"scale": 5}]}] * 99},
    ],
    ids=str,
)
def test_odd_descriptions_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=2)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0] |= change
    (path / ".zattrs").write_text(json.dumps(attributes))
    refusal(path)


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=2)
    text = (path / ".zattrs").read_text().replace('"space"', '"space", "unit": "micrometer"')
    (path / ".zattrs").write_text(text.replace("1.0", '"wide"'))
    assert "make no sense" in refusal(path)


@pytest.mark.parametrize("shape", [(128, 128), (64, 32), (300, 300)])
def test_an_array_that_is_not_the_image_smaller_is_no_level(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=2)
    group = zarr.open_group(path, mode="a")
    group.create_array("1", data=np.zeros(shape, np.uint8))
    group.create_array("2", data=np.zeros((64, 64), np.uint16))
    group.create_array("3", data=np.zeros((64, 64), np.uint8))
    attributes = json.loads((path / ".zattrs").read_text())
    datasets = attributes["multiscales"][0]["datasets"]
    datasets += [datasets[0] | {"path": str(k)} for k in (1, 2, 3)]
    (path / ".zattrs").write_text(json.dumps(attributes))
    with source.open_slide(str(path)) as slide:
        assert [level.shape for level in slide.levels] == [(128, 128), (64, 64)]


@pytest.mark.parametrize(("version", "name"), [(2, "0.1"), (3, "c/0/1")])
def test_absent_chunks_are_noted(version: int, name: str, tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=version)
    with source.open_slide(str(path)) as slide:
        assert slide.notes == ()
    (path / "0" / name).unlink()
    with source.open_slide(str(path)) as slide:
        assert slide.notes == ("1 chunks are absent and read as 0",)
        assert not slide.levels[0].read(Box(0, 64, 64, 128)).any()


@pytest.mark.parametrize("part", [0, 0.3, 0.9])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_chunk_that_breaks_off_is_refused(part: float, sharded: bool, tmp_path: Path) -> None:
    options = {"shards": (128, 128)} if sharded else {}
    path = zarr_image(tmp_path / "a.zarr", **options)
    file = path / "0" / "c" / "0" / "0"
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    refusal(path, Box(0, 0, 64, 64))


def test_our_own_arrays_are_read_as_ever(tmp_path: Path) -> None:
    store.create_array(tmp_path / "a", (1, 128, 128), np.uint8, tile_px=64, axes="cyx")
    store.write(tmp_path / "a", Box(0, 0, 64, 64), TISSUE[None, :64, :64, 0])
    assert chunks.opened(str(tmp_path / "a"))[0, :64, :64].tolist() == TISSUE[:64, :64, 0].tolist()


# DICOM, in a process of its own


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_dicom_file_is_refused(part: float, tmp_path: Path) -> None:
    """OpenSlide would crash on it."""
    made = slidefiles.dicom(tmp_path / "one")
    file = made.path / "slide.dcm"
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    done = command.outside("info", file)
    assert done.code == errors.SlideError.exit_code
    assert str(file) in done.line


def test_one_damaged_file_of_a_dicom_slide_is_named(tmp_path: Path) -> None:
    made = slidefiles.dicom(tmp_path / "one")
    content = (made.path / "slide.dcm").read_bytes()
    (made.path / "z.dcm").write_bytes(content[: len(content) // 2])
    assert "z.dcm is truncated" in refusal(made.path / "slide.dcm")


# names


ODD = "a\x1b[2J\x07\u202e<b>" + "x" * 5000


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    path = zarr_image(tmp_path / "a.zarr", version=2)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["omero"] = {"channels": [{"label": ODD}]}
    attributes["multiscales"][0]["version"] = ODD
    (path / ".zattrs").write_text(json.dumps(attributes))
    with source.open_slide(str(path)) as slide:
        assert slide.channels[0].startswith("a?[2J??<b>")
        assert max(len(slide.channels[0]), len(slide.format)) <= 200
    done = command.nucleiflow("info", path)
    assert all(one.isprintable() for one in done.out.splitlines())
    assert done.code == 0


def test_errors_cannot_steer_a_terminal(tmp_path: Path) -> None:
    done = command.nucleiflow("info", tmp_path / "a\x1b[2Jb.svs")
    assert "matches no file" in done.line
    assert done.line.isprintable()


# models, records, manifests


def repacked(path: Path, change: Callable[[bytearray], None]) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("config.json", "{}" * 100)
    raw = bytearray(file.getvalue())
    change(raw)
    path.write_bytes(raw)
    return path


def of_another_version(raw: bytearray) -> None:
    raw[raw.index(b"PK\1\2") + 6] = 99


def with_password(raw: bytearray) -> None:
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1


def packed_wrong(raw: bytearray) -> None:
    raw[45:50] = b"\xff" * 5


@pytest.mark.parametrize("change", [of_another_version, with_password, packed_wrong])
def test_odd_zips_are_no_models(change: Callable[[bytearray], None], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a Keras file"):
        model.load(repacked(tmp_path / "m.keras", change))


@pytest.mark.parametrize("stride", [float("inf"), float("nan"), 10**400, -1, 0, "x"])
def test_a_network_of_impossible_strides_is_refused(stride: Any) -> None:
    described = json.loads(json.dumps(model.architecture(model.SHIPPED)))
    for layer in described["config"]["layers"]:
        if layer["class_name"] == "Conv2D":
            layer["config"]["strides"] = [stride, stride]
    with pytest.raises(ModelError):
        contract.check(described)


def test_a_deep_sidecar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="is damaged"):
        model.sidecar(tmp_path / "m.keras")


@pytest.mark.parametrize(
    "dtype", ["|O", "(2)i4", "i4,i4", "<M8[s]", "1+", "x" * 9999, "__import__"]
)
def test_records_of_odd_types_are_damaged(dtype: str, tmp_path: Path) -> None:
    header = json.dumps([["a", dtype, [0]]]).encode()
    checksum = zlib.crc32(b"", zlib.crc32(header))
    content = records.MAGIC + struct.pack("<II", checksum, len(header)) + header
    (tmp_path / "0").write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        records.get_arrays(tmp_path / "0")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("line", ["a.svs,0.5\n", "\n", '"\n', "a" * 100 + "\n"])
def test_a_manifest_of_ten_million_lines_is_refused(line: str, tmp_path: Path) -> None:
    text = "slide,mpp\n" + line * (10_000_000 // len(line))
    if text.count("\n") < manifest.MAX_LINES:
        text += "\n" * manifest.MAX_LINES
    with pytest.raises(errors.ConfigError, match="cut it into several"):
        manifest.parse(text, name="m.csv", folder=tmp_path, environ={})


def test_the_peak_of_a_process_is_not_that_of_the_one_who_started_it() -> None:
    script = "from nucleiflow import memory; print(memory.peak())"
    held = np.ones(1 << 27)  # a gigabyte
    found = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert 1 << 22 < int(found.stdout) < held.nbytes / 2
    assert memory.peak() > held.nbytes
