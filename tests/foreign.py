"""A Dask scheduler and workers that somebody else started, by Dask's own commands."""

import contextlib
import json
import os
import subprocess
import sys
import time


@contextlib.contextmanager
def scheduler(folder, *, tls=None, allowed_failures=3):
    """Writes folder/scheduler.json; yields how to start a worker in surroundings of its own.

    `worker(name, *mounts, **env)`: what `mount --bind` is told, for this worker alone.
    """
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    flags = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
    if tls:
        flags += ["--tls-ca-file", tls.ca_file, "--tls-cert", tls.cert, "--tls-key", tls.key]
        flags += ["--protocol", "tls"]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "dask.log").open("w"))

        def start(*command, **env):
            whole = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **env}
            process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=whole)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        def worker(name, *mounts, **env):
            line = [*dask, "worker", "--nthreads", 1, "--name", name, "--no-nanny", *flags]
            if mounts:
                before = "".join(f"mount --bind {one} && " for one in mounts)
                line = ["unshare", "-m", "sh", "-c", before + 'exec "$@"', "sh", *line]
            return start(*line, **env)

        failures = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures)}
        start(*dask, "scheduler", "--port", 0, *flags, **failures)
        while not file.exists():
            time.sleep(0.1)
        yield worker


def await_workers(folder, count):
    """Name -> address, once so many are there."""
    from distributed import Client

    address = json.loads((folder / "scheduler.json").read_text())["address"]
    with Client(address) as client:
        client.wait_for_workers(count, timeout=60)
        return {info["name"]: name for name, info in client.scheduler_info()["workers"].items()}
