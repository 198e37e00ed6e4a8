"""A night's batch: twenty images, two of them broken, the run killed twice and started again."""

import csv
import json
import os
import signal
import time

import command
import pytest
from PIL import Image

IMAGES = command.DATA / "dsb2018" / "images"
PATIENCE_SECONDS = 240


@pytest.fixture(scope="module")
def folder(field, tmp_path_factory):
    """Eighteen images, real ones where there are, a truncated slide and a file of text."""
    folder = tmp_path_factory.mktemp("night")
    real = sorted(IMAGES.glob("*.png"))[::34][:18]
    for number in range(18):
        path = folder / f"slide-{number:02}.png"
        if real:
            path.write_bytes(real[number].read_bytes())
        else:
            y, x = divmod(number, 6)
            part = field[y * 200 : y * 200 + 256, x * 120 : x * 120 + 256]
            Image.fromarray((part >> 8).astype("uint8")).save(path)
    whole = (folder / "slide-03.png").read_bytes()
    (folder / "slide-18.png").write_bytes(whole[: len(whole) // 2])
    (folder / "slide-19.tif").write_text("no slide at all")
    return folder


@pytest.fixture(scope="module")
def job(folder):
    """A job file and its manifest; one slide has options of its own."""
    with (folder / "slides.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["slide", "id", "tile_px"])
        for number in range(20):
            name = f"slide-{number:02}." + ("tif" if number == 19 else "png")
            rows.writerow([name, f"night-{number:02}", "64" if number == 5 else ""])
    path = folder / "night.yaml"
    path.write_text(
        "manifest: slides.csv\nout: results\ntiles: {tile_px: 128}\n"
        "cluster: {kind: local, workers: 2}\nfailure: {pause_seconds: 0.1}\n"
    )
    return path


def finished(out):
    return sorted(path.parent.name for path in out.glob("*/run.json"))


def killed_when(enough, job, out):
    """Start the batch, and kill all of its processes once so many slides are done."""
    process = command.start("submit", job, "--quiet")
    began = time.monotonic()
    while len(finished(out)) < enough:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    seen = command.nucleiflow("status", out)
    assert seen.code == 1
    assert "stopped" in seen.out


def test_twenty_slides_two_broken_killed_twice(job, folder, tmp_path):
    out = folder / "results"
    killed_when(3, job, out)
    first = finished(out)
    killed_when(len(first) + 4, job, out)
    second = finished(out)
    assert set(first) < set(second)
    assert len(second) < 18, "killed too late to show anything"
    stamps = {name: (out / name / "run.json").stat().st_mtime_ns for name in second}
    done = command.outside("submit", job)
    assert done.code == 3, done.err
    for name, stamp in stamps.items():
        assert (out / name / "run.json").stat().st_mtime_ns == stamp, "done twice"
    rows = json.loads((out / "batch.json").read_text())["slides"]
    assert [row["status"] for row in rows] == ["done"] * 18 + ["failed"] * 2
    assert "slide-18.png" in rows[18]["reason"]
    assert "slide-19.tif" in rows[19]["reason"]
    assert {row["reason"] for row in rows[18:]} <= {
        line.removeprefix("failed: ") for line in done.err.splitlines()
    }
    seen = json.loads(command.nucleiflow("status", out, "--json").out)
    assert (seen["state"], seen["exit_code"]) == ("finished", 3)
    assert seen["slides_by_state"] == {"done": 18, "running": 0, "failed": 2, "waiting": 0}
    for name in finished(out)[::3]:  # a third of them, by the plainest way: no Dask, other tiles
        slide = folder / f"slide-{name[-2:]}.png"
        labels, _ = command.segment(slide, tmp_path / name, "--tile-px", 512)
        assert command.digest(command.labels(out / name)) == command.digest(labels)
