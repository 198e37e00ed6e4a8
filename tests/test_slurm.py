"""Workers as jobs of a real Slurm: pinned, replaced, encrypted, and never without a reason."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import command
import pytest
import slurm as daemons
import yaml

from nucleiflow import cluster, shape, showcase, slurm
from nucleiflow.config import Cluster
from nucleiflow.errors import ConfigError, RunError

REASON = daemons.missing()
real = pytest.mark.skipif(REASON is not None, reason=str(REASON))
PATIENCE_SECONDS = 90
JOB = Path(__file__).parents[1] / "jobs" / "slurm.yaml"


@pytest.fixture(scope="module", autouse=True)
def queue(tmp_path_factory):
    if REASON is None:
        with daemons.running(tmp_path_factory.mktemp("slurm")):
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(slurm, "ADAPT_SECONDS", 0.5)
    monkeypatch.setattr(slurm, "SQUEUE_SECONDS", 1.0)
    monkeypatch.setattr(slurm, "PATIENT_ROUNDS", 3)


def jobs(folder, **chosen):
    """Two jobs that fit this machine, with a GPU each that nothing can compute on."""
    usual = {
        "workers": 2,
        "device": "cpu",
        "cores": 1,
        "memory": "2 GB",
        "walltime": "00:20:00",
        "interface": "lo",
        "job_extra": ("--gres=gpu:1",),
        "log_folder": folder / "logs",
    }
    return Cluster(kind="slurm", **{**usual, **chosen})


def nothing():
    return lambda: None


def identity():
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    return lambda: tuple(os.environ.get(name) for name in names)


def await_workers(client, holds):
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds(cluster.workers(client)):
        assert time.monotonic() < until, (cluster.workers(client), daemons.jobs())
        time.sleep(0.2)


def told(client):
    """Address -> its GPU and its job."""
    return cluster.on_each(client, identity(), timeout_seconds=60)


@real
def test_each_job_has_a_gpu_of_its_own_and_a_cancelled_one_is_replaced(tmp_path):
    with cluster.open(jobs(tmp_path), nothing(), demand=lambda: 2) as client:
        await_workers(client, lambda known: len(known) == 2)
        before = told(client)
        assert {gpu for gpu, _ in before.values()} == {"0", "1"}
        assert {job for _, job in before.values()} == set(daemons.jobs())
        gone, (_, job) = next(iter(before.items()))
        subprocess.run(["scancel", job], check=True)
        await_workers(client, lambda known: len(known) == 2 and gone not in known)
        after = told(client)
        assert {gpu for gpu, _ in after.values()} == {"0", "1"}
        assert job not in {job for _, job in after.values()}
        left = set(daemons.jobs())
    await_end(left)


def await_end(ours):
    until = time.monotonic() + PATIENCE_SECONDS
    while ours & set(daemons.jobs()):
        assert time.monotonic() < until
        time.sleep(0.2)


@real
def test_a_job_cancelled_in_the_queue_is_replaced(tmp_path):
    with cluster.open(jobs(tmp_path, cores=2), nothing(), demand=lambda: 2) as client:
        ((_, first),) = told(client).values()
        (waits,) = set(daemons.jobs()) - {first}
        assert daemons.jobs()[waits] == "PENDING"
        subprocess.run(["scancel", waits], check=True)
        until = time.monotonic() + PATIENCE_SECONDS
        while set(daemons.jobs()) <= {first, waits}:
            assert time.monotonic() < until
            time.sleep(0.2)
        (again,) = set(daemons.jobs()) - {first, waits}
        time.sleep(5 * slurm.ADAPT_SECONDS)  # rounds of adapting: it is not given up again
        assert again in daemons.jobs()


@real
def test_jobs_follow_the_demand(tmp_path):
    wanted = [1]
    with cluster.open(jobs(tmp_path), nothing(), demand=lambda: wanted[0]) as client:
        assert len(cluster.workers(client)) == 1
        wanted[0] = 50
        await_workers(client, lambda known: len(known) == 2)
        wanted[0] = 0
        await_workers(client, lambda known: len(known) == 1)


@real
def test_the_scheduler_speaks_tls_alone_and_the_key_is_gone_in_the_end(tmp_path):
    from distributed import Client

    with cluster.open(jobs(tmp_path, workers=1), nothing(), demand=lambda: 1) as client:
        address = client.scheduler.address
        (worker,) = cluster.workers(client)
        assert address.startswith("tls://")
        assert worker.startswith("tls://")
        (folder,) = (tmp_path / "logs").glob(".tls-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with pytest.raises(OSError, match=r".*"):
            Client(address.replace("tls", "tcp"), timeout=2)
        dashboard = client.scheduler_info()["services"]["dashboard"]
        listening = subprocess.run(
            ["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True
        ).stdout
        assert f"0100007F:{dashboard:04X}" in listening
        assert f"00000000:{dashboard:04X}" not in listening
    assert not list((tmp_path / "logs").glob(".tls-*"))


@real
def test_a_worker_leaves_before_its_walltime_and_another_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "lifetime", lambda _: (6, 0))
    with cluster.open(jobs(tmp_path, workers=1), nothing(), demand=lambda: 1) as client:
        ((_, first),) = told(client).values()

        def another_came(known):
            return known and first not in {job for _, job in told(client).values()}

        await_workers(client, another_came)


@real
def test_a_job_that_cannot_begin_ends_the_run_with_the_last_words_of_its_log(tmp_path):
    broken = jobs(tmp_path, job_prologue=("echo module: command not found >&2", "exit 3"))
    with (
        pytest.raises(RunError, match=r"Slurm job \d+ ended .*\.err ends with: module: command"),
        cluster.open(broken, nothing(), demand=lambda: 2),
    ):
        pass


@real
def test_what_sbatch_refuses_is_said(tmp_path):
    nowhere = jobs(tmp_path, queue="nowhere")
    with (
        pytest.raises(RunError, match=r"sbatch refuses the job: .*[Ii]nvalid partition"),
        cluster.open(nowhere, nothing(), demand=lambda: 2),
    ):
        pass


@real
def test_a_worker_that_cannot_be_prepared_ends_the_run_with_its_error(tmp_path):
    def broken():
        raise RunError("worker has no GPU: buy one")

    with (
        pytest.raises(RunError, match=r"^worker has no GPU: buy one$"),
        cluster.open(jobs(tmp_path, workers=1), broken, demand=lambda: 1),
    ):
        pass


@real
def test_a_queue_that_stands_still_is_quoted(tmp_path):
    held = jobs(tmp_path, workers=1, job_extra=("--hold",), wait_minutes=0.05)
    with (
        pytest.raises(RunError, match=r"squeue shows job \d+: PENDING, JobHeldUser"),
        cluster.open(held, nothing(), demand=lambda: 1),
    ):
        pass


@pytest.fixture(scope="module")
def three_slides(field, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    for number in range(3):
        corner = 100 * number
        pixels = field[corner : corner + 500, corner : corner + 600]
        showcase.write_slide(folder / f"slide{number}.ome.tif", pixels)
    return folder


def as_a_user_edits_it(folder, slides):
    """jobs/slurm.yaml, with what differs on this machine."""
    content = yaml.safe_load(JOB.read_text())
    lines = [f"{path}," for path in sorted(slides.glob("*.tif"))]
    (folder / "slides.csv").write_text("\n".join(["slide,stain", *lines]))
    content.update(manifest="slides.csv", out="results", tiles={"tile_px": 128})
    content["cluster"].update(
        workers=2, device="cpu", queue="debug", cores=1, threads=1, memory="3 GB", interface="lo",
        job_extra=["--gres=gpu:1"], log_folder="logs", wait_minutes=3,
    )  # fmt: skip
    path = folder / "slurm.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def await_tiles(process, out):
    until = time.monotonic() + PATIENCE_SECONDS
    while not list(out.glob("*/work/records/segment/*.rec")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@real
@pytest.mark.slow
def test_ctrl_c_ends_a_batch_and_its_jobs(three_slides, tmp_path):
    with command.start("submit", as_a_user_edits_it(tmp_path, three_slides)) as process:
        await_tiles(process, tmp_path / "results")
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "stopped: the same command goes on from here"
    assert "Traceback" not in err
    await_end(set(daemons.jobs()))


@real
@pytest.mark.slow
def test_a_batch_goes_on_when_a_job_is_cancelled_and_gives_the_same_labels(three_slides, tmp_path):
    alone = tmp_path / "alone"
    done = command.nucleiflow("run", three_slides, "--out", alone, "--workers", 0, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    with command.start("submit", as_a_user_edits_it(tmp_path, three_slides)) as process:
        out = tmp_path / "results"
        await_tiles(process, out)
        running = [job for job, state in daemons.jobs().items() if state == "RUNNING"]
        assert running
        subprocess.run(["scancel", running[0]], check=True)
        assert not (out / "slide2" / "run.json").exists(), "it was cancelled in the middle"
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for number in range(3):
        name = f"slide{number}"
        expected, found = command.labels(alone / name), command.labels(out / name)
        assert expected.max() > 20
        assert command.digest(found) == command.digest(expected)
    assert not list((tmp_path / "logs").glob(".tls-*"))
    await_end(set(daemons.jobs()))


def test_without_slurm_the_error_says_where_to_go(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ConfigError, match="sbatch is not on the PATH"),
        cluster.open(jobs(tmp_path), nothing(), demand=lambda: 1),
    ):
        pass


@pytest.mark.parametrize("lacking", ["dask_jobqueue", "cryptography"])
def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch, lacking):
    monkeypatch.setattr(slurm.shutil, "which", lambda command: command)
    monkeypatch.setitem(sys.modules, lacking, None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'nucleiflow\[slurm\]'"),
        cluster.open(jobs(tmp_path), nothing(), demand=lambda: 1),
    ):
        pass


def test_the_number_of_jobs_is_the_users_to_say(tmp_path):
    with pytest.raises(ConfigError, match=r"cluster\.workers is missing"):
        shape.of(jobs(tmp_path, workers=None))


@pytest.mark.parametrize(
    ("extra", "device", "expected"),
    [
        ((), "auto", ["--gres=gpu:1"]),
        ((), "cpu", []),
        (("--gres=gpu:a100:1", "--exclusive"), "auto", ["--gres=gpu:a100:1", "--exclusive"]),
        (("-G 1",), "gpu", ["-G 1"]),
        (("--nice=10",), "gpu", ["--gres=gpu:1", "--nice=10"]),
    ],
)
def test_a_gpu_is_asked_for_once(extra, device, expected):
    assert slurm.directives(Cluster(kind="slurm", job_extra=extra, device=device)) == expected


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("30", 1800), ("10:30", 630), ("02:00:00", 7200), ("1-0", 86400), ("1-02:03:04", 93784)],
)
def test_walltimes_are_read_as_slurm_does(walltime, seconds):
    assert slurm.seconds(walltime) == seconds
    life, spread = slurm.lifetime(walltime)
    assert life - spread > 0
    assert life + spread < seconds


@pytest.mark.parametrize("walltime", ["", "soon", "0", "1:2:3:4", "-1"])
def test_other_walltimes_are_refused(walltime):
    with pytest.raises(ConfigError, match="walltime"):
        slurm.seconds(walltime)
