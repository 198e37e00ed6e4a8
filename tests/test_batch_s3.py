"""A batch whose slides and results lie in a real object store; a worker is killed in the middle."""

import json
import os
import signal
import time

import command
import psutil
import pytest
import s3

from nucleiflow import place, records, store

TILES = ("--tile-px", 64)  # 5 x 7 of them in the small slide
PATIENCE_SECONDS = 180


@pytest.fixture(scope="module")
def there():
    """An S3 server that this process and those it starts can reach."""
    with s3.server() as (_, env), s3.reached(env):
        yield


@pytest.fixture(scope="module")
def local(small_slide, tmp_path_factory):
    """Digest of the labels of a run on this machine's disk."""
    labels, _ = command.segment(small_slide, tmp_path_factory.mktemp("local"), *TILES)
    return command.digest(labels)


def test_a_worker_killed_in_the_middle_changes_nothing(there, local, small_slide):
    slides, out = (place.of(f"s3://{s3.BUCKET}/batch/{name}") for name in ("slides", "out"))
    for name in ("a.ome.tif", "b.ome.tif"):
        records.put(slides / name, small_slide.read_bytes())
    process = command.start(
        *("run", f"{slides}/*.tif", "--out", out, *TILES, "--workers", 2, "--pause-seconds", 0.05)
    )
    began = time.monotonic()
    while len(records.done(out / "a" / "work" / "records" / "segment")) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    victim = next(one for one in children if "spawn_main" in " ".join(one.cmdline()))
    os.kill(victim.pid, signal.SIGKILL)
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
