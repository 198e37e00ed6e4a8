"""A real Slurm on this machine: one node of two processors and two GPUs that are not there."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "setpriv")
READY_SECONDS = 60
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldTimeout=60
SlurmdTimeout=60
InactiveLimit=0
KillWait=5
MinJobAge=300
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
GPUS = "NodeName={host} Name=gpu File={state}/gpu[0-1]\n"


def missing():
    """Why there can be no Slurm here; None if there can."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"no Slurm here ({', '.join(lacking)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    with tempfile.TemporaryDirectory() as folder:
        try:
            _make_gpu(Path(folder) / "gpu")
        except OSError as error:
            return f"no devices can be made here: {error.strerror}"
    return None


def _make_gpu(path):
    os.mknod(path, 0o20666, os.makedev(1, 3))  # as /dev/null


@contextlib.contextmanager
def running(state):
    """Daemons that keep everything in `state`; SLURM_CONF leads all commands to them."""
    _configure(state)
    with contextlib.ExitStack() as stack:
        stack.callback(_forget, os.environ.get("SLURM_CONF"))
        os.environ["SLURM_CONF"] = str(state / "slurm.conf")
        _munge(state, stack)
        stack.enter_context(_daemon(state, "slurmctld", "-D"))
        stack.enter_context(_daemon(state, "slurmd", "-D"))
        stack.callback(_scancel_all)
        _await(lambda: "idle" in _output("sinfo", "--noheader", "--format=%T"), state)
        yield


def _configure(state):
    for name in ("state", "spool"):
        (state / name).mkdir(parents=True)
    for number in range(2):
        _make_gpu(state / f"gpu{number}")
    facts = {
        "host": socket.gethostname().split(".")[0],
        "state": state,
        "controller": _free_port(),
        "node": _free_port(),
    }
    (state / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    (state / "gres.conf").write_text(GPUS.format(**facts))


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _munge(state, stack):
    """munged, unless one runs already; it wants its own user and a socket in /run."""
    if _answers("munge", "-n"):
        return
    Path("/run/munge").mkdir(mode=0o755, exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    user = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups")
    stack.enter_context(_daemon(state, *user, "munged", "--foreground"))
    _await(lambda: _answers("munge", "-n"), state)


@contextlib.contextmanager
def _daemon(state, *command):
    with (state / f"{command[-2]}.out").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _scancel_all():
    subprocess.run(["scancel", "--user", getpass.getuser()], check=False, capture_output=True)
    with contextlib.suppress(TimeoutError):
        _await(lambda: not jobs(), None)


def jobs():
    """Id -> state of every job that has not ended."""
    rows = _output("squeue", "--noheader", "--format=%i|%T").splitlines()
    return dict(row.split("|") for row in rows if "|" in row)


def _answers(*command):
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _output(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _await(holds, state):
    until = time.monotonic() + READY_SECONDS
    while not holds():
        if time.monotonic() > until:
            logs = state.glob("*.log") if state else ()
            tails = [f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs]
            raise TimeoutError("Slurm is not ready\n" + "\n".join(tails))
        time.sleep(0.2)


def _forget(before):
    os.environ.pop("SLURM_CONF", None)
    if before is not None:
        os.environ["SLURM_CONF"] = before
