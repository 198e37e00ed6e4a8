"""A data set arrives whole and checked, or not at all. It comes from a server on this machine."""

import dataclasses
import hashlib
import io
import re
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import command
import numpy as np
import pytest
from PIL import Image

from nucleiflow import fetch, layouts
from nucleiflow.errors import ConfigError, RunError, StoreError


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


MASK = np.pad(np.full((6, 6), 255, np.uint8), 12)
FILES = {
    "a1/images/a1.png": png(MASK),
    "a1/masks/m1.png": png(MASK),
    "a1/masks/m2.png": png(MASK.T[::-1]),
    "b2/images/b2.png": png(MASK),
    "b2/masks/m3.png": png(MASK),
}
REST = {"a1/.DS_Store": b"x", "__MACOSX/a1/images/._a1.png": b"x", "README.txt": b"x"}


def zipped(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def serve(monkeypatch):
    """A server of given bytes; the length it promises may be another."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(content, *, status=200, length=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", str(length or len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/stage1_train.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(out, content, url):
    digest = hashlib.sha256(content).hexdigest()
    return fetch.fetch("bbbc038", out, say=lambda _: None, url=url, sha256=digest)


def refused(out, content, url, kind=RunError):
    """Why a fetch fails; nothing is left of it."""
    with pytest.raises(kind) as caught:
        get(out, content, url)
    assert list(out.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "stage1_train/"])
def test_the_data_set_arrives(serve, tmp_path, prefix):
    content = zipped({f"{prefix}{name}": data for name, data in {**FILES, **REST}.items()})
    out = tmp_path / "new"
    assert get(out, content, serve(content)) == out / "stage1_train"
    found = {
        path.relative_to(out / "stage1_train").as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
    }
    assert found == FILES
    assert [path.name for path in out.iterdir()] == ["stage1_train"]
    first, second = layouts.find(out)
    assert (first.name, second.name, first.group) == ("a1", "b2", "fluorescence")
    assert layouts.read(first)[1].max() == 2


def test_the_command(serve, tmp_path):
    content = zipped(FILES)
    digest = hashlib.sha256(content).hexdigest()
    arguments = ("fetch", "bbbc038", "--out", tmp_path, "--url", serve(content))
    done = command.nucleiflow(*arguments)
    assert done.code == 1
    assert f"has the sha256 {digest}, not {fetch.DATASETS['bbbc038'].sha256}" in done.err
    assert list(tmp_path.iterdir()) == []
    done = command.nucleiflow(*arguments, "--sha256", digest.upper())
    assert (done.code, done.out) == (0, f"{tmp_path / 'stage1_train'}\n")
    assert "5 files of 2018 Data Science Bowl" in done.err
    assert "CC0" in done.err
    again = command.nucleiflow(*arguments, "--sha256", digest, "--quiet")
    assert again.code == 2
    assert "exists: remove it" in again.line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("other", "--out", "x"), "dataset is 'other': choose one of bbbc038"),
        (("bbbc038", "--out", "x", "--sha256", "12"), "sha256 is '12': it has 64 digits"),
        (("bbbc038", "--out", "x", "--url", "file:///etc/passwd"), "begins with https://"),
    ],
)
def test_options_that_cannot_be(options, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = command.nucleiflow("fetch", *options, "--quiet")
    assert done.code == ConfigError.exit_code
    assert says in done.line
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails(serve, tmp_path):
    content = zipped(FILES)
    assert "404" in refused(tmp_path, content, serve(b"none", status=404))
    short = serve(content[:100], length=len(content))
    assert re.search(r"ended after 100 of|IncompleteRead", refused(tmp_path, content, short))
    url = serve(content)
    dead = re.sub(r":\d+/", ":1/", url)
    assert "check the network" in refused(tmp_path, content, dead)


def test_what_is_larger_than_the_known_file_is_not_taken(monkeypatch, serve, tmp_path):
    content = zipped(FILES)
    digest = hashlib.sha256(content).hexdigest()
    for size in (len(content) - 1, len(content)):
        known = dataclasses.replace(fetch.DATASETS["bbbc038"], bytes=size, sha256=digest)
        monkeypatch.setitem(fetch.DATASETS, "bbbc038", known)
        if size < len(content):
            with pytest.raises(RunError, match="is larger than the"):
                fetch.fetch("bbbc038", tmp_path, say=print, url=serve(content))
            assert list(tmp_path.iterdir()) == []
    assert fetch.fetch("bbbc038", tmp_path, say=print, url=serve(content)).is_dir()


@pytest.mark.parametrize("name", ["../evil.png", "a1/../../evil.png", "/evil.png", "..\\evil.png"])
def test_names_that_lead_out_are_refused(serve, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    content = zipped({**FILES, name: b"x"})
    assert "leads out of it" in refused(out, content, serve(content))
    assert list(tmp_path.iterdir()) == [out]


def test_links_are_refused(serve, tmp_path):
    link = zipfile.ZipInfo("a1/masks/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    content = zipped({**FILES, link: b"/etc/passwd"})
    assert "holds a link" in refused(tmp_path, content, serve(content))


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        ("MAX_FILES", 4, "holds 5 files"),
        ("MAX_FILE_BYTES", 20, "unpacks to"),
        ("MAX_UNPACKED_BYTES", 300, "archive unpacks to"),
    ],
)
def test_too_much_is_refused(monkeypatch, serve, tmp_path, limit, value, says):
    content = zipped(FILES)
    known = dataclasses.replace(
        fetch.DATASETS["bbbc038"], sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(fetch.DATASETS, "bbbc038", known)
    monkeypatch.setattr(fetch, limit, value)
    with pytest.raises(RunError, match=says):
        fetch.fetch("bbbc038", tmp_path, say=print, url=serve(content))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_leaves_nothing(serve, tmp_path):
    content = bytearray(zipped(FILES))
    content[content.index(b"a1/masks/m2.png") + 20] ^= 255
    assert "archive is damaged" in refused(tmp_path, bytes(content), serve(bytes(content)))
    assert "archive is damaged" in refused(tmp_path, b"no zip", serve(b"no zip"))
    nothing = zipped(REST)
    assert "no file of the data set" in refused(tmp_path, nothing, serve(nothing))


def test_an_output_that_cannot_be_written(serve, tmp_path):
    (tmp_path / "file").write_text("")
    content = zipped(FILES)
    with pytest.raises(StoreError, match="cannot be written"):
        get(tmp_path / "file" / "out", content, serve(content))
