"""A batch whose slides and results lie in a real object store; a worker is killed in the middle."""

import json
import time

import command
import pytest
import s3

from nucleiflow import place, records, store

TILES = ("--tile-px", 64)  # 5 x 7 of them in the small slide
PATIENCE_SECONDS = 180


@pytest.fixture(scope="module")
def server():
    """An S3 server that this process and those it starts can reach."""
    with s3.running() as server, s3.reached(server.env):
        yield server


@pytest.fixture(scope="module")
def local(small_slide, tmp_path_factory):
    """Digest of the labels of a run on this machine's disk."""
    labels, _ = command.segment(small_slide, tmp_path_factory.mktemp("local"), *TILES)
    return command.digest(labels)


def wait_for_segments(folder, process):
    began = time.monotonic()
    while len(records.done(folder / "work" / "records" / "segment")) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.05)


def test_a_worker_killed_in_the_middle_changes_nothing(server, local, small_slide):
    slides, out = (place.of(f"s3://{s3.BUCKET}/batch/{name}") for name in ("slides", "out"))
    for name in ("a.ome.tif", "b.ome.tif"):
        records.put(slides / name, small_slide.read_bytes())
    process = command.start(
        *("run", f"{slides}/*.tif", "--out", out, *TILES, "--workers", 2, "--pause-seconds", 0.05)
    )
    wait_for_segments(out / "a", process)
    command.workers(process)[0].kill()
    told, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, told) == (0, ""), err
    assert s3.SECRET not in err
    for name in ("a", "b"):
        word = records.get_json(out / name / "run.json")
        assert word["holes"] == []
        labels = store.open_readonly(out / name / word["labels"] / "0")[:]
        assert command.digest(labels) == local
    assert s3.SECRET not in json.dumps(records.get_json(out / "batch.json"))
    assert records.done(out / "a" / "work" / "records" / "segment") == set()
    seen = command.nucleiflow("status", str(out))
    assert seen.code == 0
    assert "finished" in seen.out


def test_a_store_that_refuses_a_write(server, small_slide):
    reader = s3.environment(server.endpoint, s3.READER_KEY, s3.READER_SECRET)
    out = f"s3://{s3.BUCKET}/refused"
    with s3.reached(reader):
        done = command.nucleiflow("run", small_slide, "--out", out, *TILES, "--workers", 0)
    assert done.code == 2
    assert f"output folder {out} cannot be written" in done.line
    assert s3.READER_SECRET not in done.err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_store_that_dies_in_the_middle(server, local, small_slide):
    out = place.of(f"s3://{s3.BUCKET}/outage")
    command_line = ("run", small_slide, "--out", out, *TILES, "--workers", 1, "--retries", 0)
    process = command.start(*command_line)
    wait_for_segments(out / "small", process)
    server.stop()
    try:
        _, err = process.communicate(timeout=2 * PATIENCE_SECONDS)  # each request is tried for long
    finally:
        server.start()
    assert process.returncode in (1, 2), err
    assert "Traceback" not in err
    assert "a hole" not in err, "an outage was blamed on a tile"
    assert s3.SECRET not in err
    again = command.nucleiflow(*command_line)
    assert again.code == 0, again.err
    word = records.get_json(out / "small" / "run.json")
    assert command.digest(store.open_readonly(out / "small" / word["labels"] / "0")[:]) == local
