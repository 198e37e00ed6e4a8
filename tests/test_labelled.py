"""Labels of tiles as runs: drawn again in any window, they are those of the slide."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleiflow import grow, labelled, records
from nucleiflow.box import Box
from nucleiflow.errors import StoreError
from nucleiflow.plan import Grid
from nucleiflow.receptive import Reach


def job(folder, shape, tile_px):
    def record(stage, index):
        return folder / stage / f"{index}{records.SUFFIX}"

    return SimpleNamespace(grid=Grid(*shape, tile_px, Reach(0, 0, 1)), record=record)


def put(slide, labels):
    """All tiles that hold any nucleus."""
    for index in range(len(slide.grid)):
        parts = grow.parted(labels[slide.grid.core(index).slices()])
        if len(parts):
            labelled.put(slide, index, parts[:, :3], parts[:, 3].view(np.uint32))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_window_is_that_of_the_whole_slide(tmp_path_factory, data):
    with mock.patch.object(labelled, "SIDE_PX", data.draw(st.integers(0, 12))):
        check_window(tmp_path_factory, data)


def check_window(tmp_path_factory, data):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    labels = (rng.integers(0, 5, shape) * (rng.random(shape) < 0.6)).astype(np.uint32)
    slide = job(tmp_path_factory.mktemp("runs"), shape, data.draw(st.integers(3, 20)))
    put(slide, labels)
    y, x = (data.draw(st.integers(0, side - 1)) for side in shape)
    height, width = (
        data.draw(st.integers(1, side - at)) for side, at in zip(shape, (y, x), strict=True)
    )
    window = Box(y, x, y + height, x + width)
    np.testing.assert_array_equal(labelled.drawn(slide, window), labels[window.slices()])


def test_of_the_tiles_beside_only_the_sides_are_read(tmp_path, monkeypatch):
    labels = np.arange(1, 90_001, dtype=np.uint32).reshape(300, 300)
    slide = job(tmp_path, labels.shape, 150)
    put(slide, labels)
    read, get = [], records.get_arrays
    monkeypatch.setattr(records, "get_arrays", lambda place: read.append(place) or get(place))
    for last, whole in ((214, 1), (215, 2)):
        read.clear()
        labelled.drawn(slide, Box(0, 0, last, 150))
        assert sum(place.parent.name == "parts" for place in read) == whole
    assert {place.stem for place in read} == {"0", "2"}


def test_large_tiles_and_labels_are_not_cut_off(tmp_path):
    labels = np.zeros((2, 70_000), np.uint32)
    labels[1, 66_000:69_000] = 2**31 - 1
    slide = job(tmp_path, labels.shape, 70_016)
    put(slide, labels)
    drawn = labelled.drawn(slide, Box(0, 65_000, 2, 70_000))
    np.testing.assert_array_equal(drawn, labels[:, 65_000:])


def test_a_damaged_record_is_told(tmp_path):
    slide = job(tmp_path, (8, 8), 8)
    put(slide, np.ones((8, 8), np.uint32))
    place = tmp_path / "sides" / "0.rec"
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(StoreError, match="damaged"):
        labelled.drawn(slide, Box(0, 0, 8, 8))
