"""Slides and one finished run that many tests look at; none of them changes it."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command
import hypothesis
import numpy as np
import pytest

from nucleiflow import demo, showcase

# no test asserts a time: loops may have to be compiled first
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # started in the background by a script (`make test &`): processes of tests would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What is remembered on this machine, tests neither know nor change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def field():
    """Synthetic nuclei (1024, 1024) uint16, some of them on every 256th row and column."""
    return demo.make_slide(1024, seam_px=256)[0]


@pytest.fixture(scope="session")
def slide(field, tmp_path_factory):
    """An OME-TIFF of 700 x 900 px (height x width)."""
    path = tmp_path_factory.mktemp("slides") / "field.ome.tif"
    showcase.write_slide(path, field[:700, :900])
    return path


@pytest.fixture(scope="session")
def small_slide(field, tmp_path_factory):
    """An OME-TIFF of 300 x 400 px (height x width)."""
    path = tmp_path_factory.mktemp("slides") / "small.ome.tif"
    showcase.write_slide(path, field[:300, :400])
    return path


@dataclass(frozen=True)
class Run:
    folder: Path
    labels: np.ndarray
    word: dict[str, Any]


@pytest.fixture(scope="session")
def finished(slide, tmp_path_factory):
    """`slide`, segmented in this process in tiles of 256 px."""
    out = tmp_path_factory.mktemp("finished")
    labels, word = command.segment(slide, out, "--tile-px", 256)
    return Run(out / "field", labels, word)
