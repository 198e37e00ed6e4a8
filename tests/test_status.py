"""A run as another terminal sees it, alive, dead, done or not there."""

import contextlib
import os
import pty
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest
import s3
from rich.cells import cell_len

from nucleiflow import cli, lock, place, records, status
from nucleiflow.errors import StoreError
from nucleiflow.snapshot import SlideState, Snapshot

GO_ON = "stopped: run the same command to go on"
HOSTILE = "a\x1b[31m\x07\r\nrunning\x9b2J\u202e[bold]b[/] {c}"
DRIVER = """
import sys, time
from pathlib import Path
from nucleiflow import lock, status
from nucleiflow.snapshot import SlideState, Snapshot

out = Path(sys.argv[1])
with lock.hold(out, say=print):
    first = SlideState("a", "a.svs", "done")
    slides = [first, SlideState("b", "b.svs", "running", "segment", 1, 4)]
    now = Snapshot(slides, elapsed=10.0, megapixels_done=20.0, tiles_done=5, workers=2)
    status.publish(out, now, final=False)
    print("published", flush=True)
    sys.stdin.readline()
    slides[1].state = "done"
    status.publish(out, now, final=True)
"""


@pytest.fixture
def driver(tmp_path):
    """A run of two slides in a process of its own; a line on its input lets it finish."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "published\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(status, "FRAME_SECONDS", 0.05)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)


def look(out):
    return status.look(out, say=pytest.fail)


def command(capsys, monkeypatch, *arguments):
    """Exit code, standard output and standard error of `nucleiflow status`."""
    monkeypatch.setattr(sys, "argv", ["nucleiflow", "status", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    return code, *capsys.readouterr()


def slides(**counts):
    """So many slides of each state, the first ones first."""
    return [
        SlideState(f"{state}-{number}", f"/slides/{state}-{number}.svs", state)
        for state, count in counts.items()
        for number in range(count)
    ]


def test_what_is_published_is_read(tmp_path):
    first = SlideState(
        *("a", "/a.svs", "running", "segment", 3, 12, 8.5, None, 1, 60.0, None, 0, False, 0.1)
    )
    now = Snapshot([first, *slides(waiting=2)], 10.0, 4.0, 7, 3, 2)
    status.publish(tmp_path, now, final=False)
    found = status.read(tmp_path)
    assert found.snapshot == now
    assert (found.final, found.pid) == (False, os.getpid())
    assert abs(datetime.now(UTC) - found.written) < timedelta(minutes=1)
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_living_run(tmp_path, driver):
    seen = look(tmp_path)
    assert (seen.life, seen.exit_code) == ("running", 0)
    lines = seen.text().splitlines()
    assert f"running on host {lock.here()[0]} (process {driver.pid}, since 20" in lines[0]
    assert lines[2].split("  ") == ["", "2 slides", "1 done, 1 running"]
    assert "5 tiles, 2.00 MP/s, 0:00:0" in lines[3]
    assert lines[3].endswith(" left, 2 workers")
    assert [line.split() for line in lines if "1/4" in line] == [
        ["b", "segment", "1/4", "tiles", "0:00:00"]
    ]


def test_a_killed_run_is_stopped_at_once(tmp_path, driver):
    driver.kill()
    while psutil.Process(driver.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    seen = look(tmp_path)
    assert (seen.life, seen.exit_code) == ("stopped", 1)
    assert seen.text().splitlines()[0] == f"{tmp_path}: {GO_ON}"
    assert "1 done, 1 begun" in seen.text()
    assert "left" not in seen.text()


def test_a_finished_run(tmp_path, driver):
    driver.communicate("\n")
    seen = look(tmp_path)
    assert (seen.life, seen.exit_code) == ("finished", 0)
    assert seen.text().splitlines()[0] == f"{tmp_path}: finished in 0:00:10"
    assert "100 %" in seen.text()


def test_a_driver_that_leaves_before_the_end_is_stopped(tmp_path):
    status.publish(tmp_path, Snapshot(slides(done=1, waiting=1)), final=True)
    assert look(tmp_path).life == "stopped"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_that_has_told_nothing_yet_is_starting(tmp_path, earlier):
    if earlier:
        status.publish(tmp_path, Snapshot(slides(done=1, failed=1)), final=True)
    with lock.hold(tmp_path, say=pytest.fail):
        seen = look(tmp_path)
        assert (seen.life, seen.exit_code) == ("starting", 0)
        assert seen.text().startswith(f"{tmp_path}: starting on host ")
        assert seen.text().count("\n") == 0


def test_a_run_that_is_about_to_leave_has_finished(tmp_path):
    with lock.hold(tmp_path, say=pytest.fail):
        status.publish(tmp_path, Snapshot(slides(done=1)), final=True)
        assert look(tmp_path).life == "finished"


def test_a_living_driver_that_writes_nothing_is_said_to_be_silent(tmp_path, driver, monkeypatch):
    assert "silent" not in look(tmp_path).text()
    monkeypatch.setattr(status, "LATE_SECONDS", -1.0)
    assert "), silent for 0:00:0" in look(tmp_path).text().splitlines()[0]


@pytest.mark.parametrize("sign", ["beat", "status", None])
def test_a_run_on_another_machine_is_alive_if_it_writes(tmp_path, quick, monkeypatch, sign):
    lease = lock._own().model_copy(update={"host": "elsewhere"})
    records.put(tmp_path / "lock.json", lease.as_bytes())
    now = Snapshot(slides(done=1, running=1))

    monkeypatch.setattr(lock, "here", lambda: ("elsewhere", os.getpid()))
    status.publish(tmp_path, now, final=False)
    ended = threading.Event()

    def write():
        count = 0
        while sign and not ended.wait(0.02):
            count += 1
            if sign == "status":
                status.publish(tmp_path, now, final=False)
            else:
                beaten = lease.model_copy(update={"beat": count})
                records.put(tmp_path / "lock.json", beaten.as_bytes())

    thread = threading.Thread(target=write)
    thread.start()
    said = []
    try:
        seen = status.look(tmp_path, say=said.append)
    finally:
        ended.set()
        thread.join()
    assert seen.life == ("running" if sign else "stopped")
    if sign is None:
        (line,) = said
        assert line.startswith("waiting for a sign of life from host elsewhere (process ")


def test_holes_and_failures_are_told_with_their_reasons(tmp_path, capsys, monkeypatch):
    some = slides(done=3, failed=1)
    some[0].holes, some[0].nuclei, some[0].megapixels, some[0].seconds = 2, 1234, 5.5, 61.0
    some[1].again = True
    some[3].reason = "b.svs is cut off: copy it again"
    status.publish(tmp_path, Snapshot(some), final=True)
    code, out, err = command(capsys, monkeypatch, tmp_path)
    assert (code, err) == (3, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["failed-0", *some[3].reason.split()] in lines
    assert ["done-0", "1,234", "nuclei", "5.5", "MP", "0:01:01", "2", "holes"] in lines
    assert ["done-1", "done", "before"] in lines
    assert ["4", "slides", "3", "done,", "1", "failed,", "1", "with", "holes"] in lines


def test_holes_alone_are_worth_an_exit_code(tmp_path):
    some = slides(done=1)
    some[0].holes = 1
    status.publish(tmp_path, Snapshot(some), final=True)
    assert look(tmp_path).exit_code == 4


def test_thousands_of_slides_are_a_page(tmp_path):
    some = slides(done=900, running=100, failed=500, waiting=500)
    for one in some[:100]:
        one.holes = 1
    status.publish(tmp_path, Snapshot(some), final=False)
    lines = look(tmp_path).text().splitlines()
    assert len(lines) < 60
    assert "  2,000 slides  900 done, 100 begun, 500 failed, 500 waiting, 100 with holes" in lines
    assert sum(line.startswith("  failed-") for line in lines) == 10
    assert [line for line in lines if "more" in line] == [
        f"  … and {number} more" for number in (490, 90, 90, 795, 495)
    ]
    assert (tmp_path / "status.json").stat().st_size < 160 * len(some)


def test_names_and_reasons_cannot_move_the_terminal(tmp_path, capsys, monkeypatch):
    some = slides(done=1, running=1, failed=1, waiting=1)
    for one in some:
        one.name = one.reason = one.slide = HOSTILE
        one.stage = HOSTILE
    status.publish(tmp_path, Snapshot(some), final=False)
    _, out, _ = command(capsys, monkeypatch, tmp_path)
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(out)
    assert sum(line == "running" for line in out.splitlines()) == 0
    assert out.count("[bold]b[/]") == 6, "four names, a stage and a reason"
    assert max(map(cell_len, out.splitlines())) < 200


def test_a_name_that_is_not_text_can_be_published(tmp_path):
    status.publish(tmp_path, Snapshot([SlideState("a\udcff", "/\udcff.svs")]), final=False)
    assert look(tmp_path).slides[0].name == "a?"


def test_a_run_in_an_object_store(capsys, monkeypatch):
    with s3.server() as (_, env), s3.reached(env):
        out = place.of(f"s3://{s3.BUCKET}/a run")
        code, _, err = command(capsys, monkeypatch, out)
        assert (code, err.count("\n")) == (2, 1)
        with lock.hold(out, say=pytest.fail):
            status.publish(out, Snapshot(slides(done=1, running=1)), final=False)
            code, told, err = command(capsys, monkeypatch, out)
        assert (code, err) == (0, "")
        assert told.startswith(f"{out}: running on host ")
        code, told, _ = command(capsys, monkeypatch, out)
        assert (code, told.splitlines()[0]) == (1, f"{out}: {GO_ON}")


@pytest.mark.parametrize("folder", ["", "not/there"])
def test_no_run_is_one_line(tmp_path, capsys, monkeypatch, folder):
    code, out, err = command(capsys, monkeypatch, tmp_path / folder)
    assert (code, out) == (2, "")
    assert (
        err
        == f"error: {tmp_path / folder} holds no run: give the folder that was --out of the run\n"
    )


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"version": 2}', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_status_is_one_line(tmp_path, content):
    records.put(tmp_path / "status.json", content)
    with pytest.raises(StoreError, match=r"damaged, or of another version.*: give"):
        look(tmp_path)


def test_json_holds_everything(tmp_path, driver, capsys, monkeypatch):
    import json

    code, out, err = command(capsys, monkeypatch, tmp_path, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["state"], told["driver"]["pid"]) == ("running", driver.pid)
    assert told["slides_by_state"] == {"done": 1, "running": 1, "failed": 0, "waiting": 0}
    assert [one["name"] for one in told["slides"]] == ["a", "b"]
    assert told["slides"][1]["tiles"] == 4
    assert told["seconds_left"] > 0
    driver.communicate("\n")
    code, out, _ = command(capsys, monkeypatch, tmp_path, "--json")
    assert (code, json.loads(out)["driver"], json.loads(out)["state"]) == (0, None, "finished")


def test_watching_and_json_exclude_each_other(tmp_path, capsys, monkeypatch):
    code, out, err = command(capsys, monkeypatch, tmp_path, "--json", "--watch")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_watching_ends_with_the_run(tmp_path, driver, quick, capsys, monkeypatch):
    looks = status.follow(tmp_path, say=pytest.fail)
    assert [next(looks).life for _ in range(2)] == ["running", "running"]
    driver.communicate("\n")
    assert [seen.life for seen in looks] == ["finished"]
    code, out, _ = command(capsys, monkeypatch, tmp_path, "--watch")
    assert code == 0
    assert out.count("finished in") == 1


def test_watching_on_a_terminal_leaves_the_last_look(tmp_path):
    """Longer lines than the terminal's are whole in the end."""
    some = slides(failed=1)
    some[0].reason = "long " * 40 + "end"
    status.publish(tmp_path, Snapshot(some), final=True)
    above, below = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "nucleiflow", "status", str(tmp_path), "--watch"],
        stdin=below,
        stdout=below,
        stderr=below,
        env={**os.environ, "COLUMNS": "60", "LINES": "10", "TERM": "xterm"},
    ) as process:
        os.close(below)
        sent = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(above, 1 << 16):
                sent += piece
    os.close(above)
    assert process.returncode == 3
    last = sent.decode().rpartition("\x1b[2K")[2]
    assert "long end" in last
    assert f"{tmp_path}: finished" in last
