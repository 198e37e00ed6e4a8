"""The page and the table of a batch: opened in a browser from disk, read by pandas."""

import io
import subprocess
import sys

import browser
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from nucleiflow import batchpage, overview, records, tables, web

real = pytest.mark.skipif(browser.MISSING is not None, reason=str(browser.MISSING))
HOSTILE = "<img src=x onerror=alert(1)>\"'</td><script>alert(2)</script>"
NAMES = "() => [...document.querySelectorAll('tbody .name')].map((cell) => cell.innerText)"


def row(name, **facts):
    known = {
        "name": name, "slide": f"/data/{name}.svs", "status": "done", "nuclei": 10, "height": 1000,
        "width": 2000, "mpp": 0.25, "holes": [], "wall_seconds": 3.25,
        "exports": {"report.html": 1}, "stain": "h&e", "tiles": 4,
        "quality": {"tissue_mm2": 1.5, "nuclei_per_mm2": 6.7, "flags": []},
        "summary": {"area_mean": 30.5, "area_unit": "µm²", "area_counts": [1, 5, 2],
                    "area_bounds": [5.0, 2000.0], "probability_mean": 0.9},
    }  # fmt: skip
    return known | facts


ROWS = [
    row("b 9", nuclei=1_000),
    row("a", nuclei=200, holes=[{"reason": HOSTILE, "stage": "segment"}]),
    row("b 10", nuclei=30, quality={"flags": [HOSTILE]}, mpp=None, summary={}),
    {"name": HOSTILE, "slide": HOSTILE, "status": "failed", "reason": HOSTILE},
    {"name": "waiting", "slide": "w.svs", "status": "waiting"},
]
CONTENT = {"slides": ROWS, "wall_seconds": 75, "versions": {HOSTILE: HOSTILE}}


@pytest.fixture
def place(tmp_path):
    overview.write(tmp_path / HOSTILE.replace("/", "_"), CONTENT)
    return tmp_path / HOSTILE.replace("/", "_") / "batch.html"


def page_of(rows, **more):
    style, script = web.text("report.css"), web.text("batch.js")
    return batchpage.page("out", rows, {"slides": rows}, style=style, script=script, **more)


@real
def test_it_opens_from_disk_and_does_no_harm(place):
    with browser.opened(place, viewport={"width": 1280, "height": 800}) as (tab, heard):
        text = tab.inner_text("body")
        links = tab.locator("a").evaluate_all("found => found.map((a) => a.getAttribute('href'))")
        assert tab.locator("img[src=x]").count() == 0
        assert tab.locator("script").count() == 1
    assert heard.complaints == []
    assert browser.from_outside(heard, place) == []
    assert links == ["./b%209/report.html", "./a/report.html", "./b%2010/report.html"]
    assert HOSTILE in text
    for told in ("1 slide failed", "1 slide with holes", "1 slide not finished", "3 of 5", "1,230"):
        assert told in text
    assert "4.5 mm²" not in text, "one slide has none"
    assert "3.0 mm²" in text
    assert "1 min 15 s" in text


@real
@pytest.mark.parametrize(
    ("column", "first", "then"),
    [
        ("nuclei", ["b 9", "a", "b 10"], ["b 10", "a", "b 9"]),
        ("slide", [HOSTILE, "a", "b 9", "b 10", "waiting"], ["waiting", "b 10", "b 9", "a"]),
        ("areas", ["b 9", "a"], ["b 9", "a"]),
        ("state", ["b 9", "b 10", HOSTILE, "a", "waiting"], ["waiting", "a", HOSTILE]),
    ],
)
def test_it_sorts_by_any_column(place, column, first, then):
    """Numbers from the largest, text from the first letter; what there is not comes last."""
    with browser.opened(place, viewport={"width": 1280, "height": 800}) as (tab, heard):
        button = tab.get_by_role("button", name=column, exact=True)
        for expected in (first, then):
            button.click()
            names = [name.split("\n")[0] for name in tab.evaluate(NAMES)]
            assert names[: len(expected)] == expected
            assert sorted(names) == sorted(one["name"] for one in ROWS)
        assert tab.locator("[aria-sort]").count() == 1
    assert heard.complaints == []


@real
def test_slides_can_be_found_among_many(tmp_path):
    rows = [row(f"slide {number}") for number in range(40)]
    (tmp_path / "batch.html").write_text(page_of(rows), encoding="utf-8")
    with browser.opened(tmp_path / "batch.html") as (tab, heard):
        tab.fill("#find", "SLIDE 3")
        assert tab.locator("tbody tr:visible").count() >= 11
        assert tab.locator("#slides tbody tr:visible").count() == 11
        tab.fill("#find", "")
        assert tab.locator("#slides tbody tr:visible").count() == 40
    assert heard.complaints == []


@real
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(place, width, scheme):
    facts = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with browser.opened(place, **facts) as (tab, _):
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        ground, ink = browser.brightness(tab, "backgroundColor"), browser.brightness(tab, "color")
    assert abs(ground - ink) > 150
    assert (ground > ink) == (scheme == "light")


@real
def test_it_can_be_printed(place):
    with browser.opened(place, color_scheme="dark") as (tab, heard):
        tab.emulate_media(media="print")
        assert browser.brightness(tab, "backgroundColor") == 255
        assert tab.locator("#slides").is_visible()
        assert len(tab.pdf()) > 5_000
    assert heard.complaints == []


def test_a_slide_without_a_report_is_not_linked():
    assert "<a " not in page_of([row("a", exports={"nuclei.parquet": 5})])


def test_names_in_links_are_quoted():
    assert 'href="./a%20b%23c/report.html"' in page_of([row("a b#c")])


def test_a_small_picture_stands_beside_its_slide():
    text = page_of([row("a"), row("b")], thumbnails={"b": b"\xff\xd8"})
    assert text.count('<img alt="" src="data:image/jpeg;base64,/9g="') == 1
    assert "<img" not in page_of([row("a")])


def test_thousands_of_slides_make_a_page_that_can_be_opened():
    text = page_of([row(f"slide {number}") for number in range(5_000)])
    assert len(text) < 10e6


def test_the_table_has_a_row_for_each_slide(place):
    frame = pandas.read_parquet(place.with_name("batch.parquet"))
    assert frame["name"].tolist() == [one["name"] for one in ROWS]
    assert frame["nuclei"].tolist()[:3] == [1000, 200, 30]
    assert frame["holes"].tolist() == [0, 1, 0, 0, 0]
    assert frame["reason"].tolist()[3] == HOSTILE


def test_tables_of_batches_have_the_same_columns(place, tmp_path):
    """What no slide of a batch has is null, of its own type; so is the table of no slides."""
    for name, rows in {"none": [], "failed": [ROWS[3]]}.items():
        overview.write(tmp_path / name, {"slides": rows})
    schemas = [
        parquet.read_schema(one / "batch.parquet")
        for one in (place.parent, tmp_path / "none", tmp_path / "failed")
    ]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])
    assert dict(zip(schemas[0].names, schemas[0].types, strict=True))["mpp"] == "double"


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "text": st.none() | st.text(),
                "count": st.none() | st.integers(-(2**63), 2**63 - 1),
                "size": st.none() | st.floats(allow_nan=False),
            }
        ),
        max_size=20,
    )
)
def test_rows_come_back_as_they_were_written(rows):
    file = io.BytesIO()
    tables.write_rows(file, rows, {"text": str, "count": int, "size": float})
    found = parquet.read_table(file)
    found.validate(full=True)
    assert found.to_pylist() == rows


def test_a_name_that_is_no_text_is_told_all_the_same():
    file = io.BytesIO()
    tables.write_rows(file, [{"name": "caf\udce9.tif"}], {"name": str})
    assert parquet.read_table(file).to_pylist() == [{"name": "caf\\udce9.tif"}]


def test_the_end_of_a_run_does_not_wait_for_pandas(tmp_path):
    """Arrow imports it to look at Python's values, and that takes longer than all else."""
    code = (
        "import sys; from pathlib import Path; from nucleiflow import overview\n"
        f"overview.write(Path({str(tmp_path)!r}), {{'slides': {[ROWS[3]]!r}}})\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_an_empty_batch_has_a_page(tmp_path):
    overview.write(tmp_path, {"slides": []})
    assert b"No slides were given" in (records.get(tmp_path / "batch.html") or b"")
