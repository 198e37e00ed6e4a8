"""Job files and flags: the same batch either way, every slip in one line, no trust in the text."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import command
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nucleiflow import config, jobfile, plainyaml, stain
from nucleiflow.config import Cluster, Failure, RunConfig
from nucleiflow.errors import ConfigError, SlideError
from nucleiflow.jobfile import Switches

JOBS = Path(__file__).parents[1] / "jobs"
WITHOUT_TRAINING = sorted(path for path in JOBS.glob("*.yaml") if "train" not in path.name)
SHORT = "slides: [a.svs]\nout: results\n"


def write(folder, text, name="job.yaml"):
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(text)
    return path


def load(folder, text, **environ):
    return jobfile.load(write(folder, text), environ=environ)


def refusal(folder, text, **environ):
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        jobfile.load(path, environ=environ)
    line = str(caught.value)
    assert line.startswith(f"job {path}: ")
    assert "\n" not in line
    return line.removeprefix(f"job {path}: ")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"no slide")


# what a job file says


def test_a_short_job_has_the_defaults(tmp_path):
    job = load(tmp_path, SHORT).job
    assert (job.cluster, job.failure) == (Cluster(), Failure())
    (one,) = jobfile.wanted(load(tmp_path, SHORT))
    assert (one.slide, one.name, one.config) == (str(tmp_path / "a.svs"), "a", RunConfig())


def test_what_stands_at_a_slide_goes_before_what_stands_for_all(tmp_path):
    loaded = load(
        tmp_path,
        """
        out: results
        mpp: 0.5
        channel: 0
        tiles: {tile_px: 512, halo_px: 96, level: 1, working_mpp: 0.3}
        tissue: {whole_slide: true}
        slides:
          - a.svs
          - {slide: b.svs, id: 007, mpp: 0.25, channel: DAPI, level: 0, whole_slide: false}
        """,
    )
    first, second = jobfile.wanted(loaded, Switches(retry_holes=True))
    common = {"tile_px": 512, "halo_px": 96, "working_mpp": 0.3, "retry_holes": True}
    assert first.config == RunConfig(mpp=0.5, channel="0", level=1, tissue_only=False, **common)
    assert second.config == RunConfig(mpp=0.25, channel="DAPI", level=0, **common)
    assert (first.name, second.name) == ("a", "007")


def test_paths_count_from_the_folder_of_the_file_that_has_them(tmp_path):
    write(tmp_path / "lists", "slide,model\n../slides/c.svs,m.keras\n", "slides.csv")
    loaded = load(
        tmp_path / "jobs",
        """
        slides: [../slides/a.svs, /data/b.svs]
        manifest: ../lists/slides.csv
        out: ../results
        model: my.keras
        cluster:
          kind: connect
          scheduler_file: ${STATE}/scheduler.json
          tls: {ca_file: ~/ca.pem, cert: cert.pem, key: key.pem}
        """,
        STATE="/state",
    )
    found = {one.slide: str(one.config.model) for one in jobfile.wanted(loaded)}
    assert found == {
        str(tmp_path / "slides" / "a.svs"): str(tmp_path / "jobs" / "my.keras"),
        "/data/b.svs": str(tmp_path / "jobs" / "my.keras"),
        str(tmp_path / "slides" / "c.svs"): str(tmp_path / "lists" / "m.keras"),
    }
    cluster = loaded.job.cluster
    assert loaded.job.out == str(tmp_path / "results")
    assert cluster.scheduler_file == Path("/state/scheduler.json")
    assert cluster.tls.ca_file == Path.home() / "ca.pem"
    assert cluster.tls.key == tmp_path / "jobs" / "key.pem"


def test_folders_and_patterns_become_slides_also_in_an_odd_folder(tmp_path):
    folder = tmp_path / "run [1]"
    touch(folder, "slides/b.svs", "slides/a.svs", "slides/notes.txt", "more/x1.tif", "more/y.tif")
    loaded = load(folder, "slides: [slides, {slide: 'more/x*.tif', stain: h&e}]\nout: results\n")
    found = [(one.name, one.config.stain) for one in jobfile.wanted(loaded)]
    assert found == [("a", None), ("b", None), ("x1", "h&e")]


def test_a_pattern_without_slides_is_an_error_and_a_missing_file_is_not(tmp_path):
    with pytest.raises(SlideError, match="matches no file"):
        jobfile.wanted(load(tmp_path, "slides: ['*.svs']\nout: results\n"))
    assert len(jobfile.wanted(load(tmp_path, SHORT))) == 1


def test_a_slide_named_twice_is_done_once_as_its_last_mention_says(tmp_path):
    touch(tmp_path, "s/a.svs", "s/b.svs", "s/c.svs")
    write(tmp_path, "slide,mpp\ns/b.svs,2\n", "list.csv")
    text = "slides: [s, {slide: s/a.svs, mpp: 1}]\nmanifest: list.csv\nout: results\n"
    found = {one.name: one.config.mpp for one in jobfile.wanted(load(tmp_path, text))}
    assert found == {"a": 1, "b": 2, "c": None}


def test_one_slide_may_have_two_outputs_by_two_ids(tmp_path):
    text = "slides: [{slide: a.svs, id: one}, {slide: a.svs, id: two, mpp: 1}]\nout: results\n"
    assert [one.name for one in jobfile.wanted(load(tmp_path, text))] == ["one", "two"]


def test_listed_slides_of_one_name_are_told_apart_as_ever(tmp_path):
    names = [
        one.name
        for one in jobfile.wanted(load(tmp_path, "slides: [x/a.svs, y/a.svs]\nout: results\n"))
    ]
    assert len({*names}) == 2
    assert all(re.fullmatch(r"a-[0-9a-f]{8}", name) for name in names)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("manifest: list.csv", "line 2 of the manifest and line 3 of the manifest"),
        ("slides: [{slide: a.svs, id: x}, {slide: b.svs, id: x}]", r"slides\[0\].*slides\[1\]"),
        ("slides: [{slide: z.svs, id: s}]\nmanifest: one.csv", r"slides\[0\].*line 2"),
    ],
)
def test_two_outputs_of_one_name_are_refused(tmp_path, text, says):
    write(tmp_path, "slide\nx/s.svs\ny/s.svs\n", "list.csv")
    write(tmp_path, "slide\nx/s.svs\n", "one.csv")
    loaded = load(tmp_path, f"{text}\nout: results\n")
    with pytest.raises(ConfigError, match=f"job .*: {says}.* another id"):
        jobfile.wanted(loaded)


def test_an_id_for_many_slides_is_refused(tmp_path):
    touch(tmp_path, "s/a.svs", "s/b.svs")
    loaded = load(tmp_path, "slides: [{slide: s, id: x}]\nout: results\n")
    with pytest.raises(ConfigError, match=r"slides\[0\]\.id is 'x', but .* is 2 slides"):
        jobfile.wanted(loaded)


def test_the_output_may_be_said_at_the_start(tmp_path):
    path = write(tmp_path, "slides: [a.svs]\n")
    assert jobfile.load(path, out="there").job.out == os.path.abspath("there")
    assert jobfile.load(path, out="s3://bucket/there").job.out == "s3://bucket/there"


def test_values_are_what_their_field_says_and_yaml_guesses_nothing(tmp_path):
    text = (
        "out: results\nslides: [{slide: 12, id: 0012, channel: no}]\n"
        "cluster: {kind: slurm, walltime: 12:30:00, queue: 2024, job_extra: [--nice]}\n"
    )
    job = load(tmp_path, text).job
    assert (job.slides[0].id, job.slides[0].channel) == ("0012", "no")
    assert (job.cluster.walltime, job.cluster.queue) == ("12:30:00", "2024")
    assert job.slides[0].slide == str(tmp_path / "12")


# slips of the pen


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tiles: {tilepx: 3}", "tiles.tilepx is not known: did you mean tiles.tile_px?"),
        ("slide: [a]", "slide is not known: did you mean slides?"),
        ("labels: {}", "labels is not known: use slides, manifest, out"),
        ("cluster: {gpu: [0]}", "cluster.gpu is not known: did you mean cluster.gpus?"),
        ("slides: [{slide: a, mmp: 1}]", "slides[0].mmp is not known: did you mean slides[0].mpp?"),
        ("tiles: {tile_px: big}", "tiles.tile_px is 'big': use a whole number"),
        ("tiles: {tile_px: true}", "tiles.tile_px is 'true': use a whole number"),
        ("tiles: {tile_px: 0}", "tiles.tile_px is '0': use more than 0"),
        ("tiles: 5", "tiles is '5': use keys and values"),
        ("tissue: {whole_slide: 7}", "tissue.whole_slide is '7': use true or false"),
        ("mpp: .nan", "mpp is '.nan': use a number"),
        ("stain: pink", "stain is 'pink': use one of fluorescence, brightfield, h&e"),
        ("slides: a.svs", "slides is 'a.svs': use a list"),
        ("slides: [{id: x}]", "slides[0].slide is missing"),
        ("slides: [[a]]", "slides[0] is a list of 1: use keys and values"),
        ("slides: [{slide: a, id: ../b}]", "slides[0].id is '../b': use a name for a folder"),
        ("slides: []", "no slides: give slides or manifest"),
        (
            "failure: {on_bad_tile: cry}",
            "failure.on_bad_tile is 'cry': use one of hole, fail-slide",
        ),
        ("failure: {retries: -1}", "failure.retries is '-1': use at least 0"),
        ("failure: {pause_seconds: 601}", "use at most 600"),
        ("cluster: {kind: moon}", "cluster.kind is 'moon': use one of serial, local, gpu, slurm"),
        ("cluster: {memory_limit: much}", "cluster.memory_limit is 'much': use a size such as"),
        ("out: ${NOWHERE}/x", "${NOWHERE} is not set in the environment: export NOWHERE="),
        ("out: ftp://host/x", "ftp:// is not supported"),
        ('out: "a\\0b"', "without control characters"),
    ],
)
def test_a_slip_is_told_with_its_key_and_the_way_out(tmp_path, text, says):
    key = text.partition(":")[0]
    others = "".join(f"{line}\n" for line in SHORT.splitlines() if not line.startswith(f"{key}:"))
    assert says in refusal(tmp_path, f"{others}{text}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slides: [a.svs]", "out is missing"),
        ("", "use keys and values"),
        ("- a.svs", "use keys and values"),
        ("just text", "use keys and values"),
        (SHORT + "manifest: nowhere.csv", None),
    ],
)
def test_half_a_job_is_refused(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=says or "manifest .*nowhere.csv cannot be read"):
        jobfile.load(path)


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ("gpus: [0]", "cluster.gpus is for cluster.kind gpu, not local"),
        ("queue: gpu", "cluster.queue is for cluster.kind slurm, not local"),
        ("{kind: serial, workers: 2}", "cluster.workers is for cluster.kind local or gpu or slurm"),
        ("kind: connect", "say to which scheduler, by cluster.scheduler_address or cluster.sched"),
        ("{kind: connect, scheduler_file: a, scheduler_address: h:1}", "are both given"),
        ("{kind: slurm, allow_plain: true}", "cluster.allow_plain is for cluster.kind connect"),
        (
            "{kind: slurm, memory_limit: 1GB}",
            "cluster.memory_limit is for cluster.kind local or gpu",
        ),
        ("{kind: connect, scheduler_address: host}", "use tls://HOST:PORT"),
        ("{kind: connect, scheduler_file: a, workers: 3}", "cluster.workers is for"),
        ("{kind: gpu, gpus: [0, 0]}", "cluster.gpus is a list of 2: use each GPU once"),
        ("{kind: gpu, gpus: []}", "use each GPU once"),
        ("{kind: gpu, gpus: [0, 1], workers: 3}", "cluster.workers is 3, but cluster.gpus names 2"),
        ("{kind: gpu, gpus: [-1]}", "cluster.gpus[0] is '-1': use at least 0"),
        ("{kind: slurm, walltime: 4h}", "cluster.walltime is '4h': use HH:MM:SS"),
        ("{kind: slurm, job_extra: [gres]}", "use options of sbatch"),
        ('{kind: slurm, job_extra: ["--a\\nrm"]}', "use one line"),
        ("{kind: slurm, tls: {ca_file: a}}", "cluster.tls.cert is missing"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, cluster, says):
    text = cluster if cluster.startswith("{") else f"{{{cluster}}}"
    assert says in refusal(tmp_path, f"{SHORT}cluster: {text}\n")


def test_a_cluster_survives_being_written_down():
    for kind in config.KINDS:
        given = {"scheduler_file": "s.json"} if kind == "connect" else {}
        cluster = Cluster(kind=kind, **given)
        assert Cluster.model_validate_json(cluster.model_dump_json()) == cluster


def test_the_stains_are_those_that_can_be_seen():
    assert get_args(config.StainName) == stain.STAINS


@pytest.mark.parametrize(
    "text",
    [
        "aws_secret_access_key: hunter2",
        "AWS_ACCESS_KEY_ID: hunter2",
        "cluster: {password: hunter2}",
        "slides: [{slide: a, token: hunter2}]",
        "out: s3://me:hunter2@bucket/x",
        "out: ${URL}",
        'cluster: {kind: slurm, job_prologue: ["export AWS_SECRET_ACCESS_KEY=hunter2"]}',
    ],
)
def test_credentials_are_refused_and_never_shown(tmp_path, text):
    key = text.partition(":")[0]
    others = "".join(f"{line}\n" for line in SHORT.splitlines() if not line.startswith(f"{key}:"))
    line = refusal(tmp_path, f"{others}{text}\n", URL="s3://me:hunter2@bucket/x")
    assert "credentials do not belong" in line
    assert "environment" in line
    assert "hunter2" not in line


# hostile text

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "more than 50,000 values"),
        ("[" * 100_000, "nested more than 16 deep"),
        ("\n".join(" " * n + f"k{n}:" for n in range(500)), "nested more than 16 deep"),
        ("a: &a [*a]", "line 1: *a is not known before"),
        ("out: 1\nout: 2", "line 2: 'out' is there twice"),
        ("tiles: {tile_px: 1, tile_px: 2}", "'tile_px' is there twice"),
        ("a: !!python/object/apply:os.system [ls]", "tags have no meaning"),
        ("a: !!int 5", "tags have no meaning"),
        ("[a]: 1", "a key must be a word"),
        ("? {a: b}\n: 1", "a key must be a word"),
        ("~: 1", "a key must be a word"),
        ("a: 1\n---\nb: 2", "several documents"),
        ("a: [1, 2", "is not YAML"),
        ("a: 'b", "is not YAML"),
        ("a: b: c", "line 1 is not YAML"),
        ("\tout: x", "is not YAML"),
        ("a: *b", "line 1: *b is not known"),
        ("a: \x07", "not YAML"),
        ("<<: {out: x}", "<< is not known"),
    ],
)
def test_hostile_text_is_refused_in_one_line(tmp_path, text, says):
    assert says in refusal(tmp_path, text)


def test_files_that_are_no_text_are_refused(tmp_path):
    big, raw = tmp_path / "big.yaml", tmp_path / "raw.yaml"
    big.write_text(SHORT + "#" * 1_000_001)
    raw.write_bytes(b"out: \xff\xfe")
    for path, says in (
        (big, "more than 1 MB"),
        (raw, "is not UTF-8"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "none.yaml", "cannot be read: No such file"),
        (Path("/dev/zero"), "more than 1 MB"),
    ):
        with pytest.raises(ConfigError, match=says):
            jobfile.load(path)


@given(
    st.text(max_size=80)
    | st.lists(
        st.sampled_from(
            ["&a", "*a", "[", "]", "{", "}", ":", "-", "?", "!", "|", ">", "\n", "a", "b"]
        )
    ).map("".join)
)
def test_no_text_does_anything_but_parse_or_be_refused(text):
    try:
        found = plainyaml.parse(text)
    except ConfigError as error:
        found = str(error).splitlines()[:1]
    assert found is None or isinstance(found, str | list | dict)


# flags


def flags(**given):
    return jobfile.of_flags(jobfile.nested({"out": "results", "slides": ["a.svs"], **given})).job


def test_every_key_of_a_job_file_is_a_flag_of_run():
    leaves = set()

    def collect(model, path):
        for key, field in model.model_fields.items():
            below = [
                one
                for one in (field.annotation, *get_args(field.annotation))
                if isinstance(one, type) and issubclass(one, config.Frozen)
            ]
            if below and key != "slides":
                collect(below[0], (*path, key))
            else:
                leaves.add(jobfile.flag((*path, key)))

    collect(jobfile.JobFile, ())
    done = command.nucleiflow("run", "--help")
    offered = set(re.findall(r"--[a-z][a-z-]+", done.out))
    assert leaves - {"--slide"} <= offered
    assert len(leaves) > 35


def test_flags_and_file_give_the_same_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
    slides: [a.svs]
    out: results
    stain: h&e
    tiles: {tile_px: 512, level: 0}
    tissue: {whole_slide: true}
    failure: {on_bad_tile: fail-slide, retries: 0}
    cluster: {kind: slurm, workers: 3, queue: q, job_extra: [--nice, --exclusive],
              tls: {ca_file: a, cert: b, key: c}}
    """
    there = str(tmp_path)
    by_flags = flags(
        out=f"{there}/results",
        slides=(f"{there}/a.svs",),
        stain="h&e",
        tile_px=512,
        level=0,
        whole_slide=True,
        retries=0,
        on_bad_tile="fail-slide",
        cluster="slurm",
        workers=3,
        queue="q",
        tls_ca_file=f"{there}/a",
        tls_cert=f"{there}/b",
        tls_key=Path(there, "c"),
        job_extra=["--nice", "--exclusive"],
        mpp=None,
        allow_plain=False,
    )
    assert by_flags == load(tmp_path, text).job


def test_no_workers_is_this_process():
    assert flags(workers=0).cluster == Cluster(kind="serial")
    assert flags(workers=0, cluster="serial").cluster.kind == "serial"
    with pytest.raises(ConfigError, match=r"--workers 0 .* --cluster gpu"):
        flags(workers=0, cluster="gpu")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gpus", "0"), "--gpus is for --cluster gpu, not local"),
        (("--cluster", "gpu", "--gpus", "0,x"), "--gpus is 'x': use a whole number"),
        (("--cluster", "connect"), "by --scheduler-address or --scheduler-file"),
        (("--queue", "q"), "--queue is for --cluster slurm, not local"),
        (("--tls-key", "k"), "--tls-ca-file is missing"),
        (("--retries", 99), "--retries is 99: use at most 20"),
        (("--cluster", "moon"), "--cluster is 'moon': use one of serial"),
        (("--manifest", "nowhere.csv"), "manifest nowhere.csv cannot be read"),
    ],
)
def test_a_wrong_flag_is_told_by_its_name(tmp_path, options, says):
    done = command.nucleiflow("run", "a.svs", "--out", tmp_path / "out", *options)
    assert done.code == 2
    assert says in done.line
    assert not (tmp_path / "out").exists()


def test_the_record_of_a_job_is_plain_and_whole(tmp_path):
    write(tmp_path, "slide\nb.svs\n", "list.csv")
    record = load(tmp_path, SHORT + "manifest: list.csv\n").as_json()
    assert json.loads(json.dumps(record)) == record
    assert record["file"]["path"] == str(tmp_path / "job.yaml")
    assert len(record["file"]["sha256"]) == len(record["manifest_file"]["sha256"]) == 64
    again = jobfile.JobFile.model_validate(record["options"])
    assert again == load(tmp_path, SHORT + "manifest: list.csv\n").job


# the jobs that people copy


@pytest.mark.parametrize("path", WITHOUT_TRAINING, ids=lambda path: path.stem)
def test_every_job_is_valid(path, tmp_path):
    shutil.copytree(JOBS, tmp_path / "jobs")
    copy = tmp_path / "jobs" / path.name
    job = jobfile.load(copy, environ={}).job
    kind = {"gpu-node": "gpu", "slurm": "slurm", "connect": "connect", "kubernetes": "connect"}
    assert job.cluster.kind == kind.get(path.stem, "local")
    assert not job.out.startswith(str(tmp_path / "jobs"))


def test_the_kinds_of_job_are_all_there():
    names = {"laptop", "gpu-node", "slurm", "connect", "kubernetes", "s3"}
    assert {path.stem for path in WITHOUT_TRAINING} == names


def test_the_example_manifest_names_three_slides(tmp_path):
    shutil.copytree(JOBS, tmp_path / "jobs")
    found = jobfile.wanted(jobfile.load(tmp_path / "jobs" / "slurm.yaml"))
    assert [one.name for one in found] == ["case-001", "case-002", "plate-7"]
    assert found[0].slide == str(tmp_path / "slides" / "case-001.svs")
    assert [one.config.stain for one in found] == [None, "h&e", "fluorescence"]


@pytest.fixture
def laptop(tmp_path, small_slide):
    """jobs/laptop.yaml as it is, in a folder with a slide where it looks for slides."""
    (tmp_path / "slides").mkdir()
    shutil.copy(small_slide, tmp_path / "slides" / small_slide.name)
    (tmp_path / "jobs").mkdir()
    return Path(shutil.copy(JOBS / "laptop.yaml", tmp_path / "jobs" / "laptop.yaml"))


def test_a_rehearsal_says_what_would_be_done_and_does_nothing(laptop, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = command.nucleiflow("submit", laptop, "--dry-run", "--json")
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said["job"]["options"]["out"] == str(tmp_path / "results")
    (one,) = said["slides"]
    assert (one["name"], one["plan"]["fatal"], one["plan"]["cost"]["tiles"]) == ("small", None, 1)
    text = command.nucleiflow("submit", laptop, "--dry-run").out
    assert "300 px" in text
    assert str(tmp_path / "results") in text
    assert sorted(tmp_path.rglob("*")) == before


def test_the_laptop_job_runs_and_equals_run(laptop, tmp_path, small_slide):
    done = command.outside("submit", laptop, "--json")
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err
    assert json.loads(done.out)["exit_code"] == 0
    record = json.loads((tmp_path / "results" / "batch.json").read_text())["job"]
    assert record["file"]["path"] == str(laptop)
    labels, _ = command.segment(small_slide, tmp_path / "by-flags")
    assert command.digest(command.labels(tmp_path / "results" / "small")) == command.digest(labels)


def test_a_manifest_runs_what_is_there_and_tells_what_is_not(tmp_path, small_slide):
    manifest = write(tmp_path, f"slide,id\n{small_slide},good\nmissing.tif,bad\n", "list.csv")
    options = ("--out", tmp_path / "out", "--workers", 0, "--json")
    done = command.nucleiflow("run", "--manifest", manifest, *options)
    assert done.code == 3
    good, bad = json.loads(done.out)["slides"]
    assert (good["status"], bad["status"]) == ("done", "failed")
    assert str(tmp_path / "missing.tif") in bad["reason"]
    assert (tmp_path / "out" / "good" / "run.json").exists()


# the sbatch script, on a machine without Slurm

NUCLEIFLOW = f"""#!{sys.executable}
import json, os, signal, sys, time
state = os.environ["STATE"]
if sys.argv[1] == "status":
    try:
        print(json.dumps({{"fraction": float(open(state + "/fraction").read())}}, indent=1))
    except OSError:
        sys.exit(2)
    sys.exit(0)
open(state + "/asked", "a").write(" ".join(sys.argv[1:]) + "\\n")
if "FRACTION" in os.environ:
    open(state + "/fraction", "w").write(os.environ["FRACTION"])
def stop(*_):
    time.sleep(0.5)
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
if os.environ["CODE"] == "wait":
    open(state + "/waiting", "w").close()
    time.sleep(60)
sys.exit(int(os.environ["CODE"]))
"""
SBATCH = f"""#!{sys.executable}
import os, sys
open(os.environ["STATE"] + "/submitted", "a").write(" ".join(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("SBATCH_CODE", 0)))
"""


@pytest.fixture
def script(tmp_path):
    """Starts jobs/submit.sbatch with stand-ins for nucleiflow and sbatch."""
    for name, text in (("nucleiflow", NUCLEIFLOW), ("sbatch", SBATCH)):
        path = write(tmp_path / "bin", text, name)
        path.chmod(0o755)

    def start(**environ):
        environ = {key: str(value) for key, value in environ.items()}
        return subprocess.Popen(
            ["bash", str(JOBS / "submit.sbatch")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "STATE": str(tmp_path),
                "SLURM_JOB_ID": "77",
                **environ,
            },
        )

    return start


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def ended(process):
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(("code", "says"), [(0, "done"), (2, "fault"), (3, "failed"), (4, "holes")])
def test_the_script_ends_where_going_on_would_not_help(script, tmp_path, code, says):
    left, said = ended(script(CODE=code))
    assert left == code
    assert says in said
    assert lines(tmp_path / "asked") == ["submit jobs/slurm.yaml --out results"]
    assert lines(tmp_path / "submitted") == []


@pytest.mark.parametrize("code", [1, 130, 137])
def test_the_script_goes_on_after_anything_else(script, tmp_path, code):
    left, _ = ended(script(CODE=code, FRACTION=0.25, NUCLEIFLOW_IDLE=2))
    (submitted,) = lines(tmp_path / "submitted")
    assert left == 0
    assert submitted.startswith(
        "--dependency=afterany:77 --export=ALL,NUCLEIFLOW_IDLE=0,NUCLEIFLOW_BEST=0.25 "
    )
    assert submitted.endswith("submit.sbatch")


def test_the_script_gives_up_when_nothing_comes_of_it(script, tmp_path):
    state = {"NUCLEIFLOW_BEST": 0.25}
    assert ended(script(CODE=1, FRACTION=0.25, **state))[0] == 0
    assert ended(script(CODE=1, FRACTION=0.1, NUCLEIFLOW_IDLE=1, **state))[0] == 0
    assert ended(script(CODE=1, FRACTION=0.2, NUCLEIFLOW_IDLE=2, **state))[0] == 1
    told = [line.split()[1].removeprefix("--export=ALL,") for line in lines(tmp_path / "submitted")]
    assert told == [f"NUCLEIFLOW_IDLE={idle},NUCLEIFLOW_BEST=0.25" for idle in (1, 2)]


def test_a_run_that_never_began_counts_as_nothing_done(script, tmp_path):
    assert ended(script(CODE=1))[0] == 0
    assert "NUCLEIFLOW_IDLE=1,NUCLEIFLOW_BEST=0 " in lines(tmp_path / "submitted")[0]


def test_the_script_says_so_when_it_cannot_go_on(script):
    left, said = ended(script(CODE=1, FRACTION=0.5, SBATCH_CODE=1))
    assert left == 1
    assert "by hand" in said


def test_at_walltime_the_run_is_stopped_and_waited_for(script, tmp_path):
    process = script(CODE="wait", FRACTION=0.5)
    while not (tmp_path / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    left, said = ended(process)
    assert left == 0
    assert "exit code 130" in said, "the run was waited for"
    assert len(lines(tmp_path / "submitted")) == 1


def test_the_options_of_sbatch_come_before_any_command():
    told = [line for line in (JOBS / "submit.sbatch").read_text().splitlines() if line]
    first = next(number for number, line in enumerate(told) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in told[first:])


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_the_script_is_clean():
    subprocess.run(["shellcheck", JOBS / "submit.sbatch"], check=True)
