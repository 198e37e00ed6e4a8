"""A finished slide -> napari if it is installed, else its report in the browser."""

from __future__ import annotations

import importlib.util
import os
import sys
import webbrowser
from pathlib import Path

from nucleiflow import finished
from nucleiflow.errors import ConfigError
from nucleiflow.place import Place

PLUGIN = "napari-ome-zarr"
QT = ("PyQt6", "PySide6", "PyQt5")
INSTALL = 'pip install "napari[all]" napari-ome-zarr'


def view(place: Place, *, page: bool = False) -> str:
    """Show a slide and return what was opened; with napari, once its window is closed.

    `page` asks for the report even where there is napari. Raises ConfigError, with what to do.
    """
    slide = finished.one(place, "nucleiflow view")
    if not isinstance(slide.folder, Path):
        raise ConfigError(f"{slide.folder} is in an object store: copy it to this machine to view")
    labels = slide.folder / slide.word["labels"]
    image = labels if slide.word.get("image") == "none" else labels.parent.parent
    report = slide.folder / "report.html"
    if not display():
        raise ConfigError(
            f"there is no display here: copy {slide.folder.resolve()} to your own computer, "
            f"and open {report.name} in a browser or {image.name} in napari there"
        )
    why = "" if page else missing()
    if not page and not why:
        try:
            napari(image)
        except ImportError as error:  # a window toolkit that is broken
            why = f"napari does not start: {' '.join(str(error).split())[:120]}"
        else:
            return f"{image} was open in napari"
    if not report.is_file():
        raise ConfigError(f"{report} is not there{why and f'; {why}'}")
    if not webbrowser.open(report.resolve().as_uri()):
        raise ConfigError(f"no browser could be started: open {report} yourself")
    return f"{report} is open in the browser{why and f'; {why}'}"


def display() -> bool:
    """Whether a window could be opened."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))


def missing() -> str:
    """What napari would need, in words; empty if all is there."""
    lacking = [name for name in ("napari", "napari_ome_zarr") if not _installed(name)]
    if not any(_installed(name) for name in QT):
        lacking.append("Qt")
    if not lacking:
        return ""
    return f"for napari, {' and '.join(lacking).replace('_', '-')} would be needed: {INSTALL}"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def napari(image: Path) -> None:
    """Image and labels in a window, until it is closed. Raises ImportError if there is none."""
    import napari

    window = napari.Viewer(title=f"{image.name} (nucleiflow)")
    for layer in window.open(str(image), plugin=PLUGIN):
        if isinstance(layer, napari.layers.Labels):
            layer.visible = True  # the plugin hides them
    napari.run()
