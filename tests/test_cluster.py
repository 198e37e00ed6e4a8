"""Workers that are what was asked for, from first to last, or one line that says why not."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import foreign
import psutil
import pytest
from dask.utils import key_split
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from nucleiflow import cluster, forgetful, gpus, inference, kinds, secure, shape
from nucleiflow.config import Cluster, Tls
from nucleiflow.errors import ConfigError, ModelError, RunError
from nucleiflow.roster import Roster

PATIENCE_SECONDS = 90


def opened(chosen, prepare=None):
    return cluster.open(chosen, prepare or (lambda: None), demand=lambda: 2)


def fails(chosen, error, match, prepare=None):
    with pytest.raises(error, match=match) as caught, opened(chosen, prepare):
        pass
    assert "\n" not in str(caught.value)


def ask(client, task):
    found = cluster.on_each(client, task, timeout_seconds=60)
    wrong = [one for one in found.values() if isinstance(one, Exception)]
    assert not wrong
    return found


def identity():
    return lambda: (os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def await_workers(client, holds):
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds(cluster.workers(client)):
        assert time.monotonic() < until
        time.sleep(0.1)


def note_in(folder):
    """A `prepare` that leaves a file named by its process, at each call."""

    def prepare():
        with (folder / str(os.getpid())).open("a") as file:
            file.write("x")

    return prepare


def test_the_profiler_which_can_lock_a_worker_up_is_off(tmp_path):
    def known(client):
        def callbacks(dask_worker):
            return sorted(dask_worker.periodic_callbacks)

        return {name for names in client.run(callbacks).values() for name in names}

    with opened(Cluster(workers=1)) as client:
        assert "profile" not in known(client) >= {"heartbeat"}
    with existing(tmp_path) as file, Client(scheduler_file=str(file)) as seen:
        seen.wait_for_workers(1, timeout=60)
        assert "profile" in known(seen)
        with opened(Cluster(kind="connect", scheduler_file=file)) as client:
            assert "profile" not in known(client) >= {"heartbeat"}


def test_clocks_of_idle_processes_tick_once_a_second():
    def milliseconds(dask_worker):
        return dask_worker.periodic_callbacks["tick"].callback_time

    with opened(Cluster(workers=1)) as client:
        assert set(client.run(milliseconds).values()) == {1000}


def test_libraries_say_nothing_of_their_own_and_have_their_levels_back():
    def levels():
        known = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
        return {one.name: one.level for one in known if one.name.startswith("distributed")}

    before = levels()
    with opened(Cluster(workers=1)):
        heard = [logging.getLogger(name) for name in ["distributed", *levels()]]
        assert logging.getLogger("distributed.client") in heard
        assert [one.name for one in heard if one.isEnabledFor(logging.ERROR)] == []
    assert levels().items() >= before.items()


def test_local_workers_are_prepared_once_each_and_bound_to_loopback(tmp_path):
    with opened(Cluster(workers=2, threads=3), note_in(tmp_path)) as client:
        known = cluster.workers(client)
        assert list(known.values()) == [3, 3]
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        for process in ours:
            listens = [one for one in process.net_connections() if one.status == "LISTEN"]
            assert {one.laddr.ip for one in listens} <= {"127.0.0.1"}, process.cmdline()
        assert cluster.dashboard(client).startswith("http://127.0.0.1:")
        pids = {str(pid) for pid, _ in ask(client, identity()).values()}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(pids, "x")


def test_the_scheduler_does_not_remember_every_task(monkeypatch):
    monkeypatch.setattr(forgetful, "EVERY", 50)
    key_split.cache_clear()
    with opened(Cluster(workers=1)) as client:
        for number in range(300):
            client.submit(identity(), key=("tiles", number)).result()
        assert key_split.cache_info().currsize < 150


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tornado's socket
def test_the_dashboard_is_where_it_is_said_to_be_and_gives_way(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with opened(Cluster(workers=1, dashboard=f":{port}")) as client:
            address = cluster.dashboard(client)
            assert address.startswith("http://127.0.0.1:")
            assert f":{port}/" not in address
    with opened(Cluster(workers=1, dashboard=f":{port}")) as client:
        assert cluster.dashboard(client) == f"http://127.0.0.1:{port}/status"
        listens = [
            one.laddr.ip
            for one in psutil.Process().net_connections()
            if one.status == "LISTEN" and one.laddr.port == port
        ]
        assert listens == ["127.0.0.1"]
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert cluster.dashboard(client) is None, "without bokeh there is nothing to see"


def test_workers_come_back_prepared_however_often_they_are_killed(tmp_path):
    with opened(Cluster(workers=1), note_in(tmp_path)) as client:
        for _ in range(4):
            ((worker, (pid, _)),) = ask(client, identity()).items()
            os.kill(pid, signal.SIGKILL)
            await_workers(client, lambda known, gone=worker: known and gone not in known)
        ((pid, _),) = ask(client, identity()).values()
        assert (tmp_path / str(pid)).read_text() == "x"
    assert len(list(tmp_path.iterdir())) == 5


def test_each_gpu_has_a_worker_that_keeps_it_through_a_restart():
    chosen = Cluster(kind="gpu", device="cpu", gpus=(3, 1))
    with opened(chosen) as client:
        before = ask(client, identity())
        assert sorted(gpu for _, gpu in before.values()) == ["1", "3"]
        gone, (pid, _) = next(iter(before.items()))
        os.kill(pid, signal.SIGKILL)
        await_workers(client, lambda known: len(known) == 2 and gone not in known)
        assert sorted(gpu for _, gpu in ask(client, identity()).values()) == ["1", "3"]
        assert set(cluster.workers(client).values()) == {shape.of(chosen).threads}


def test_a_gpu_that_tensorflow_does_not_see_is_never_replaced_by_the_cpu():
    chosen = Cluster(kind="gpu", device="cpu", gpus=(7,))
    where = f"worker on {socket.gethostname()} was given GPU 7 but TensorFlow sees none"
    fails(chosen, RunError, where, partial(inference.use, "gpu", 1))
    fails(Cluster(kind="gpu", gpus=(0,)), ConfigError, r"no GPU here|GPU 0 was asked for")


def test_without_a_gpu_the_kind_gpu_does_not_start(monkeypatch):
    monkeypatch.setattr(gpus, "found", tuple)
    fails(Cluster(kind="gpu"), ConfigError, "no GPU to use")
    fails(Cluster(kind="gpu", gpus=(1,)), ConfigError, "GPU 1 was asked for and is not there")


def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(gpus, "found", lambda: THERE)
    monkeypatch.setenv(gpus.VARIABLE, "2,1")
    fails(Cluster(kind="gpu", workers=3), ConfigError, r"there are 2 GPUs to use \(2, 1\)")


def test_a_worker_that_cannot_begin_ends_the_run_with_its_error():
    def broken():
        raise ModelError("model x.keras has digest 1234, but 5678 was asked for")

    began = psutil.Process().children(recursive=True)
    fails(Cluster(workers=2), ModelError, r"^model x\.keras has digest 1234", broken)
    left = [one for one in psutil.Process().children(recursive=True) if one not in began]
    ways = "spawn_main", "forkserver"
    assert [one for one in left if any(way in " ".join(one.cmdline()) for way in ways)] == []


def test_a_worker_that_cannot_begin_again_gives_up_its_place_and_the_last_one_ends_the_run(
    tmp_path,
):
    def broken_later():
        (tmp_path / str(os.getpid())).touch()
        if len(list(tmp_path.iterdir())) > 2:
            raise RunError("worker lost its GPU: look at dmesg")

    with opened(Cluster(workers=2), broken_later) as client:
        (first, (pid, _)), (second, (other, _)) = ask(client, identity()).items()
        os.kill(pid, signal.SIGKILL)
        await_workers(client, lambda known: set(known) == {second})
        time.sleep(2)
        assert set(cluster.workers(client)) == {second}
        assert set(ask(client, identity())) == {second}, f"{first} takes no tiles"
        os.kill(other, signal.SIGKILL)
        with pytest.raises(RunError, match="worker lost its GPU"):
            await_workers(client, lambda known: False)


def test_a_batch_system_forgives_a_place_after_a_while():
    roster = Roster(2, penalty_seconds=0.2)
    roster.failed("a", RunError("one"))
    assert roster.left == 1
    roster.failed("a", RunError("one again"))
    assert roster.left == 1
    roster.failed("b", RunError("two"))
    with pytest.raises(RunError, match="two"):
        roster.check()
    time.sleep(0.25)
    assert roster.left == 2
    roster.check()


def test_an_error_of_the_run_closes_the_workers():
    with contextlib.suppress(ZeroDivisionError), opened(Cluster(workers=1)) as client:
        ((pid, _),) = ask(client, identity()).values()
        raise ZeroDivisionError
    assert not psutil.pid_exists(pid)


SCRIPT = """
    import os, time
    from nucleiflow import cluster
    from nucleiflow.config import Cluster

    if __name__ == "__main__":
        try:
            with cluster.open(Cluster(workers=2), int, demand=lambda: 2) as client:
                flying = client.map(time.sleep, [60] * 8, pure=False)
                print("ready", flush=True)
                time.sleep(60)
        except KeyboardInterrupt:
            print("stopped")
"""


@pytest.mark.parametrize("to_all", [True, False])
def test_ctrl_c_closes_without_a_word(tmp_path, to_all):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], start_new_session=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        family = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
    assert psutil.wait_procs(family, timeout=10)[1] == []


# an existing scheduler


@contextlib.contextmanager
def existing(folder, *, tls=None, workers=1):
    with foreign.scheduler(folder, tls=tls) as worker:
        for number in range(workers):
            worker(f"w{number}")
        yield folder / "scheduler.json"


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    from distributed import Security

    folder = tmp_path_factory.mktemp("tls")
    made = Security.temporary().get_tls_config_for_role("client")
    for name in ("ca_file", "cert", "key"):
        (folder / name).write_text(made[name])
    return Tls(ca_file=folder / "ca_file", cert=folder / "cert", key=folder / "key")


def test_an_existing_scheduler_is_left_as_it_was(tmp_path):
    with existing(tmp_path) as file:
        chosen = Cluster(kind="connect", scheduler_file=file)
        notes = [tmp_path / "one", tmp_path / "two"]
        pids = set()
        for note in notes:
            note.mkdir()
            with opened(chosen, note_in(note)) as client:
                pids |= {pid for pid, _ in ask(client, identity()).values()}
                assert len(client.run_on_scheduler(plugins())) == 1
        assert len(pids) == 1
        assert [path.name for note in notes for path in note.iterdir()] == [str(*pids)] * 2
        with opened(chosen) as client:
            assert len(client.run_on_scheduler(plugins())) == 1

        def no_good():
            raise ModelError("no good")

        fails(chosen, ModelError, "no good", no_good)
        with opened(chosen) as client:
            assert {pid for pid, _ in ask(client, identity()).values()} == pids


def plugins():
    def ours(dask_scheduler):
        return [name for name in dask_scheduler.worker_plugins if name.startswith("nucleiflow")]

    return ours


def test_a_foreign_worker_that_joins_broken_gets_no_tiles_and_stays(tmp_path):
    def breaks():
        if "BROKEN" in os.environ:
            raise RunError("worker is broken: mend it")

    with foreign.scheduler(tmp_path) as worker:
        sound = worker("sound")
        chosen = Cluster(kind="connect", scheduler_file=tmp_path / "scheduler.json")
        with opened(chosen, breaks) as client:
            before = cluster.workers(client)
            worker("broken", BROKEN="1")
            client.wait_for_workers(2, timeout=60)
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert cluster.workers(client) == before
                time.sleep(0.1)
            sound.kill()
            with pytest.raises(RunError, match="worker is broken: mend it"):
                await_workers(client, lambda known: False)
            assert len(client.nthreads()) == 1, "it belongs to somebody else"
        fails(chosen, RunError, "worker is broken: mend it", breaks)


def test_an_encrypted_scheduler_wants_certificates(tmp_path, tls):
    with existing(tmp_path, tls=tls) as file:
        with opened(Cluster(kind="connect", scheduler_file=file, tls=tls)) as client:
            assert client.scheduler.address.startswith("tls://")
            assert all(name.startswith("tls://") for name in cluster.workers(client))
        fails(Cluster(kind="connect", scheduler_file=file), ConfigError, "needs certificates")
        plain = tmp_path / "plain.json"
        plain.write_text(file.read_text().replace("tls://", "tcp://"))
        fails(Cluster(kind="connect", scheduler_file=plain), RunError, "does not answer")
        fails(
            Cluster(kind="connect", scheduler_file=plain, tls=tls), ConfigError, "is not encrypted"
        )


@pytest.mark.parametrize(
    "address", ["tcp://192.0.2.1:8786", "tcp://scheduler.example:8786", "tcp://10.0.0.7:8786"]
)
def test_what_anybody_could_hear_is_refused(address, tmp_path):
    fails(Cluster(kind="connect", scheduler_address=address), ConfigError, "so that anybody")
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    fails(Cluster(kind="connect", scheduler_file=file), ConfigError, "so that anybody")


def test_plain_is_possible_on_purpose_and_lost_certificates_are_named(tls):
    there = "tcp://scheduler.example:8786"
    allowed = Cluster(kind="connect", scheduler_address=there, allow_plain=True)
    assert secure.address(allowed) == there
    lost = tls.model_copy(update={"key": Path("gone.pem")})
    fails(
        Cluster(kind="connect", scheduler_address="tls://a:1", tls=lost),
        ConfigError,
        r"cluster\.tls\.key is gone\.pem",
    )


@pytest.mark.parametrize("listens", [True, False])
def test_a_scheduler_that_does_not_answer_is_one_line(listens, monkeypatch):
    monkeypatch.setattr(kinds, "CONNECT_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        chosen = Cluster(kind="connect", scheduler_address=address)
        fails(chosen, RunError, f"scheduler at {address} does not answer")


def test_a_scheduler_without_workers_is_one_line(tmp_path):
    with existing(tmp_path, workers=0) as file:
        chosen = Cluster(kind="connect", scheduler_file=file, wait_minutes=0.02)
        fails(chosen, RunError, "the scheduler has no workers")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "{'"])
def test_a_bad_scheduler_file_is_one_line(tmp_path, content):
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    fails(Cluster(kind="connect", scheduler_file=file), ConfigError, "scheduler_file")


# sizes and GPUs


def test_what_a_worker_must_have_follows_from_the_kind():
    chosen = [Cluster(kind=kind) for kind in ("local", "gpu", "slurm")]
    chosen.append(Cluster(kind="connect", scheduler_file=Path("scheduler.json")))
    assert [shape.device(one) for one in chosen] == ["cpu", "gpu", "gpu", "auto"]
    assert shape.device(Cluster(kind="slurm", device="cpu")) == "cpu"
    with pytest.raises(ConfigError, match="use kind gpu"):
        shape.of(Cluster(device="gpu"))


THERE = [gpus.Gpu(str(n), f"GPU-{n}{n}aa", "A100") for n in range(3)] + [
    gpus.Gpu("MIG-5", "MIG-5", "A100 (a slice)")
]


@pytest.mark.parametrize(
    ("asked", "visible", "expected"),
    [
        (None, None, ("0", "1", "2", "MIG-5")),
        (None, "2,0", ("2", "0")),
        (None, "1, GPU-00aa,MIG-5", ("1", "GPU-00aa", "MIG-5")),
        (None, "GPU-2", ("GPU-2",)),
        (None, "1,9,0", ("1",)),
        ((2, 0), None, ("2", "0")),
        ((0,), "GPU-11aa,GPU-00aa", ("GPU-00aa",)),
    ],
)
def test_gpus_are_named_as_cuda_takes_them(asked, visible, expected):
    assert gpus.choose(asked, THERE, visible=visible) == expected


@pytest.mark.parametrize(
    ("asked", "visible", "match"),
    [
        ((3,), None, r"GPU 3 .* not there \(there: 0 \(A100\), 1"),
        ((0, 1), "1,2", "GPU 0 .* CUDA_VISIBLE_DEVICES allows 1,2"),
        (None, "", "CUDA_VISIBLE_DEVICES allows none"),
        (None, "-1", "no GPU to use"),
        ((0,), "", "GPU 0 was asked for"),
    ],
)
def test_gpus_that_are_not_there_are_an_error_that_says_what_is(asked, visible, match):
    with pytest.raises(ConfigError, match=match):
        gpus.choose(asked, THERE, visible=visible)


@given(st.sets(st.integers(0, 5), min_size=1), st.sets(st.integers(0, 5)))
def test_what_is_chosen_was_asked_for_and_allowed(asked, allowed):
    there = [gpus.Gpu(str(n), f"GPU-{n}", "A") for n in range(6)]
    visible = ",".join(map(str, sorted(allowed)))
    try:
        names = gpus.choose(sorted(asked), there, visible=visible)
    except ConfigError:
        assert not asked <= allowed
    else:
        assert list(map(int, names)) == sorted(asked)
        assert asked <= allowed


def test_nvml_is_asked_for_gpus_and_slices(monkeypatch):
    """No GPU here: NVML's functions, by their own names, answer for a machine that has three."""
    import pynvml

    def mig_mode(device):
        if device == 2:
            raise pynvml.NVMLError_NotSupported
        return (pynvml.NVML_DEVICE_MIG_ENABLE if device == 1 else 0), 0

    def mig_slice(device, index):
        if index == 1:
            raise pynvml.NVMLError_NotFound
        return f"{device}.{index}"

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetName": lambda device: "A100",
        "nvmlDeviceGetUUID": lambda device: f"UUID-{device}",
        "nvmlDeviceGetMigMode": mig_mode,
        "nvmlDeviceGetMaxMigDeviceCount": lambda device: 3,
        "nvmlDeviceGetMigDeviceHandleByIndex": mig_slice,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert [gpu.name for gpu in gpus.found()] == ["0", "UUID-1.0", "UUID-1.2", "2"]
    monkeypatch.setenv(gpus.VARIABLE, "UUID-1.2,2")
    assert gpus.chosen(None) == ("UUID-1.2", "2")
    assert shape.of(Cluster(kind="gpu")).workers == 2


def test_without_nvml_s_package_gpus_are_taken_as_named_or_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    assert gpus.chosen((2, 0)) == ("2", "0")
    with pytest.raises(ConfigError, match=r"pip install 'nucleiflow\[gpu\]', or name them"):
        gpus.chosen(None)
    monkeypatch.setenv(gpus.VARIABLE, "0")
    with pytest.raises(ConfigError, match="GPU 2 was asked for"):
        gpus.chosen((2, 0))


@pytest.mark.parametrize(("cores", "threads"), [(1, 4), (8, 8), (64, 16)])
def test_a_gpu_has_a_thread_for_each_of_its_cores(cores, threads, monkeypatch):
    monkeypatch.setattr(shape, "_cores", lambda: 2 * cores)
    chosen = Cluster(kind="gpu", device="cpu", gpus=(0, 1))
    assert shape.of(chosen).threads == threads
    job = Cluster(kind="slurm", workers=2, cores=cores)
    assert shape.of(job).threads == threads
    assert shape.of(job.model_copy(update={"threads": 3})).threads == 3


@pytest.mark.parametrize(
    ("cores", "free_gb", "chosen", "size"),
    [
        (8, 64, {}, shape.Size(2, 3, 4, 2)),
        (8, 64, {"workers": 1, "threads": 5}, shape.Size(1, 5, 8, 2)),
        (1, 64, {}, shape.Size(1, 2, 1, 1)),
        (8, 8, {}, shape.Size(2, 2, 4, 1)),
        (8, 64, {"memory_limit": "4 GB"}, shape.Size(2, 2, 4, 1)),
        (8, 8, {"memory_limit": "16 GB"}, shape.Size(2, 2, 4, 1)),
        (1, 1, {"kind": "slurm", "workers": 3, "device": "cpu"}, shape.Size(3, 3, 8, 2)),
        (9, 64, {"kind": "slurm", "workers": 3, "device": "cpu", "memory": "4GB"},
         shape.Size(3, 2, 8, 1)),
    ],
)  # fmt: skip
def test_cores_compute_two_windows_at_once_if_there_is_memory(
    cores, free_gb, chosen, size, monkeypatch
):
    monkeypatch.setattr(shape, "_cores", lambda: cores)
    monkeypatch.setattr("nucleiflow.memory.free", lambda: free_gb * 10**9)
    assert shape.of(Cluster(**chosen)) == size


def test_windows_that_share_the_cores_get_the_answers_of_one_alone():
    script = textwrap.dedent("""
        import sys
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        from nucleiflow import model, inference

        calls = int(sys.argv[1])
        inference.use("cpu", 2, calls)
        room = inference._Gate.room
        assert [room.acquire(blocking=False) for _ in range(3)] == [k < calls for k in range(3)]
        room.release(calls)
        known = model.load()
        predict = inference.predictor(known.path, known.sha256)
        noise = np.random.default_rng(0)
        windows = [noise.integers(0, 255, (224, side, 3), np.uint8) for side in (224, 320) * 4]
        with ThreadPoolExecutor(4) as threads:
            maps = threads.map(predict, windows)
            print([one.tobytes().hex() for one in maps])
    """)
    alone, together = (
        subprocess.run([sys.executable, "-c", script, calls], stdout=subprocess.PIPE, check=True)
        for calls in "12"
    )
    assert alone.stdout == together.stdout
    assert len(alone.stdout) > 8 * 224 * 224


def test_the_collector_leaves_alone_what_a_worker_has_loaded():
    script = (
        "import gc, numpy; from nucleiflow import heap; before = len(gc.get_objects())\n"
        "heap.settle(); print(before > 10_000 > 1_000 > len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"True\n"


def test_memory_of_large_arrays_is_kept():
    """Fresh pages are counted by the kernel: with `heap.keep` there are few of them."""
    script = (
        "import resource, sys; import numpy as np; from nucleiflow import heap\n"
        "kept = len(sys.argv) > 1 and heap.keep()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work(): np.ones(1 << 24, np.uint8)\n"
        "work(); before = faults()\n"
        "for _ in range(20): work()\n"
        "print(faults() - before)"
    )
    fresh, kept = (
        int(subprocess.run([sys.executable, "-c", script, *words], stdout=subprocess.PIPE,
                           check=True).stdout)
        for words in ([], ["keep"])
    )  # fmt: skip
    assert kept < fresh / 4
