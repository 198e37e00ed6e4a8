"""nucleiflow from Python: results as arrays, tables and pictures."""

import subprocess
import sys

import numpy as np
import pandas
import pytest

import nucleiflow as nf


@pytest.fixture(scope="module")
def result(small_slide, tmp_path_factory):
    return nf.segment(small_slide, out=tmp_path_factory.mktemp("api"), workers=0, quiet=True)


def test_labels_and_image_are_lazy_arrays(result):
    labels = result.labels
    assert labels.shape == (300, 400)
    assert labels.dtype == np.uint32
    assert not isinstance(labels, np.ndarray)
    assert result.image.shape == (1, 300, 400)
    assert len(np.unique(labels[:])) - 1 == result.run["nuclei"] > 10


def test_nuclei_are_a_table(result):
    nuclei = result.nuclei
    assert isinstance(nuclei, pandas.DataFrame)
    sizes = np.bincount(result.labels[:].ravel())[1:]
    np.testing.assert_array_equal(nuclei["area"], sizes)
    assert nuclei["label"].tolist() == list(range(1, len(sizes) + 1))


def test_show_gives_a_picture(result):
    assert result.show(region=(0, 0, 100, 200)).size == (200, 100)
    assert result.show().size == (400, 300)
    assert result.show(whole=True).size == (400, 300)


def test_nuclei_can_be_filled_by_a_measurement(result):
    nuclei = result.nuclei
    labels, pixels = result.labels[:], np.asarray(result.show(by="area"), float)
    plain = np.asarray(result.show(whole=True, by="area"), float)
    np.testing.assert_array_equal(pixels, plain)
    light = [pixels[labels == label].mean() for label in nuclei["label"]]
    assert np.corrcoef(light, nuclei["area"])[0, 1] > 0.8
    with pytest.raises(nf.NucleiflowError, match="no column 'size': use one of label, centroid-0"):
        result.show(by="size")


def test_its_name_says_what_it_is(result):
    assert f"{result.run['nuclei']:,} nuclei" in repr(result)
    assert (result.report).exists()


def test_what_is_done_is_not_done_again(result, small_slide):
    again = nf.segment(small_slide, out=result.folder.parent, workers=0, quiet=True)
    assert again.folder == result.folder
    assert again.run == result.run
    assert nf.load(result.folder.parent).run == result.run


def test_many_slides_give_many_results(result, small_slide, slide):
    out = result.folder.parent
    found = nf.segment_all([small_slide, slide], out=out, workers=0, quiet=True)
    assert [one.name for one in found] == ["small", "field"]


def test_a_bad_slide_is_an_error_of_one_line(tmp_path):
    (tmp_path / "bad.svs").write_text("no slide")
    with pytest.raises(nf.NucleiflowError, match=r"bad\.svs: not an image[^\n]+$"):
        nf.segment(tmp_path / "bad.svs", out=tmp_path / "out", workers=0, quiet=True)


@pytest.mark.parametrize("name", ["tile", "worker", "gpu", "kind"])
def test_an_unknown_option_is_refused(name, small_slide, tmp_path):
    with pytest.raises(nf.NucleiflowError, match=f"{name} is not known"):
        nf.segment(small_slide, out=tmp_path, **{name: 1})


def test_nothing_finished_is_said(tmp_path):
    with pytest.raises(nf.NucleiflowError, match="holds no finished slide"):
        nf.load(tmp_path)


def test_the_package_starts_light():
    code = (
        "import sys, nucleiflow; print([m for m in ('numpy', 'zarr', 'dask') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
