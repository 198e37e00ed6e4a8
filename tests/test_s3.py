"""Places in an object store: what holds on disk holds there, on a real S3 server, and is refused
in one line that shows no secret.
"""

import contextlib
import http.server
import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import command
import numpy as np
import pytest
import racers
import s3
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image
from PIL import Image as Pillow

from nucleiflow import credentials, ngff, objects, place, records, source, store
from nucleiflow.box import Box, grid
from nucleiflow.errors import ConfigError, NucleiflowError, SlideError, StoreError
from nucleiflow.objects import UnreachableError
from nucleiflow.place import ObjectPath

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 255, (300, 400, 3), dtype=np.uint8)
STACK = RNG.integers(0, 65535, (4, 300, 400), dtype=np.uint16)
SPAWN = multiprocessing.get_context("spawn")
needs_data = pytest.mark.skipif(not command.SVS.exists(), reason=f"no real slide at {command.SVS}")


@pytest.fixture(scope="module")
def server():
    with s3.running() as one, s3.reached(one.env):
        yield one


@pytest.fixture
def prefix(server, request):
    """An empty folder of the bucket."""
    return place.of(f"s3://{s3.BUCKET}/{abs(hash(request.node.nodeid)):x}")


@pytest.fixture(params=["disk", "objects"])
def folder(request, tmp_path):
    """An empty folder, here and there."""
    return tmp_path / "a" if request.param == "disk" else request.getfixturevalue("prefix")


@pytest.fixture
def hasty(monkeypatch):
    """Little patience with a server instead of half a minute."""
    monkeypatch.setattr(objects, "RETRY_SECONDS", 1)
    monkeypatch.setattr(objects, "SILENCE_SECONDS", 5)
    objects._connect.cache_clear()
    yield
    objects._connect.cache_clear()


def refusal(kind, call, *arguments):
    """The one line with which something is refused; no secret is in it."""
    with pytest.raises(NucleiflowError) as caught:
        call(*arguments)
    assert type(caught.value) is kind, repr(caught.value)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    chain = [caught.value, caught.value.__cause__]
    for secret in (s3.SECRET, s3.READER_SECRET, "wrong-secret"):
        assert not any(secret in str(error) for error in chain)
    return line


# names


NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)
KEYS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), max_size=4).map("/".join)


@given(KEYS, NAMES)
def test_a_place_is_its_text(key, name):
    folder = place.of(f"s3://bucket/{key}")
    assert place.of(str(folder)) == folder == pickle.loads(pickle.dumps(folder))
    if name not in (".", ".."):
        inside = folder / name
        assert (inside.parent, inside.name) == (folder, name)
        assert (inside.stem, inside.suffix) == (Path(name).stem, Path(name).suffix)
        assert str(inside.relative_to(folder)) == name
        assert len({inside, folder / name}) == 1


@pytest.mark.parametrize("name", ["..", "../b", "a/../../b", "/etc/passwd", ".", "a/./b"])
def test_no_name_leads_out_of_a_prefix(name):
    with pytest.raises(ConfigError):
        place.of("s3://bucket/a") / name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.svs", Path("a/b.svs")),
        ("file:///a/b%20c.svs", Path("/a/b c.svs")),
        ("file://localhost/a", Path("/a")),
        ("s3://b", ObjectPath("s3", "b", "")),
        ("S3://b//p///q/", ObjectPath("s3", "b", "p/q")),
        ("gs://b/p", ObjectPath("gs", "b", "p")),
        ("https://host:99/p", ObjectPath("https", "host:99", "p")),
        ("s3://b/50%25 #1?.svs", ObjectPath("s3", "b", "50%25 #1?.svs")),
    ],
)
def test_what_a_text_means(text, expected):
    assert place.of(text) == expected
    assert place.of(expected) is expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ftp://host/a", "ftp:// is not supported"),
        ("s3:///a", "is no bucket"),
        ("s3://my bucket/a", "is no bucket"),
        ("https://a?b/c", "is no bucket"),
        ("s3://b/../c", "'..'"),
        ("file://host/a", "file:///path"),
        ("https://me:wrong-secret@host/a", "environment"),
    ],
)
def test_what_is_no_place_is_refused(text, told):
    assert told in refusal(ConfigError, place.of, text)


# credentials


CONFIG = """
[default]
region = eu-north-1
[profile lab]
region = eu-west-1
services = ours
[services ours]
s3 =
  endpoint_url = http://lab.example:9000
[profile sso]
sso_session = hospital
[profile plain]
endpoint_url = https://plain.example
aws_access_key_id = config-key
aws_secret_access_key = config-secret
"""
SECRETS = """
[default]
aws_access_key_id = file-key
aws_secret_access_key = per%cent
[lab]
aws_access_key_id = lab-key
aws_secret_access_key = lab-secret
aws_session_token = lab-token
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    (tmp_path / ".aws" / "credentials").write_text(SECRETS)
    return {"HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ["file-key", "per%cent", None, "eu-north-1", None]),
        (
            {"AWS_PROFILE": "lab"},
            ["lab-key", "lab-secret", "lab-token", "eu-west-1", "http://lab.example:9000"],
        ),
        (
            {"AWS_PROFILE": "plain"},
            ["config-key", "config-secret", None, None, "https://plain.example"],
        ),
        (
            {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_PROFILE": "lab"},
            ["k", "s", None, "eu-west-1", "http://lab.example:9000"],
        ),
        (
            {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b/"},
            ["file-key", "per%cent", None, "eu-north-1", "http://b"],
        ),
        ({"AWS_REGION": "x"}, ["file-key", "per%cent", None, "x", None]),
        ({"AWS_SKIP_SIGNATURE": "true"}, [None, None, None, "eu-north-1", None]),
        ({"AWS_SHARED_CREDENTIALS_FILE": "none"}, [None, None, None, "eu-north-1", None]),
    ],
)
def test_where_credentials_come_from(env, expected, home):
    found = credentials.settings({**home, **env})
    keys = ["access_key_id", "secret_access_key", "session_token", "region", "endpoint"]
    assert [found.get(key) for key in keys] == expected
    assert set(found) <= set(keys)


def test_credentials_that_cannot_be_had(home, tmp_path):
    line = refusal(ConfigError, credentials.settings, {**home, "AWS_PROFILE": "sso"})
    assert "aws configure export-credentials" in line
    line = refusal(ConfigError, credentials.settings, {**home, "AWS_PROFILE": "nobody"})
    assert "'nobody'" in line
    (tmp_path / ".aws" / "credentials").write_text("aws_secret_access_key wrong-secret\n")
    assert "no valid AWS file" in refusal(ConfigError, credentials.settings, home)


@pytest.mark.parametrize("endpoint", ["host:9000", "http://a b", "http://me:wrong-secret@host"])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    with s3.reached(s3.environment(endpoint)):
        line = refusal(ConfigError, records.get, place.of("s3://b/a"))
    assert "AWS_ENDPOINT_URL is not of the form https://host:port" in line


def test_a_panic_of_the_library_is_told():
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    def panics():
        with objects.reported(place.of("s3://b/a")):
            raise panic("invalid")

    assert refusal(StoreError, panics) == "s3://b/a: invalid"


def test_a_profile_in_a_file_reaches_the_server(server, prefix, tmp_path):
    (tmp_path / "config").write_text(f"[profile p]\nendpoint_url = {server.endpoint}\n")
    keys = f"aws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n"
    (tmp_path / "credentials").write_text(f"[p]\n{keys}")
    env = {
        "AWS_PROFILE": "p",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    with s3.reached(env):
        records.put(prefix / "a", b"1")
        assert records.get(prefix / "a") == b"1"


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    line = refusal(ConfigError, records.get, place.of("s3://b/a"))
    assert "pip install 'nucleiflow[s3]'" in line


# records, here and there


def test_what_is_put_is_got(folder):
    one = folder / "deep" / "a b%41[é]#?.json"
    assert (records.get(one), records.exists(one), records.size(one)) == (None, False, None)
    assert records.names(folder) == records.names(one.parent) == []
    assert records.done(folder) == set()
    for content in (b"first", b"", b"third" * 10_000_000):
        records.put(one, content)
        assert records.get(one) == content
        assert (records.exists(one), records.size(one)) == (True, len(content))
    assert records.names(folder) == ["deep"]
    assert not records.exists(folder / "deep"), "a folder is no file"
    records.put_json(one, {"a": [1, None]})
    assert records.get_json(one) == {"a": [1, None]}
    records.put_arrays(one, {"x": STACK, "y": np.zeros((0, 3))})
    assert {name: array.shape for name, array in records.get_arrays(one).items()} == {
        "x": STACK.shape,
        "y": (0, 3),
    }
    np.testing.assert_array_equal(records.get_arrays(one)["x"], STACK)
    records.remove(one)
    records.remove(one)
    assert records.get(one) is None
    assert records.get_json(one) is records.get_arrays(one) is None


def test_a_stamp_changes_with_the_content_and_a_lost_file_is_told(folder):
    records.put(folder / "a", b"1")
    before = records.stamp(folder / "a")
    assert records.stamp(folder / "a") == before
    records.put(folder / "a", b"2")
    assert records.stamp(folder / "a") != before
    records.remove(folder / "a")
    assert f"{folder}/a is gone" in refusal(StoreError, records.stamp, folder / "a")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"PK\3\4 and no more", b"\x93NUMPY"])
def test_a_damaged_record_is_told(content, folder):
    records.put(folder / "a", content)
    assert f"{folder}/a is damaged" in refusal(StoreError, records.get_json, folder / "a")
    assert f"{folder}/a is damaged" in refusal(StoreError, records.get_arrays, folder / "a")


def test_all_records_are_listed_and_a_tree_is_removed_but_not_its_neighbour(folder):
    """Of S3, a page has 1,000 names."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: records.put(folder / "r" / f"{i}.rec", b""), range(1200)))
    records.put(folder / "r" / ".7.rec.draft", b"")
    records.put(folder / "r" / "other.json", b"")
    records.put(folder / "r2" / "1.rec", b"")
    assert records.done(folder / "r") == set(range(1200))
    assert len(records.names(folder / "r")) == 1201
    records.remove_tree(folder / "r")
    assert records.done(folder / "r") == set()
    assert not records.exists(folder / "r" / "other.json")
    assert records.done(folder / "r2") == {1}
    records.remove_tree(folder / "r")


def test_no_draft_is_left(tmp_path):
    records.put(tmp_path / "a", b"1")
    assert records.create(tmp_path / "b", b"1")
    assert not records.create(tmp_path / "b", b"2")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_create_where_disks_have_no_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert records.create(tmp_path / "b", b"1")
    assert not records.create(tmp_path / "b", b"2")
    assert (records.get(tmp_path / "b"), os.listdir(tmp_path)) == (b"1", ["b"])


ROUNDS = 50


def test_of_two_processes_that_create_one_wins(folder):
    barrier, results = SPAWN.Barrier(2), SPAWN.Queue()
    marks = (b"one", b"two")
    given = (folder, ROUNDS)
    processes = [
        SPAWN.Process(target=racers.create_all, args=(*given, mark, barrier, results))
        for mark in marks
    ]
    for process in processes:
        process.start()
    wins = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(30)
    for number in range(ROUNDS):
        winners = [mark for mark in marks if wins[mark][number]]
        assert len(winners) == 1
        assert records.get(folder / str(number)) == winners[0]


# arrays, here and there


def test_processes_write_whole_shards_side_by_side(folder):
    path, boxes = folder / "labels.zarr", list(grid(500, 700, 128))
    store.create_array(path, (500, 700), "uint32", tile_px=128, axes="yx")
    writers = [SPAWN.Process(target=racers.fill, args=(path, boxes[part::3])) for part in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(180)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    for box in boxes:
        assert (store.read(path, box) == box.y0 + box.x0 + 1).all()
    window = Box(100, 90, 400, 600)
    np.testing.assert_array_equal(
        store.read(path, window), store.open_readonly(path)[window.slices()]
    )


def test_an_array_made_anew_is_noticed(folder, monkeypatch):
    """By whoever has it open, as other processes do; readers may take a second."""
    path = folder / "a.zarr"
    for tile_px, dtype in ((64, "uint8"), (128, "uint16")):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(store, "forget", lambda: None)
            store.create_array(path, (256, 256), dtype, tile_px=tile_px, axes="yx")
        store.write(path, Box(0, 0, 128, 128), np.full((128, 128), 7, dtype))
        assert store.read(path, Box(0, 0, 9, 9)).dtype == dtype
        assert store.open_readonly(path).shards == (tile_px, tile_px)
    records.remove_tree(path)
    monkeypatch.setattr(store, "TRUSTED_SECONDS", 0)
    assert "is gone" in refusal(StoreError, store.read, path, Box(0, 0, 9, 9))
    assert "is gone" in refusal(StoreError, store.write, path, Box(0, 0, 1, 1), np.zeros((1, 1)))


def test_an_array_leaves_nothing_above_it_and_is_removed_whole(folder):
    store.create_array(folder / "s" / "0", (64, 64), "uint8", tile_px=64, axes="yx")
    store.write(folder / "s" / "0", Box(0, 0, 64, 64), np.ones((64, 64), np.uint8))
    assert not records.exists(folder / "zarr.json")
    assert not records.exists(folder / "s" / "zarr.json")
    store.remove(folder / "s")
    assert "is gone" in refusal(StoreError, store.read, folder / "s" / "0", Box(0, 0, 1, 1))


def test_an_ome_zarr_is_valid_there_too(prefix):
    store.create_array(prefix / "i" / "0", (1, 64, 64), "uint8", tile_px=64, axes="cyx")
    shown = ngff.omero(("DAPI",), rgb=False, windows=[(0.0, 255.0)], top=255)
    store.set_attribute(prefix / "i", "other", 1)
    store.set_ome(prefix / "i", ngff.image("i", 1, (0.5, 0.5), shown))
    assert store.get_ome(prefix / "i")["version"] == "0.5"
    assert store.get_ome(prefix / "nothing") == {}
    there = zarr.storage.ObjectStore(objects.client(prefix))
    group = zarr.open_group(zarr.storage.StorePath(there, f"{prefix.key}/i"), mode="r")
    assert Image.from_zarr(group).ome_attributes.multiscales[0].name == "i"
    assert group.attrs["other"] == 1


# slides


def upload(path, there):
    """A file, or a folder of files, into the bucket; its address."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        records.put(
            there if path.is_file() else there / str(file.relative_to(path)), file.read_bytes()
        )
    return str(there)


def same(path, address):
    """The slide there is the slide here, read in windows by several threads."""
    with source.open_slide(str(path)) as here, source.open_slide(address) as there:
        facts = [
            (one.format, one.channels, one.rgb, one.dtype, one.mpp, one.mpp_source, one.notes)
            for one in (here, there)
        ]
        assert facts[0] == facts[1]
        assert [level.shape for level in here.levels] == [level.shape for level in there.levels]
        for mine, theirs in zip(here.levels, there.levels, strict=True):
            boxes = list(grid(*mine.shape, 700))
            with ThreadPoolExecutor(4) as pool:
                for box, pixels in zip(boxes, pool.map(theirs.read, boxes), strict=True):
                    np.testing.assert_array_equal(pixels, mine.read(box))
    return True


@needs_data
def test_a_real_slide_has_the_same_pixels(prefix):
    address = upload(command.SVS, prefix / command.SVS.name)
    assert same(command.SVS, address)
    assert source.fingerprint(address) == source.fingerprint(str(command.SVS))


def test_a_pyramid_has_the_same_pixels(slide, prefix):
    assert same(slide, upload(slide, prefix / "field.ome.tif"))


TILED = {"tile": (64, 64), "compression": "zlib"}


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        pytest.param(COLOUR, {"photometric": "rgb"}, id="flat"),
        pytest.param(COLOUR, {"photometric": "rgb", "byteorder": ">"}, id="flat-big-endian"),
        pytest.param(STACK, {"photometric": "minisblack", "byteorder": ">"}, id="flat-channels"),
        pytest.param(STACK[0], {"photometric": "miniswhite"}, id="flat-white"),
        pytest.param(
            np.dstack([COLOUR, COLOUR[..., :1]]),
            {"photometric": "rgb", "extrasamples": ["unassalpha"]},
            id="flat-alpha",
        ),
        pytest.param(COLOUR, {"photometric": "rgb", **TILED}, id="tiles"),
        pytest.param(
            STACK,
            {"photometric": "minisblack", **TILED, "metadata": {"axes": "CYX"}},
            id="tiled-channels",
        ),
        pytest.param(
            np.moveaxis(COLOUR, -1, 0),
            {"photometric": "rgb", "planarconfig": "separate", **TILED},
            id="planar",
        ),
        pytest.param(STACK[0], {"rowsperstrip": 16, "compression": "zlib"}, id="strips"),
    ],
)
def test_every_layout_has_the_same_pixels(pixels, options, prefix, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels, ome="metadata" in options, **options)
    assert same(tmp_path / "a.tif", upload(tmp_path / "a.tif", prefix / "a.tif"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_has_the_same_pixels(kind, prefix, tmp_path):
    Pillow.fromarray(COLOUR).save(tmp_path / "a", format=kind)
    assert same(tmp_path / "a", upload(tmp_path / "a", prefix / "a"))


@pytest.fixture
def ome_zarr(tmp_path):
    """An OME-Zarr of two channels on disk."""
    path = tmp_path / "a.ome.zarr"
    shape = (2, 300, 400)
    store.create_array(path / "0", shape, "uint16", tile_px=128, axes="cyx")
    store.write(path / "0", Box(0, 0, 300, 400), STACK[:2])
    store.set_ome(path, ngff.image("a", 1, (0.5, 0.5), {}))
    return path


def test_an_ome_zarr_has_the_same_pixels(ome_zarr, prefix):
    address = upload(ome_zarr, prefix / "a.ome.zarr")
    assert same(ome_zarr, address)
    before = source.fingerprint(address), source.stamp(address)
    assert (source.fingerprint(address), source.stamp(address)) == before
    records.put(prefix / "a.ome.zarr" / "0" / "c" / "0" / "0" / "0", b"other")
    assert source.fingerprint(address) != before[0]


def test_an_ome_zarr_on_the_web_has_the_same_pixels(ome_zarr):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    path = ome_zarr.parent / "v2.ome.zarr"  # its chunks are files: this server sends no ranges
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=STACK[:2], chunks=(1, 128, 128))
    scales = zarr.open_group(ome_zarr, mode="r").attrs["ome"]["multiscales"]
    group.attrs["multiscales"] = [{**scales[0], "version": "0.4"}]
    with serving(partial(Quiet, directory=ome_zarr.parent)) as root:
        assert same(path, f"{root}/v2.ome.zarr")
        assert source.find([f"{root}/v2.ome.zarr"]) == [f"{root}/v2.ome.zarr"]
        assert source.fingerprint(f"{root}/v2.ome.zarr")["bytes"] > 0
        assert "no such file" in refusal(SlideError, source.open_slide, f"{root}/none.ome.zarr")
        refusal(StoreError, records.put, place.of(f"{root}/a"), b"")


def test_a_window_costs_its_own_bytes(prefix, tmp_path, monkeypatch):
    big = RNG.integers(0, 255, (3000, 4000), dtype=np.uint8)
    costs = {}
    for name, options in (("flat", {}), ("tiled", {"tile": (256, 256), "compression": "zlib"})):
        tifffile.imwrite(tmp_path / name, big, photometric="minisblack", **options)
        address = upload(tmp_path / name, prefix / name)
        seen = []
        pieces = objects.ObjectFile.pieces

        def counted(self, ranges, seen=seen, pieces=pieces):
            found = pieces(self, ranges)
            seen.extend([sum(map(len, found))] if ranges else [])
            return found

        with monkeypatch.context() as patched, source.open_slide(address) as slide:
            patched.setattr(objects.ObjectFile, "pieces", counted)
            window = Box(1000, 1000, 1300, 1300)
            np.testing.assert_array_equal(
                slide.levels[0].read(window)[..., 0], big[window.slices()]
            )
            costs[name] = sum(seen), len(seen)
            again = len(seen)
            slide.levels[0].read(window)
            assert name == "flat" or len(seen) == again, "blocks are kept"
    assert costs["flat"] == (300 * 300, 1)
    assert costs["tiled"][0] < big.nbytes / 4
    assert costs["tiled"][1] == 1, "all tiles of a window are asked for at once"


def test_a_fingerprint_is_that_of_the_file_on_disk(prefix, tmp_path):
    for name, size in (("none", 0), ("small", 1000), ("large", 1 << 20)):
        (tmp_path / name).write_bytes(RNG.bytes(size))
        address = upload(tmp_path / name, prefix / name)
        assert source.fingerprint(address) == source.fingerprint(str(tmp_path / name))
    before = source.stamp(address)
    records.put(prefix / "large", b"other")
    assert source.stamp(address) != before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file: check the path"),
        (b"", "is empty: copy it again"),
        (b"hello, world", "not an image"),
        (b"II*\0", "is no TIFF or its header is damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut short"),
    ],
)
def test_what_is_no_slide_is_refused_as_on_disk(content, told, folder):
    path = folder / "a.svs"
    if content is not None:
        records.put(path, content)
    line = refusal(SlideError, source.open_slide, str(path))
    assert line.startswith(f"{path}: ")
    assert told in line
    if content is None:
        assert told in refusal(SlideError, source.fingerprint, str(path))
        refusal(SlideError, source.stamp, str(path))


@needs_data
@pytest.mark.parametrize("part", [0.0001, 0.3, 0.999999])
def test_a_truncated_slide_is_refused_when_opened(part, prefix):
    whole = command.SVS.read_bytes()
    records.put(prefix / "a.svs", whole[: int(part * len(whole))])
    line = refusal(SlideError, source.open_slide, f"{prefix}/a.svs")
    assert line.startswith(f"{prefix}/a.svs: ")
    assert "copy" in line or "no TIFF" in line


def test_a_slide_never_opens_with_less_when_the_network_fails(prefix, tmp_path, monkeypatch):
    """For tifffile, a page that it cannot read is the last one."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        how = {**TILED, "photometric": "minisblack", "metadata": None}
        writer.write(STACK[0], subifds=2, **how)
        writer.write(STACK[0, ::2, ::2], subfiletype=1, **how)
        writer.write(STACK[0, ::4, ::4], subfiletype=1, **how)
    address, pieces = upload(tmp_path / "a.tif", prefix / "a.tif"), objects.ObjectFile.pieces
    monkeypatch.setattr(objects, "BLOCK_BYTES", 1 << 10)
    for last in range(100):
        answers = iter([True] * last)

        def failing(self, ranges, answers=answers):
            where = self.place if next(answers, False) else place.of(f"s3://{s3.BUCKET}/gone")
            with mock.patch.object(self, "place", where):
                return pieces(self, ranges)

        with monkeypatch.context() as patched:
            patched.setattr(objects.ObjectFile, "pieces", failing)
            try:
                slide = source.open_slide(address)
            except SlideError:
                continue
        assert len(slide.levels) == 3
        break
    assert last > 3, "the page of each level takes a request"


# finding slides


@pytest.fixture
def many(prefix):
    names = ("a.svs", "b.TIF", "c.txt", ".hidden.svs", "d.ome.zarr/zarr.json", "e[1].png")
    for name in (*names, "sub/f.svs", "sub2/f.svs", "sub2/g.svs", "empty/x.txt"):
        records.put(prefix / name, b"{}")
    return str(prefix)


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        ([""], ["a.svs", "b.TIF", "d.ome.zarr", "e[1].png"]),
        (["/"], ["a.svs", "b.TIF", "d.ome.zarr", "e[1].png"]),
        (["/sub2", "/a.svs", "/sub2/g.svs"], ["sub2/f.svs", "sub2/g.svs", "a.svs"]),
        (["/*.svs"], ["a.svs"]),
        (["/sub*/f.svs"], ["sub/f.svs", "sub2/f.svs"]),
        (["/sub?/*.svs"], ["sub2/f.svs", "sub2/g.svs"]),
        (["/?.[oT]*"], ["b.TIF", "d.ome.zarr"]),
        (["/e[1].png"], ["e[1].png"]),
        (["/c.txt"], ["c.txt"]),
        (["/d.ome.zarr"], ["d.ome.zarr"]),
        (["/d.ome.zarr/"], ["d.ome.zarr"]),
        (["/not-there.svs"], ["not-there.svs"]),
    ],
)
def test_prefixes_and_globs_give_slides(given_names, expected, many):
    found = source.find([many + name for name in given_names])
    assert [name.rstrip("/") for name in found] == [f"{many}/{name}" for name in expected]


@pytest.mark.parametrize(
    ("name", "told"),
    [("/empty", "no slide under this prefix"), ("/*.ndpi", "matches no object"), ("/x", "check")],
)
def test_nothing_found_is_told(name, told, many):
    line = refusal(SlideError, source.find, [many + name])
    assert line.startswith(many + name)
    assert told in line


def test_names_of_outputs_do_not_depend_on_where_one_stands(many, tmp_path, monkeypatch):
    paths = source.find([f"{many}/sub*/*.svs"])
    names = source.names(paths)
    assert names[f"{many}/sub2/g.svs"] == "g"
    assert len(set(names.values())) == 3
    monkeypatch.chdir(tmp_path)
    assert source.names(paths) == names


# refusals


class Web(http.server.ThreadingHTTPServer):
    request_queue_size = 128


@contextlib.contextmanager
def serving(handler):
    """Address of a web server with a handler of requests."""
    with Web(("127.0.0.1", 0), handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{one.server_port}"
        finally:
            one.shutdown()
            thread.join()


BOX, PIXELS = Box(0, 0, 64, 64), np.ones((64, 64), np.uint8)


def every_way_to_write(there):
    return [
        partial(records.put, there / "a", b"1"),
        partial(records.create, there / "b", b"1"),
        partial(store.create_array, there / "n", (64, 64), "uint8", tile_px=64, axes="yx"),
        partial(store.set_ome, there / "g", {"version": "0.5"}),
        partial(store.write, there / "z", BOX, PIXELS),
        partial(records.remove, there / "a"),
        partial(records.remove_tree, there),
        partial(store.remove, there),
    ]


def every_way_to_read(there):
    return [
        partial(records.get, there / "a"),
        partial(records.exists, there / "a"),
        partial(records.stamp, there / "a"),
        partial(records.names, there),
        partial(store.read, there / "z", BOX),
        partial(store.open_readonly, there / "z"),
    ]


def every_way_to_see_slides(there):
    return [
        partial(source.open_slide, f"{there}/a.svs"),
        partial(source.fingerprint, f"{there}/a.svs"),
        partial(source.stamp, f"{there}/a.svs"),
        partial(source.find, [f"{there}/"]),
        partial(source.find, [f"{there}/*.svs"]),
    ]


@pytest.fixture
def there(prefix):
    """A folder with a record `a` and an array `z`."""
    records.put(prefix / "a", b"1")
    store.create_array(prefix / "z", (64, 64), "uint8", tile_px=64, axes="yx")
    store.write(prefix / "z", BOX, PIXELS)
    return prefix


def test_wrong_credentials(there, server):
    with s3.reached(s3.environment(server.endpoint, secret="wrong-secret")):
        for way in (*every_way_to_write(there), *every_way_to_read(there)):
            line = refusal(StoreError, way)
            assert line.startswith(str(there))
            assert "access denied" in line
        for way in every_way_to_see_slides(there):
            assert "access denied" in refusal(SlideError, way)


def test_what_nobody_foresaw_shows_no_secret(there, server):
    with s3.reached({**server.env, "AWS_SESSION_TOKEN": "wrong-secret"}):
        text = f"odd: {s3.SECRET} wrong-secret {s3.KEY} https://h/k?X-Amz-Signature=abc"
        error = ValueError(f"{text}\nDebug source: {s3.SECRET}")
        assert str(objects.failure(there, error)) == f"{there}: odd: … … … https://h/k"


def test_rights_to_read_are_none_to_write(there, server):
    with s3.reached(s3.environment(server.endpoint, s3.READER_KEY, s3.READER_SECRET)):
        for way in every_way_to_read(there):
            way()
        for way in every_way_to_write(there):
            assert "access denied (AccessDenied)" in refusal(StoreError, way)


def test_no_credentials(there, server):
    env = {key: text for key, text in server.env.items() if "ACCESS_KEY" not in key}
    with s3.reached(env):
        for way in (*every_way_to_write(there), *every_way_to_read(there)):
            assert "no credentials: set AWS_ACCESS_KEY_ID" in refusal(StoreError, way)


def test_no_bucket(server):
    nowhere = place.of("s3://no-such-bucket/a")
    assert "there is no bucket 'no-such-bucket'" in refusal(StoreError, records.get, nowhere)
    for way in every_way_to_read(nowhere):
        if way.func is not records.exists:  # the answer to a HEAD does not say why
            assert refusal(StoreError, way).startswith("s3://no-such-bucket/a")
    assert "whole bucket" in refusal(StoreError, records.remove_tree, nowhere.parent)


def test_a_server_that_is_killed(slide, hasty):
    with s3.running() as own, s3.reached(own.env):
        there = place.of(f"s3://{s3.BUCKET}/p")
        address = upload(slide, there / "a.svs")
        store.create_array(there / "z", (64, 64), "uint8", tile_px=64, axes="yx")
        records.put(there / "a", b"1")
        store.write(there / "z", BOX, PIXELS)
        with source.open_slide(address) as opened:
            own.stop()
            ways = [*every_way_to_write(there), *every_way_to_read(there)]
            ways += every_way_to_see_slides(there)
            ways += [partial(opened.levels[0].read, Box(0, 0, *opened.shape))]
            with ThreadPoolExecutor(len(ways)) as pool:
                lines = list(pool.map(partial(refusal, UnreachableError), ways))
    assert all(f"no connection to {own.endpoint}" in line for line in lines)
    assert all(line.startswith(str(there)) for line in lines)


@pytest.mark.parametrize("status", [500, 503, 507])
def test_a_server_that_refuses(status, hasty):
    class Refuses(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815

        def log_message(self, *_):
            pass

    there = place.of(f"s3://{s3.BUCKET}/p")
    with serving(Refuses) as endpoint, s3.reached(s3.environment(endpoint)):
        ways = [*every_way_to_write(there), *every_way_to_read(there)]
        ways += every_way_to_see_slides(there)
        with ThreadPoolExecutor(len(ways)) as pool:
            lines = list(pool.map(partial(refusal, UnreachableError), ways))
    assert all(f"the server refuses with {status}" in line for line in lines)


def test_a_server_that_says_nothing(hasty):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with s3.reached(s3.environment(endpoint)):
            there = place.of(f"s3://{s3.BUCKET}/p")
            ways = [*every_way_to_write(there)[:2], *every_way_to_read(there)[:2]]
            with ThreadPoolExecutor(len(ways)) as pool:
                lines = list(pool.map(partial(refusal, UnreachableError), ways))
    assert all(f"no answer from {endpoint}" in line for line in lines)


def test_a_disk_that_refuses_is_told_alike(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for way in every_way_to_write(tmp_path / "file" / "b")[:5]:
        assert refusal(StoreError, way).startswith(str(tmp_path / "file" / "b"))


def test_without_room_for_a_draft_one_line_says_where(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    out = place.of("s3://bucket/nuclei.parquet")
    with (
        pytest.raises(
            StoreError, match=r"^s3://bucket/nuclei\.parquet cannot be made in \S+gone: "
        ),
        records.writer(out),
    ):
        pass
