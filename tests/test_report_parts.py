"""What a report is made of: deep zoom, fields of view, histograms, maps."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nucleiflow import charts, deepzoom, fields, picture, sketch
from nucleiflow.box import Box

SHAPES = [(9000, 5001), (4500, 2501), (2250, 1251), (1125, 626), (563, 313), (282, 157)]


def test_a_deep_zoom_has_every_tile_once():
    seen = {}

    def encode(level, box):
        seen.setdefault(level, []).append(box)
        return f"{level}"

    found = deepzoom.build(SHAPES, {"image": encode, "outlines": lambda *_: None})
    assert (found.source["width"], found.source["height"]) == (1251, 2250)
    assert (found.source["minLevel"], found.source["maxLevel"]) == (9, 12)
    assert found.span_px == 1251 * 4
    assert found.layers["image"]["12/2/4"] == "2"
    assert len(found.layers["image"]) == sum(map(len, seen.values()))
    assert found.layers["outlines"] == {}
    assert sum(box.area for box in seen[2]) == 2250 * 1251
    assert set(seen) == {2, 3, 4, 5}


def test_a_deep_zoom_stays_within_its_budget():
    def text(level, box):
        return "x" * box.area

    for budget in (60_000, 1_000_000, 3_000_000, 4_000_000):
        found = deepzoom.build(SHAPES, {"image": text}, budget=budget)
        spent = sum(map(len, found.layers["image"].values()))
        assert spent <= max(budget, 282 * 157), "only the coarsest level is always there"
        levels = {int(key.split("/")[0]) for key in found.layers["image"]}
        assert max(levels) == found.source["maxLevel"]
        assert 2 ** max(levels) >= found.source["height"] > 2 ** (max(levels) - 1)


def survey(nuclei, **more):
    amount = np.array(nuclei)
    facts = {"confidence": amount * 0.9, "on_seams": np.zeros_like(amount)}
    facts |= {name: np.zeros(amount.shape) for name in ("tissue", "blurred")}
    return fields.Survey(amount, **(facts | more))


def test_fields_are_some_at_random_and_the_worst():
    nuclei = np.full((16, 16), 20)
    nuclei[3, 4] = 99
    confidence = nuclei * 0.9
    confidence[5, 6] = 2.0
    blurred = np.zeros(nuclei.shape)
    blurred[9, 9] = 0.75
    known = survey(nuclei, confidence=confidence, blurred=blurred)
    found = fields.choose(known, (8192, 8192), 2048)
    boxes = [one.box for one in found]
    assert len(set(boxes)) == len(boxes)
    assert found == fields.choose(known, (8192, 8192), 2048)
    worst = {"Densest": (3, 4), "Lowest confidence": (5, 6), "Out of focus": (9, 9)}
    for why, (row, column) in worst.items():
        box = Box(row * 512, column * 512, row * 512 + 512, column * 512 + 512)
        first = next(one for one in found if one.why == why)
        assert first.box == box or ("At random", box) in {(one.why, one.box) for one in found}
    reasons = {one.reason for one in found}
    assert reasons & {"mean confidence 0.10", "75% of it is out of focus"}


def test_a_field_about_seams_has_one_in_its_middle():
    on_seams = np.zeros((16, 16), int)
    on_seams[3, 3] = on_seams[4, 3] = 7
    none = np.zeros((16, 16), int)
    none[0, 0] = 1
    found = fields.choose(survey(none, on_seams=on_seams), (8192, 8192), 2048)
    boxes = [one.box for one in found if "seam" in one.why]
    assert boxes[0] == Box(1792, 1792, 2304, 2304)
    assert len(boxes) == 1, "the seam of two fields is shown once"


def test_fields_without_nuclei_are_drawn_where_tissue_is():
    mask = np.zeros((64, 64), bool)
    mask[32:, :32] = True
    nothing = survey(np.zeros((8, 8), int)).mapped("tissue", mask, 64)
    assert nothing.tissue.sum() == 16
    for one in fields.choose(nothing, (4096, 4096), 2048):
        assert one.box.y0 >= 2048
        assert one.box.x1 <= 2048


@pytest.mark.parametrize("shape", [(100, 100), (513, 2000), (512, 512), (1, 1)])
def test_fields_lie_inside_the_slide(shape):
    found = fields.choose(fields.Survey.of(shape), shape, 256)
    assert found
    for one in found:
        assert Box(0, 0, *shape).contains(one.box)
        assert one.box.area


def test_the_survey_counts_each_nucleus_once():
    found = fields.Survey.of((1000, 1500))
    points = np.array([[10.0, 10.0], [511.9, 512.1], [999.0, 1499.0]])
    found.see(points, np.array([0.5, 0.7, 0.9]), np.array([True, False, False]))
    assert found.nuclei.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert found.on_seams.sum() == 1
    assert found.confidence.sum() == pytest.approx(2.1)


def test_bins_are_round_and_hold_everything():
    random = np.random.default_rng(0)
    for scale in (1e-3, 0.7, 30.0, 1e5):
        values = random.gamma(3, scale, 5000)
        bins = charts.Bins.around(*np.quantile(values, (0.01, 0.99)))
        assert 20 <= bins.amount <= 42
        assert f"{bins.step / 10 ** np.floor(np.log10(bins.step)):.6g}" in {"1", "2", "2.5", "5"}
        counts = bins.counts(np.append(values, np.nan))
        assert counts.sum() == 5000
        edges = bins.low + bins.step * np.arange(bins.amount + 1)
        edges[0], edges[-1] = -np.inf, np.inf
        np.testing.assert_array_equal(counts, np.histogram(values, edges)[0])
    assert charts.Bins.around(5.0, 5.0).counts(np.array([5.0])).sum() == 1


def test_drawings_say_what_they_show():
    bins = charts.Bins(0, 10, 3)
    drawn = charts.histogram(charts.Histogram("Area", "µm²", bins, [1, 3, 0], (8, 14, 17)))
    assert "<title>10 to 20 µm²: 3</title>" in drawn
    assert 'aria-label="Area [µm²]: median 14 µm²"' in drawn
    assert charts.bars([("segment", 2.0), ("label", 1.0)], "s").count("<tr>") == 2
    assert charts.sparkline([]).startswith("<svg")


def test_marks_are_drawn_where_they_are():
    tissue = np.zeros((400, 600), bool)
    tissue[100:300, 100:500] = True
    tissue[20:24, 20:24] = True  # dust
    holes = sketch.boxes([Box(0, 0, 10, 10), Box(4000, 5000, 4100, 5100)], (4800, 7200), (200, 300))
    drawn, legend = sketch.marks({"tissue": tissue, "holes": holes}, (200, 300))
    numbers = {name: k for k, name in enumerate(sketch.MARKS, start=1)}
    edge = drawn == numbers["tissue"]
    assert edge[49:52, 100].any()
    assert not edge[100, 150]
    assert not edge[:30].any(), "dust gets no line"
    assert drawn[0, 0] == drawn[168, 210] == numbers["holes"], "the smallest hole is seen"
    assert "holes" in legend
    assert "pen" not in legend


def test_a_map_is_stretched_as_its_cells_lie():
    share = np.array([[0.0, 1.0], [0.5, 0.0]])
    drawn = sketch.heat(share, 100, (150, 200), (15, 20))
    assert drawn[:10, 10:].min() == 255
    assert set(drawn[10:, :10].ravel().tolist()) == {128}
    assert sketch.cell_areas(100, (150, 200)).tolist() == [[1e4, 1e4], [5e3, 5e3]]


@pytest.mark.parametrize("amount", [1, 2, 3, 4, 5, 10, 16, 17, 256])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 64), (64, 130)])
def test_an_indexed_png_is_what_it_was_made_of(amount, shape):
    random = np.random.default_rng(amount)
    indices = random.integers(0, amount, shape).astype(np.uint8)
    colours = random.integers(0, 256, (amount, 4)).astype(np.uint8)
    with Image.open(io.BytesIO(picture.indexed_png(indices, colours))) as read:
        read.load()
        np.testing.assert_array_equal(np.asarray(read.convert("RGBA")), colours[indices])


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 900), st.integers(0, 99))
def test_a_mask_says_what_part_of_each_field_it_covers(height, width, pitch_px, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    survey = fields.Survey.of((height * pitch_px, width * pitch_px))
    share = survey.mapped("tissue", mask, pitch_px).tissue
    rows, columns = share.shape
    hit, there = np.zeros(share.shape), np.zeros(share.shape)
    for y, x in np.ndindex(mask.shape):
        row = min((y * pitch_px + pitch_px // 2) // fields.FIELD_PX, rows - 1)
        column = min((x * pitch_px + pitch_px // 2) // fields.FIELD_PX, columns - 1)
        there[row, column] += 1
        hit[row, column] += mask[y, x]
    np.testing.assert_array_equal(share, hit / np.maximum(there, 1))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_a_mask_made_small_is_where_at_least_half_of_it_is(height, width, more_y, more_x):
    mask = np.random.default_rng(more_y).random((height + more_y, width + more_x)) < 0.5
    y, x = (np.arange(n) * size // n for n, size in zip(mask.shape, (height, width), strict=True))
    expected = [
        [mask[y == row][:, x == column].mean() >= 0.5 for column in range(width)]
        for row in range(height)
    ]
    np.testing.assert_array_equal(sketch._reduced(mask, (height, width)), expected)
