"""The report of a slide, opened in a browser from disk, and what it is made of."""

import dataclasses
import io
import json
import re
from types import SimpleNamespace

import browser
import command
import numpy as np
import pytest
import tifffile
from PIL import Image

from nucleiflow import (
    charts,
    deepzoom,
    overlay,
    page,
    pyramid,
    remarks,
    report,
    reportpage,
    tasks,
    web,
)
from nucleiflow.box import Box

real = pytest.mark.skipif(browser.MISSING is not None, reason=str(browser.MISSING))
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"
DESK = {"width": 1280, "height": 900}
MIDDLE = """() => { const canvas = document.querySelector('#viewer canvas');
  const box = [canvas.width / 2 - 40, canvas.height / 2 - 40, 80, 80];
  const data = canvas.getContext('2d').getImageData(...box).data;
  const colours = Array.from({length: 6400}, (_, k) => data.slice(4 * k, 4 * k + 3).join());
  return new Set(colours).size }"""
DRAWN = """() => { if (!window.viewer || viewer.world.getItemCount() < 2) return false;
  const numbers = [...Array(viewer.world.getItemCount()).keys()];
  const items = numbers.map((k) => viewer.world.getItemAt(k));
  return items.every((item) => item.getFullyLoaded() || !item.getOpacity()) }"""


def settled(tab):
    """Until the viewer has drawn its images."""
    tab.wait_for_function(DRAWN)
    tab.wait_for_timeout(500)


def picture(tab):
    """What the viewer shows (h, w, 3)."""
    with Image.open(io.BytesIO(tab.locator("#viewer").screenshot())) as shown:
        return np.asarray(shown.convert("RGB")).astype(int)


def parted(one, other):
    """Part of the pixels that are clearly of another colour."""
    return (np.abs(one - other).max(axis=-1) > 12).mean()


# in a browser


@real
def test_it_opens_from_disk_and_shows_the_slide(finished):
    path = finished.folder / "report.html"
    with browser.opened(path, viewport=DESK) as (tab, heard):
        settled(tab)
        assert tab.evaluate(MIDDLE) > 20, "the viewer shows nothing"
        assert re.fullmatch(r"\d+ [µm]m", tab.inner_text("#ruler span"))
        text = tab.inner_text("body")
    assert heard.complaints == []
    assert browser.from_outside(heard, path) == []
    assert f"{finished.word['nuclei']:,}" in text
    assert finished.word["seam_audit"]["text"][1:] in text
    for stage in finished.word["seconds"]:
        assert stage in text


@real
def test_each_layer_can_be_switched(finished):
    with browser.opened(finished.folder / "report.html", viewport=DESK) as (tab, heard):
        settled(tab)
        boxes = tab.locator("[data-layer]")
        kinds = boxes.evaluate_all("found => found.map((one) => one.dataset.layer)")
        assert {"image", "outlines", "density"} <= set(kinds)
        before, maybe_empty = picture(tab), ("marks", "focus")
        for number in range(boxes.count()):
            boxes.nth(number).click()
            settled(tab)
            changed = parted(picture(tab), before)
            assert changed > 0.003 or kinds[number] in maybe_empty, kinds[number]
            boxes.nth(number).click()
            settled(tab)
        assert parted(picture(tab), before) < 0.001
    assert heard.complaints == []


@real
def test_a_field_is_found_in_the_slide(finished):
    with browser.opened(finished.folder / "report.html", viewport=DESK) as (tab, heard):
        settled(tab)
        assert tab.evaluate("viewer.viewport.getZoom()") <= 1
        tab.locator("#field-0").click()
        tab.wait_for_timeout(700)
        told = json.loads(tab.locator("#data").text_content())["fields"][0]
        seen = tab.evaluate("(() => { const b = viewer.viewport.getBounds(); "
                            "return [b.x, b.y, b.x + b.width, b.y + b.height] })()")  # fmt: skip
        middle = told["x"] + told["width"] / 2, told["y"] + told["height"] / 2
        assert (seen[0] + seen[2]) / 2 == pytest.approx(middle[0], abs=0.01)
        assert (seen[1] + seen[3]) / 2 == pytest.approx(middle[1], abs=0.01)
    assert heard.complaints == []


@real
def test_the_wheel_scrolls_the_page_until_the_slide_is_clicked(finished):
    with browser.opened(finished.folder / "report.html", viewport=DESK) as (tab, _):
        settled(tab)
        whole = tab.evaluate("viewer.viewport.getZoom()")
        place = tab.locator("#viewer").bounding_box()
        tab.mouse.move(place["x"] + 200, place["y"] + 200)
        tab.mouse.wheel(0, 80)
        tab.wait_for_timeout(600)
        assert tab.evaluate("scrollY") == 80
        assert tab.evaluate("viewer.viewport.getZoom()") == whole
        tab.mouse.click(place["x"] + 200, place["y"] + 120)
        tab.mouse.wheel(0, -80)
        tab.wait_for_timeout(600)
        assert tab.evaluate("scrollY") == 80
        assert tab.evaluate("viewer.viewport.getZoom()") > whole


@real
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(finished, scheme, width):
    facts = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with browser.opened(finished.folder / "report.html", **facts) as (tab, heard):
        settled(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        ground, ink = browser.brightness(tab, "backgroundColor"), browser.brightness(tab, "color")
    assert abs(ground - ink) > 150
    assert (ground > ink) == (scheme == "light")
    assert heard.complaints == []


@real
def test_it_can_be_printed(finished):
    with browser.opened(finished.folder / "report.html", color_scheme="dark") as (tab, heard):
        tab.emulate_media(media="print")
        assert not tab.locator(".tools").is_visible()
        assert tab.locator(".maps img").first.is_visible()
        assert browser.brightness(tab, "backgroundColor") == 255
        assert len(tab.pdf()) > 50_000
    assert heard.complaints == []


@real
def test_the_page_may_not_reach_the_network(finished):
    asked = "fetch('http://127.0.0.1:9/').then(() => 'went', (error) => String(error))"
    with browser.opened(finished.folder / "report.html") as (tab, heard):
        assert "Failed to fetch" in tab.evaluate(asked)
    assert any("Content Security Policy" in line for line in heard.complaints)


WORD = {
    "slide": HOSTILE,
    "nuclei": 0,
    "stain": HOSTILE,
    "stain_reason": HOSTILE,
    "height": 40,
    "width": 60,
    "mpp": None,
    "tiles": 1,
    "tile_px": 64,
    "quality": {"flags": [HOSTILE]},
    "seam_audit": {
        "text": HOSTILE,
        "suspicious": True,
        "tests": {HOSTILE: {"at_seams": None, "expected": 0.5, "z": 0.0, "p": 1.0}},
    },
    "holes": [{"stage": HOSTILE, "y0": 0, "x0": 0, "y1": 5, "x1": 5, "reason": HOSTILE}],
    "seconds": {HOSTILE: 1.0},
    "provenance": {"slide": HOSTILE, "versions": {HOSTILE: HOSTILE}, "config": {HOSTILE: HOSTILE}},
}
NOTHING = deepzoom.build([(40, 60)], {"image": lambda *_: "", "outlines": lambda *_: None})
FACTS = reportpage.Facts(
    name=HOSTILE,
    word=WORD,
    zoom=dataclasses.replace(NOTHING, layers={"image": {"6/0/0": HOSTILE}, "outlines": {}}),
    aspect=1.5,
    um=None,
    fields=[reportpage.Field(HOSTILE, HOSTILE, 0, 0, 1, 1, b"", b"")],
    maps=[reportpage.Map("marks", HOSTILE, charts.key(HOSTILE, (0, 0, 0)), b"", b"")],
    histograms=[charts.Histogram(HOSTILE, HOSTILE, charts.Bins(0, 1, 2), [1, 2], (0.5, 1.0, 1.5))],
    command=HOSTILE,
)


def page_of(facts):
    files = ("report.css", "openseadragon.min.js", "report.js")
    style, viewer, script = map(web.text, files)
    return reportpage.page(facts, style=style, viewer=viewer, script=script)


@real
def test_hostile_names_do_nothing(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page_of(FACTS), encoding="utf-8")
    with browser.opened(path) as (tab, heard):
        tab.wait_for_timeout(500)
        assert tab.inner_text("h1") == HOSTILE
        assert tab.title().startswith(HOSTILE)
        assert tab.locator("img[src=x]").count() == 0
        assert tab.locator("script").count() == 3
    assert not [text for text in heard.complaints if "dialog" in text]
    assert browser.from_outside(heard, path) == []


def test_hostile_names_stand_nowhere_as_they_are():
    assert "<img src=x" not in page_of(FACTS)
    assert "<script>alert" not in page_of(FACTS)


def test_data_cannot_leave_its_script():
    told = page.inline({"a": HOSTILE, "b": "\u2028"})
    inside = told.removeprefix('<script type="application/json" id="data">')
    inside = inside.removesuffix("</script>")
    assert "<" not in inside
    assert json.loads(inside) == {"a": HOSTILE, "b": "\u2028"}


# of slides that are not as one expects


def text_of(out):
    (path,) = out.glob("*/report.html")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (60, 90)])
def test_slides_with_hardly_anything_have_a_page(shape, tmp_path):
    tifffile.imwrite(tmp_path / "small.tif", np.full(shape, 40, np.uint8))
    command.segment(tmp_path / "small.tif", tmp_path / "out")
    text = text_of(tmp_path / "out")
    assert "No nuclei were found" in text or "No tissue was found" in text
    assert "per pixel are not known" in text
    assert "<h2>Fields of view" in text
    assert "<h2>Distributions" not in text


def test_a_slide_with_one_nucleus_has_a_page(tmp_path):
    y, x = np.mgrid[:200, :200]
    nucleus = np.where((y - 90) ** 2 + (x - 100) ** 2 < 144, 30_000, 500).astype(np.uint16)
    tifffile.imwrite(tmp_path / "one.tif", nucleus)
    _, word = command.segment(tmp_path / "one.tif", tmp_path / "out")
    assert word["nuclei"] == 1
    text = text_of(tmp_path / "out")
    assert "1 nucleus, " in text
    assert "<b>Area</b>" in text
    assert "px²" in text


def test_the_channel_that_was_segmented_is_shown_and_named(field, tmp_path):
    pixels = np.stack([np.full((300, 300), 700, np.uint16), field[:300, :300]])
    told = {"axes": "CYX", "Channel": {"Name": ["x", "DAPI"]}}
    tifffile.imwrite(tmp_path / "two.ome.tif", pixels, metadata=told)
    command.segment(tmp_path / "two.ome.tif", tmp_path / "out")
    assert "<b>DAPI, mean</b>" in text_of(tmp_path / "out")


def test_holes_are_named_at_the_top_drawn_and_listed(small_slide, tmp_path, monkeypatch):
    segment = tasks.segment

    def broken(job, index):
        if index == 1:
            raise ValueError(HOSTILE)
        segment(job, index)

    monkeypatch.setattr(tasks, "segment", broken)
    done = command.nucleiflow(
        "run", small_slide, "--out", tmp_path, "--workers", 0, "--quiet", "--tile-px", 128,
        "--retries", 0,
    )  # fmt: skip
    assert done.code == 4, done
    text = text_of(tmp_path)
    assert "1 tile of 12 could not be done" in text
    assert 'data-layer="marks" checked' in text
    assert "holes</span>" in text
    assert "<h2>Holes" in text
    assert "<td>0 to 128</td><td>128 to 256</td>" in text
    assert "&lt;img src=x" in text
    assert "<img src=x" not in text


def test_nuclei_too_small_for_an_outline_are_filled(finished):
    job = SimpleNamespace(
        look=None, rgb=False, dtype="uint16", channels=("DAPI",),
        levels=pyramid.shapes(*finished.labels.shape),
        labels=command.store(finished.folder) / "labels" / "nuclei",
    )  # fmt: skip
    pictures = report.Pictures(job, diameter_px=12.0)
    for level, labels in enumerate(command.labels(finished.folder, k) for k in range(3)):
        drawn = pictures.outlines(level, Box(0, 0, *labels.shape))
        assert not drawn[labels == 0].any()
        is_filled = drawn[labels > 0] == report.FILLED
        assert is_filled.all() if level == 2 else not is_filled.any()
        assert np.array_equal(drawn > 0, overlay.outlines(labels)) or level == 2


def test_many_holes_are_counted_not_listed():
    word = {**WORD, "holes": WORD["holes"] * 500, "tiles": 900}
    text = page_of(dataclasses.replace(FACTS, word=word))
    assert "500 tiles of 900 could not be done" in text
    assert "300 more" in text


def test_that_all_is_well_is_said_only_then():
    well = {"quality": {"flags": []}, "seam_audit": {"suspicious": False}, "holes": [], "mpp": 0.25}
    assert [kind for kind, _ in remarks.remarks(well)] == ["good"]
    worse = remarks.remarks({**WORD, "mpp": 0.5})
    assert [kind for kind, _ in worse] == ["bad", "bad", "warn"]
    assert [kind for kind, _ in remarks.remarks({**well, "mpp": None})] == ["warn"]
