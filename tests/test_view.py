"""`nucleiflow view`: napari where it is, with its own reader of OME-Zarr; else the report."""

import importlib.util
import sys
import webbrowser
from pathlib import Path

import command
import finished_slide
import numpy as np
import pytest

from nucleiflow import finished, viewer
from nucleiflow.errors import ConfigError
from nucleiflow.place import ObjectPath

# napari and its reader warn of their own dependencies
napari_warns = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder, image, labels and final word of a slide."""
    folder = tmp_path_factory.mktemp("out") / "some"
    return folder, *finished_slide.write(folder, count=20)


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")


@pytest.fixture
def browser(monkeypatch):
    """Addresses that a browser was sent to."""
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    return opened


@pytest.fixture
def installed(monkeypatch):
    """A function that says which modules there are to be, among those napari needs."""

    def only(*names):
        real = importlib.util.find_spec
        asked = {"napari", "napari_ome_zarr", *viewer.QT}
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: (name in names or None) if name in asked else real(name),
        )

    return only


def reported(folder):
    (folder / "report.html").write_text("<p>a report</p>")
    return folder


# what napari-ome-zarr makes of a slide is enough


@pytest.fixture
def window(monkeypatch):
    """The viewer of napari without its window, in which a slide was opened by `view`."""
    import napari
    from napari.components import ViewerModel
    from npe2 import PluginManager

    PluginManager.instance().discover()
    opened = []

    def begin(title):
        opened.append(ViewerModel(title=title))
        return opened[0]

    monkeypatch.setattr(napari, "Viewer", begin)
    monkeypatch.setattr(napari, "run", lambda: opened.append("closed"))
    return opened


@napari_warns
def test_napari_shows_image_and_labels(made, window, screen, installed):
    from napari.layers import Image, Labels

    folder, image, labels, word = made
    installed("napari", "napari_ome_zarr", "PySide6")
    assert viewer.view(folder) == f"{folder / 'some.ome.zarr'} was open in napari"
    shown, closed = window
    assert closed == "closed"
    assert shown.title == "some.ome.zarr (nucleiflow)"
    assert [type(layer) for layer in shown.layers] == [Image, Image, Labels]
    nuclei = shown.layers[-1]
    assert nuclei.visible
    assert nuclei.name.endswith("nuclei")
    assert [layer.visible for layer in shown.layers[:2]] == [True, False], "as OME-Zarr says"
    assert all("DAPI" in layer.name for layer in shown.layers[:2])
    np.testing.assert_array_equal(nuclei.data[0], labels)
    for layer, channel in zip(shown.layers, image, strict=False):
        np.testing.assert_array_equal(layer.data[0], channel)
    for layer in shown.layers:
        np.testing.assert_allclose(layer.scale, word["resolution"]["pixel_um"])
        assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
        assert len(layer.data) == finished_slide.LEVELS


@napari_warns
def test_each_nucleus_has_its_own_colour_and_background_none(made, window, screen, installed):
    installed("napari", "napari_ome_zarr", "PySide6")
    viewer.view(made[0])
    nuclei = window[0].layers[-1]
    assert nuclei.get_color(1) is not None
    assert not np.array_equal(nuclei.get_color(1), nuclei.get_color(2))
    assert nuclei.get_color(0) is None or nuclei.get_color(0)[3] == 0


# where it is shown


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        ((), "napari and napari-ome-zarr and Qt"),
        (("napari", "PyQt6"), "napari-ome-zarr"),
        (("napari", "napari_ome_zarr"), "Qt"),
    ],
)
def test_without_napari_the_report_is_opened(made, screen, browser, installed, there, lacking):
    folder = reported(made[0])
    installed(*there)
    said = viewer.view(folder)
    assert browser == [(folder / "report.html").as_uri()]
    assert said.startswith(f"{folder / 'report.html'} is open in the browser")
    assert f"for napari, {lacking} would be needed: pip install" in said


def test_napari_that_does_not_start_is_said(made, screen, browser, installed, monkeypatch):
    def broken(image):
        raise ImportError("libGL.so.1: cannot open shared object file")

    installed("napari", "napari_ome_zarr", "PyQt5")
    monkeypatch.setattr(viewer, "napari", broken)
    assert viewer.view(reported(made[0])).endswith(
        "; napari does not start: libGL.so.1: cannot open shared object file"
    )
    assert len(browser) == 1


def test_the_page_can_be_asked_for(made, screen, browser, installed):
    folder = reported(made[0])
    installed("napari", "napari_ome_zarr", "PyQt6")
    assert viewer.view(folder, page=True) == f"{folder / 'report.html'} is open in the browser"


def test_the_command(made, screen, browser, installed):
    installed()
    done = command.nucleiflow("view", reported(made[0]), "--page")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{made[0] / 'report.html'} is open in the browser\n"


def test_no_napari_and_no_report(tmp_path, screen, browser, installed):
    finished_slide.write(tmp_path / "bare", count=1)
    installed()
    with pytest.raises(
        ConfigError, match=r"report.html is not there; for napari, .* needed: pip inst"
    ):
        viewer.view(tmp_path / "bare")
    assert browser == []


def test_no_browser(made, screen, installed, monkeypatch):
    installed()
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    with pytest.raises(ConfigError, match=r"no browser could be started: open .*report.html"):
        viewer.view(reported(made[0]))


def test_no_display_says_where_to_look_instead(made, browser, installed, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    installed("napari", "napari_ome_zarr", "PyQt6")
    with pytest.raises(ConfigError) as caught:
        viewer.view(reported(made[0]))
    assert str(caught.value) == (
        f"there is no display here: copy {made[0]} to your own computer, "
        "and open report.html in a browser or some.ome.zarr in napari there"
    )
    assert browser == []
    monkeypatch.setattr(sys, "platform", "darwin")
    assert viewer.display(), "which macOS always has"


def test_a_slide_in_an_object_store_is_not_opened(monkeypatch):
    found = finished.Finished(ObjectPath("s3", "bucket", "out/some"), {"labels": "a/labels/nuclei"})
    monkeypatch.setattr(finished, "one", lambda place, use: found)
    with pytest.raises(ConfigError, match="s3://bucket/out/some is in an object store: copy it"):
        viewer.view(found.folder)


# which slide


def test_the_slide_is_found_from_its_folder_its_store_or_its_run(made):
    folder = made[0]
    (folder.parent / "batch.json").write_text("{}")  # a file beside the slides
    for place in (folder, folder / "some.ome.zarr", folder.parent):
        assert finished.one(place, "nucleiflow view").folder == folder


def test_of_several_slides_one_must_be_named(tmp_path):
    for name in "bcadefg":
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "unfinished").mkdir()
    assert [slide.folder.name for slide in finished.slides(tmp_path)] == list("abcdefg")
    with pytest.raises(ConfigError) as caught:
        finished.one(tmp_path, "nucleiflow view")
    assert str(caught.value) == (
        f"{tmp_path} holds 7 slides (a, b, c, d, e and 2 more): name one, "
        f"such as `nucleiflow view {tmp_path / 'a'}`"
    )


def test_a_folder_without_slides(tmp_path):
    for place in (tmp_path, Path(tmp_path, "none")):
        with pytest.raises(ConfigError, match="holds no finished slide: give the folder that"):
            finished.slides(place)
