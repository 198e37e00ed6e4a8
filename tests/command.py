"""The command line as its users meet it, in this process or in one of its own, and its results."""

import contextlib
import dataclasses
import hashlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import psutil
import zarr

from nucleiflow import batch, cli, pool, records, stream

DATA = Path(__file__).parents[2] / "shared" / "data"
SVS = DATA / "slides" / "CMU-1-Small-Region.svs"
NDPI = DATA / "slides" / "dapi-tissue-40x.ndpi"
OME_ZARR = DATA / "slides" / "xy_8bit__nuclei_PLK1_control.ome.zarr"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def line(self):
        """The only line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def nucleiflow(*arguments):
    """The command in this process, TensorFlow loaded at most once."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["nucleiflow", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    return Result(code, out.getvalue(), err.getvalue())


def start(*arguments, environment=None):
    """The command in a process group of its own."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"
    }
    return subprocess.Popen(
        [sys.executable, "-m", "nucleiflow", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=inherited | (environment or {}),
    )


def workers(process):
    """Worker processes of a run that was started: forked from the one that has loaded for them."""
    return [worker for one in forking(process) for worker in one.children()]


def forking(process):
    children = psutil.Process(process.pid).children()
    return [one for one in children if "forkserver" in " ".join(one.cmdline())]


def outside(*arguments):
    """The command in a process of its own, waited for."""
    with start(*arguments) as process:
        out, err = process.communicate(timeout=300)
    return Result(process.returncode, out, err)


def segment(slide, out, *options):
    """Run a slide in this process; returns its labels (h, w) and its final word."""
    done = nucleiflow("run", slide, "--out", out, "--workers", 0, "--quiet", *options)
    assert (done.code, done.out, done.err) == (0, "", ""), done
    (folder,) = (path.parent for path in Path(out).glob("*/run.json"))
    return labels(folder), word(folder)


def word(folder):
    return records.get_json(folder / "run.json")


def store(folder):
    return folder / f"{folder.name}.ome.zarr"


def labels(folder, level=0):
    """Labels of a slide's folder, read by plain zarr."""
    return zarr.open_array(store(folder) / "labels" / "nuclei" / str(level), mode="r")[:]


def digest(array):
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()


def looks_finished(out):
    """What in an output folder would tell a person or a viewer that labels are there."""
    visible = [
        group
        for group in Path(out).rglob("zarr.json")
        if "labels" in records.get_json(group).get("attributes", {}).get("ome", {})
    ]
    return [*Path(out).rglob("run.json"), *visible]


class Watched(pool.Serial):
    """The serial pool, which also writes down what it was asked to do."""

    def __init__(self):
        super().__init__()
        self.tiles = set()

    def submit(self, ticket, task, tiles, worker):
        for tile in tiles:
            reply = pool.perform(task, (tile,))
            self.did(task, tile)
            assert reply.outcomes == ((tile, None),), reply
        outcomes = tuple((tile, None) for tile in tiles)
        self._listener(stream.Ended(ticket, dataclasses.replace(reply, outcomes=outcomes)))

    def did(self, task, tile):
        told = tuple(one for one in task.args[1:] if isinstance(one, int | str))
        self.tiles.add((task.func.__name__, told, tile))


@contextlib.contextmanager
def driven_by(runner):
    """Runs in this process go through `runner`, a pool."""
    with mock.patch.object(batch, "_runner", return_value=contextlib.nullcontext(runner)):
        yield runner
