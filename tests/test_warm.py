"""Workers of this machine are forked from a process that has loaded what they need."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import command
import psutil
import pytest

from nucleiflow import __main__ as first
from nucleiflow import warm

PATIENCE_SECONDS = 60
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")


def script(folder, body):
    """What a process prints, that has opened a warm cluster of two workers as `client`."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent("""
        import json, os, signal, sys, time
        from multiprocessing import forkserver
        import psutil
        from nucleiflow import cluster, warm
        from nucleiflow.config import Cluster

        def facts():
            return {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "loaded": [name in sys.modules for name in ("tensorflow", "nucleiflow.tasks")],
                "new": os.environ.get("NEW"),
                "threads": os.environ["OMP_NUM_THREADS"],
            }

        def works(pid):
            try:
                return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return False

        def told(client):
            return list(cluster.on_each(client, facts, timeout_seconds=60).values())

        def main():
            before = dict(os.environ)
            warm.up()
            assert dict(os.environ) == before
            os.environ["NEW"] = "yes"
            with cluster.open(Cluster(workers=2), int, demand=lambda: 2) as client:
                body(client)

        def body(client):
    """) + textwrap.indent(textwrap.dedent(body), " " * 4) + textwrap.dedent("""
        if __name__ == "__main__":
            main()
    """))  # fmt: skip
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_workers_have_loaded_before_they_begin_and_share_it(tmp_path):
    body = """
        one, two = told(client)
        assert one["loaded"] == two["loaded"] == [True, True]
        assert one["parent"] == two["parent"] == forkserver._forkserver._forkserver_pid
        assert one["pid"] != two["pid"]
        assert one["new"] == "yes", "what the command's environment is now"
        assert one["threads"] == "1"
        print("done")
    """
    assert script(tmp_path, body) == ["done"]


def test_workers_load_nothing_that_only_commands_need(small_slide, tmp_path):
    """Tables are for the end of a batch, options for its beginning: workers know neither."""
    process = command.start("run", small_slide, "--out", tmp_path / "out", "--quiet")
    seen = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for worker in command.workers(process):
                seen |= {Path(one.path).parts for one in worker.memory_maps()}
        time.sleep(0.02)
    process.communicate()
    libraries = {part for parts in seen for part in parts}
    assert process.returncode == 0
    assert {"tensorflow", "zarrs"} <= libraries
    assert not {"pandas", "pydantic_core"} & libraries


AGAIN = """
    before, known = told(client), cluster.workers(client)
    os.kill(before[0]["{whom}"], signal.SIGKILL)
    until = time.monotonic() + 60
    while len(now := cluster.workers(client)) < 2 or len(now.keys() & known.keys()) > {left}:
        assert time.monotonic() < until
        time.sleep(0.1)
    after = told(client)
    assert all(one["loaded"] == [True, True] for one in after)
    assert ({{one["parent"] for one in after}} == {{before[0]["parent"]}}) is {same}
    assert sum(works(one["pid"]) for one in before) == {left}
    print("done")
"""


@pytest.mark.parametrize(
    ("whom", "left", "same"),
    [pytest.param("pid", 1, True, id="worker"), pytest.param("parent", 0, False, id="loader")],
)
def test_workers_come_back_loaded_if_one_or_their_parent_is_killed(tmp_path, whom, left, same):
    assert script(tmp_path, AGAIN.format(whom=whom, left=left, same=same)) == ["done"]


def works(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def begun(process, there):
    """What there is of a command, as soon as there is some."""
    began = time.monotonic()
    while not (found := there(process)):
        assert process.poll() is None
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.01)
    return found


def gone(processes, seconds):
    until = time.monotonic() + seconds
    while any(works(one) for one in processes) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(works(one) for one in processes)


def test_nobody_goes_on_loading_for_a_command_that_was_killed(small_slide, tmp_path):
    process = command.start("run", small_slide, "--out", tmp_path / "out")
    known = begun(process, lambda one: [it for it in command.forking(one) if it.num_threads() > 1])
    process.kill()
    assert gone(known, seconds=1)
    process.communicate(timeout=PATIENCE_SECONDS)


def test_workers_do_not_outlive_the_process_that_they_were_forked_from(small_slide, tmp_path):
    """Nobody would hear of their end, even if the command were not busy: here it is stopped."""
    process = command.start("run", small_slide, "--out", tmp_path / "out", "--tile-px", 64)
    known = begun(process, command.workers)
    process.send_signal(signal.SIGSTOP)
    try:
        for one in command.forking(process):
            one.kill()
        assert gone(known, seconds=2)
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)


def test_ctrl_c_while_it_loads_is_one_line(small_slide, tmp_path):
    process = command.start("run", small_slide, "--out", tmp_path / "out")
    begun(process, lambda _: (tmp_path / "out" / "small").exists())
    assert command.workers(process) == [], "the test came late"
    os.killpg(process.pid, signal.SIGINT)
    done = ended(process)
    assert (done.code, done.out) == (130, "")
    assert done.err == "stopped: the same command goes on from here\n"


@pytest.mark.parametrize("options", [("--workers", 0), ("--cluster", "slurm")])
def test_who_has_no_workers_here_loads_nothing_for_them(tmp_path, options):
    process = command.start("run", tmp_path / "none.tif", "--out", tmp_path / "out", *options)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert not command.forking(process)
        time.sleep(0.01)
    process.communicate()


def test_a_command_leaves_nobody_behind(small_slide, tmp_path):
    """Who is waited for is counted, too: `time` and batch systems tell what workers took."""
    process = command.start("run", small_slide, "--out", tmp_path / "out", "--quiet")
    known = [*begun(process, command.workers), *command.forking(process)]
    assert ended(process) == command.Result(0, "", "")
    assert [one for one in known if psutil.pid_exists(one.pid)] == []


def test_without_a_place_for_its_socket_workers_begin_as_usual(small_slide, tmp_path):
    """The name of a socket has some hundred letters at most, a scratch folder's may have more."""
    scratch = tmp_path / ("s" * 100)
    scratch.mkdir()
    options = ("--out", tmp_path / "out", "--quiet")
    process = command.start("run", small_slide, *options, environment={"TMPDIR": str(scratch)})
    assert ended(process) == command.Result(0, "", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "slide.tif", "--out", "out"], True),
        (["demo"], True),
        (["rerun", "run.json", "-o", "out"], True),
        (["run", "slide.tif", "--out", "out", "--workers", "0"], False),
        (["run", "slide.tif", "--out", "out", "--workers=0"], False),
        (["run", "slide.tif", "--out", "out", "--cluster", "slurm"], False),
        (["run", "--help"], False),
        (["run", "-h"], False),
        (["submit", "job.yaml"], False),
        (["info", "run"], False),
        (["--version"], False),
        ([], False),
    ],
)
def test_who_will_want_workers_here_is_seen_before_options_are_understood(words, expected):
    assert first.computes(words) is expected


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(
            f"run_path({str(Path(sys.executable).parent / 'nucleiflow')!r}", id="installed"
        ),
        pytest.param("run_module('nucleiflow'", id="module"),
    ],
)
def test_what_takes_longest_begins_before_the_command_line_is_loaded(begun):
    """And what workers import again, as they do the file that a command began with, is light."""
    code = f"""
        import runpy, sys
        from nucleiflow import warm
        warm.up = lambda: sys.exit(f"up, {{'typer' in sys.modules}}")
        sys.argv = ["nucleiflow", "run", "slide.tif", "--out", "out"]
        runpy.{begun}, run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "up, False\n")


def test_ctrl_c_in_the_first_moment_is_no_traceback(monkeypatch):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(warm, "up", stopped)
    monkeypatch.setattr(sys, "argv", ["nucleiflow", "run", "slide.tif", "--out", "out"])
    with pytest.raises(SystemExit) as end:
        first.main()
    assert end.value.code == 130


def test_imported_by_anybody_else_it_loads_nothing():
    code = "import sys, nucleiflow.preloaded; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_slides_that_are_done_or_cannot_be_read_start_no_workers(small_slide, tmp_path):
    """Neither a scheduler: what it says first is the address of its dashboard."""
    out, bad = tmp_path / "out", tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0")
    first = ended(command.start("run", small_slide, "--out", out))
    assert (first.code, "dashboard" in first.err) == (0, True), first.err
    again = ended(command.start("run", small_slide, bad, "--out", out))
    assert (again.code, "dashboard" in again.err) == (3, False), again.err
    assert "already done" in again.err


def ended(process):
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return command.Result(process.returncode, out, err)


def test_only_workers_of_this_machine_that_leave_gpus_alone_are_forked(monkeypatch):
    kinds = "local", "gpu", "slurm", "connect"
    for is_warm, way in ((False, "spawn"), (True, "forkserver")):
        monkeypatch.setattr(warm._Kept, "warm", is_warm)
        assert [warm.method(kind) for kind in kinds] == [way, "spawn", "spawn", "spawn"]
