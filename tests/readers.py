"""Environments of their own for readers whose requirements are not ours; made once per checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WANTED = {
    # it pins dask and pandas below ours, and its 0.7.3 cannot even write a table of anndata 0.13
    "spatialdata": ["spatialdata==0.7.*", "anndata<0.13"],
}


def python(reader):
    """The interpreter that has `reader`; skips the test where it cannot be installed."""
    wanted = WANTED[reader]
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    folder = ROOT / f".venv-readers-{reader}-{version}"
    complete = folder / ".complete"
    if not complete.exists() or complete.read_text() != " ".join(wanted):
        _make(folder, wanted)
        complete.write_text(" ".join(wanted))
    return folder / "bin" / "python"


def _make(folder, wanted):
    made = _call(sys.executable, "-m", "venv", "--clear", folder)
    if made.returncode:
        pytest.skip(f"no environment for {wanted}: {made.stderr[-300:]}")
    done = _call(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted)
    if done.returncode:
        pytest.skip(f"pip cannot install {wanted}: {done.stderr[-300:]}")


def run(reader, script, *arguments):
    """Run a script in the environment of `reader`."""
    done = _call(python(reader), script, *map(str, arguments))
    assert done.returncode == 0, done.stderr[-3000:]


def _call(*command):
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=_environment(), timeout=570
    )


def _environment():
    """Ours, without what would lead back into our own environment."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS"}
    return {name: value for name, value in os.environ.items() if name not in ours}
