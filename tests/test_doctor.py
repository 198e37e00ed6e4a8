"""The doctor finds what is really broken, names who has it, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import textwrap

import command
import foreign
import numpy as np
import pytest
import slurm as daemons

from nucleiflow import checkup, cluster, diagnosis, doctor
from nucleiflow.config import Cluster
from nucleiflow.diagnosis import Answer, Finding, Needs
from nucleiflow.model import SHIPPED

CAN_UNSHARE = (
    shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
)
apart = pytest.mark.skipif(not CAN_UNSHARE, reason="mount namespaces need root")


def job(folder, slide, **chosen):
    path = folder / "job.yaml"
    content = {
        "slides": [str(slide)],
        "out": str(folder / "out"),
        "cluster": {"kind": "connect", "scheduler_file": str(folder / "scheduler.json"), **chosen},
    }
    path.write_text(json.dumps(content))
    return path


def consult(*arguments):
    """Exit code and what was found, as JSON."""
    done = command.outside("doctor", *arguments, "--json")
    assert done.err == "", done.err
    return done.code, json.loads(done.out)


def told(report):
    """Fault -> who has it."""
    return {one["fault"]: set(one["workers"]) for one in report["faults"]}


def test_a_sound_machine_has_no_faults_and_nothing_is_left(small_slide, tmp_path):
    before = set(tmp_path.iterdir())
    content = {"slides": [str(small_slide)], "out": str(tmp_path / "out")}
    content["cluster"] = {"kind": "gpu", "device": "cpu", "gpus": [0, 1]}
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(content))
    done = command.outside("doctor", path)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "cluster gpu: 2 workers examined"
    assert lines[-1] == "no faults"
    assert sorted(line.split()[3] for line in lines[2:4]) == ["0", "1"]
    assert len({line.split()[-1] for line in lines[2:4]}) == 1
    assert set(tmp_path.iterdir()) - before == {path}


@apart
def test_what_is_broken_on_one_worker_is_found_there(small_slide, tmp_path):
    slide = tmp_path / "slide.ome.tif"
    shutil.copy(small_slide, slide)
    out, shim = tmp_path / "out", tmp_path / "shim"
    (shim / "tifffile-0.0.1.dist-info").mkdir(parents=True)
    (shim / "tifffile-0.0.1.dist-info" / "METADATA").write_text("Name: tifffile\nVersion: 0.0.1\n")
    late = tmp_path / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import time
            real = time.time
            time.time = lambda: real() + 90
        """)
    )
    other = tmp_path / "other.keras"
    other.write_bytes(SHIPPED.read_bytes() + b"more")
    out.mkdir()
    private = tmp_path / "private"
    private.mkdir()
    empty = tmp_path / "empty"
    empty.touch()
    with foreign.scheduler(tmp_path) as worker:
        worker("sound")
        worker("other", PYTHONPATH=f"{shim}:{late}")
        worker("blind", f"-o ro {out} {out}", f"{empty} {slide}")
        worker("apart", f"{private} {out}")
        worker("model", f"{other} {SHIPPED}")
        names = foreign.await_workers(tmp_path, 5)
        code, report = consult(job(tmp_path, slide))
    assert code == 1
    found = {}
    for fault, who in told(report).items():
        for name in who:
            found.setdefault(name, []).append(fault)
    assert names["sound"] not in found
    expected = {
        "other": {"tifffile is 0.0.1 there and ", "the clock is +90 s off"},
        "blind": {"Read-only file system", "the file is empty"},
        "apart": {"is another place there"},
        "model": {"has digest"},
    }
    for name, texts in expected.items():
        faults = found.pop(names[name])
        assert len(faults) == len(texts), faults
        assert all(any(text in fault for fault in faults) for text in texts), faults
    assert found == {}
    assert any("lets a tile that kills its worker kill 3 more" in one for one in report["notes"])
    assert list(out.iterdir()) == []
    assert list(private.iterdir()) == []


def test_a_worker_without_the_gpu_it_was_given_is_found(small_slide, tmp_path):
    with foreign.scheduler(tmp_path, allowed_failures=0) as worker:
        worker("lost", CUDA_VISIBLE_DEVICES="5")
        names = foreign.await_workers(tmp_path, 1)
        code, report = consult(job(tmp_path, small_slide, device="gpu"))
    assert code == 1
    ((fault, who),) = told(report).items()
    assert "was given GPU 5 but TensorFlow sees none" in fault
    assert who == {names["lost"]}
    assert report["workers"][0]["tile"] is None, "the CPU must not stand in for it"
    assert report["notes"] == []


def test_what_is_broken_here_is_found_here(small_slide, tmp_path):
    missing = tmp_path / "gone.svs"
    (tmp_path / "file").touch()
    content = {"slides": [str(missing)], "out": str(tmp_path / "file" / "out")}
    content["cluster"] = {"kind": "serial"}
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(content))
    done = command.nucleiflow("doctor", path)
    assert done.code == 1
    faults = [line for line in done.out.splitlines() if line.startswith("fault")]
    assert sorted(faults) == faults
    assert len(faults) == 2
    assert "no such file" in faults[1 - ("file/out" in faults[1])]
    assert any("file/out" in line and "make it writable" in line for line in faults)


def test_a_job_that_is_wrong_is_one_line(tmp_path):
    done = command.nucleiflow("doctor", tmp_path / "none.yaml")
    assert (done.code, done.out) == (2, "")
    assert "none.yaml cannot be read" in done.line


def test_where_there_is_no_gpu_the_doctor_says_so(small_slide, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    content = {"slides": [str(small_slide)], "out": str(tmp_path / "out")}
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps({**content, "cluster": {"kind": "gpu", "gpus": [0]}}))
    done = command.nucleiflow("doctor", path)
    assert done.code == 2
    assert "no GPU here" in done.line or "GPU 0 was asked for" in done.line
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(daemons.missing() is not None, reason=str(daemons.missing()))
def test_slurm_jobs_are_examined_each(small_slide, tmp_path):
    chosen = {
        "kind": "slurm", "workers": 2, "device": "cpu", "cores": 1, "memory": "4 GB",
        "interface": "lo", "job_extra": ["--gres=gpu:1"], "log_folder": str(tmp_path / "logs"),
    }  # fmt: skip
    content = {"slides": [str(small_slide)], "out": str(tmp_path / "out"), "cluster": chosen}
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(content))
    with daemons.running(tmp_path / "slurm"):
        code, report = consult(path)
    assert report["faults"] == []
    assert code == 0
    assert sorted(one["cuda_visible_devices"] for one in report["workers"]) == ["0", "1"]
    assert len({one["tile"]["digest"] for one in report["workers"]}) == 1


# the judgement alone


def finding(**given):
    usual = {"host": "a", "process": 1, "given": None, "versions": {"numpy": "2"}}
    return Finding(**{**usual, "free_bytes": 10**10, "device": "CPU", **given})


def answered(maps):
    maps = np.asarray(maps, np.uint8)
    return Answer(maps.tobytes().hex(), 0.1, maps)


def judged(found, own=None, needs=None, skews=(), kind="local"):
    needs = needs or Needs()
    faults = diagnosis.faults(found, own or finding(), needs, dict(skews), kind=kind)
    return {one.text: one.who for one in faults}


def test_the_odd_answer_is_told_from_the_usual_one():
    usual, odd = answered([[100, 7]]), answered([[101, 7]])
    found = {name: finding(answer=usual) for name in "abc"} | {"d": finding(answer=odd)}
    ((text, who),) = judged(found, finding(answer=usual)).items()
    assert who == ("d",)
    assert "in 1 of 2 values, by at most 1 of 255" in text


def test_rounding_between_kinds_is_a_note_and_nonsense_a_fault():
    gpu = {"a": finding(device="A100", answer=answered([[100, 7]]))}
    near, far = finding(answer=answered([[102, 7]])), finding(answer=answered([[200, 7]]))
    assert judged(gpu, near) == {}
    (note,) = diagnosis.notes(gpu, near)
    assert "A100 rounds otherwise" in note
    ((text, who),) = judged(gpu, far).items()
    assert (who, "by at most 100 of 255" in text) == (("a",), True)
    assert diagnosis.notes(gpu, far) == []
    assert diagnosis.notes(gpu, finding(answer=answered([[100, 7]]))) == []


A100 = {"given": "0", "device": "A100"}


@pytest.mark.parametrize(
    ("one", "other", "kind", "shared"),
    [
        (A100, A100, "connect", True),
        (A100, {**A100, "given": "1"}, "gpu", False),
        (A100, {**A100, "host": "b"}, "connect", False),
        (A100, A100, "slurm", False),
        ({"given": "0"}, {"given": "0"}, "connect", False),
        ({"given": "0"}, {"given": "0"}, "gpu", True),
        ({}, {}, "gpu", False),
    ],
)
def test_two_workers_on_one_gpu_are_found(one, other, kind, shared):
    faults = judged({"x": finding(**one), "y": finding(**other)}, kind=kind)
    assert list(faults.values()) == ([("x", "y")] if shared else [])


def test_memory_counts_all_workers_of_a_machine_and_the_disk_once():
    found = {"x": finding(disk_bytes=5), "y": finding(disk_bytes=5), "z": finding(host="b")}
    assert judged(found, needs=Needs(5 * 10**9, 5)) == {}
    faults = judged(found, needs=Needs(6 * 10**9, 6))
    assert sorted(faults.values()) == [("x", "y"), ("x", "y")]
    assert any("2 workers on a may need 12.0 GB of the 10.0 GB" in text for text in faults)
    assert any("disk" in text for text in faults)


@pytest.mark.parametrize(("seconds", "wrong"), [(4.9, False), (-5.1, True), (3600.0, True)])
def test_clocks_may_differ_a_little(seconds, wrong):
    assert bool(judged({"x": finding()}, skews={"x": seconds})) == wrong


def test_a_fault_that_all_share_is_one_line():
    found = {name: finding(versions={"numpy": "1"}, faults=("no disk",)) for name in "xyz"}
    faults = judged(found, finding(faults=("no disk",)))
    assert faults["no disk"] == (diagnosis.HERE, "x", "y", "z")
    report = doctor.Report("local", found, {}, doctor.diagnosis.faults(
        found, finding(), Needs(), {}, kind="local"), [])  # fmt: skip
    assert "fault  all 3 workers: numpy is 1 there and 2 here" in report.text()
    assert report.text().endswith("2 faults")


def test_the_test_tile_has_nuclei_and_is_always_the_same():
    from nucleiflow.model import load

    model = load()
    first = checkup.answer(model.path, model.sha256, model.reach.stride_px)
    assert first.digest == checkup.answer(model.path, model.sha256, model.reach.stride_px).digest
    assert (first.maps.max(axis=(0, 1)) > 128).all()
    assert (first.maps.min(axis=(0, 1)) < 128).all()


def test_slides_are_spread_over_a_large_batch():
    wanted = list(range(1000))
    chosen = doctor._spread(wanted)
    assert len(chosen) == doctor.MOST_SLIDES == len(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] >= 950
    assert doctor._spread(wanted[:3]) == [0, 1, 2]


def test_a_worker_that_dies_of_the_examination_is_a_fault(monkeypatch):
    def deadly():
        return lambda: os._exit(3)

    with cluster.open(Cluster(workers=1), int, demand=lambda: 1) as client:
        (one,) = cluster.on_each(client, deadly(), timeout_seconds=60).values()
    assert "the worker died" in str(one)
