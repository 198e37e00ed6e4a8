"""An evaluation runs the pipeline, and its figures are those of independent implementations."""

import base64
import io
import json
import re
from fractions import Fraction

import command
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import linear_sum_assignment
from skimage.metrics import contingency_table
from test_metrics import dense_aji, pairs

from nucleiflow import demo, evaluate, metrics, overlay, page, scores
from nucleiflow.layouts import Sample


def stardist(truth, found, thresh):
    """What `stardist.matching.matching` reports, by its definitions: dense IoU, Hungarian."""
    table = contingency_table(truth, found).toarray().astype(float)
    union = table.sum(0, keepdims=True) + table.sum(1, keepdims=True) - table
    iou = np.divide(table, union, out=np.zeros_like(table), where=union > 0)
    iou = iou[table.sum(1) > 0][:, table.sum(0) > 0][1:, 1:]
    n_true, n_pred = iou.shape
    costs = -(iou >= thresh).astype(float) - iou / (2 * max(1, min(n_true, n_pred)))
    rows, columns = linear_sum_assignment(costs)
    hit = iou[rows, columns] >= thresh
    tp, total = int(hit.sum()), iou[rows, columns][hit].sum()
    fp, fn = n_pred - tp, n_true - tp
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": tp / (tp + fp) if tp else 0,
        "recall": tp / (tp + fn) if tp else 0,
        "accuracy": tp / (tp + fp + fn) if tp else 0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp else 0,
        "mean_true_score": total / n_true if n_true else 0,
        "mean_matched_score": total / tp if tp else 0,
        "panoptic_quality": total / (tp + fp / 2 + fn / 2) if tp else 0,
    }


def framed(labels):
    """Labels with background around them, as the contingency table above wants it."""
    return np.pad(labels, 1)


def random_scene(seed, shape=(60, 70)):
    """Blobs, and the same ones moved, cut and joined."""
    rng = np.random.default_rng(seed)
    truth, found = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for number in range(1, 14):
        cy, cx, r = rng.uniform(3, 57), rng.uniform(3, 67), rng.uniform(3, 9)
        truth[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = number
        cy, cx = cy + rng.normal(0, 1), cx + rng.normal(0, 1)
        found[(y - cy) ** 2 + (x - cx) ** 2 < (r * rng.uniform(0.8, 1.1)) ** 2] = 40 - number
    return truth, found


# scores


@settings(deadline=None)
@given(pairs, st.sampled_from([0.3, *scores.IOUS]))
def test_matchings_are_those_of_stardist(images, iou):
    truth, found = map(framed, images)
    ours, theirs = metrics.match(truth, found, iou), stardist(truth, found, iou)
    counts = ours.true_positive, ours.false_positive, ours.false_negative
    assert counts == (theirs["tp"], theirs["fp"], theirs["fn"])
    if sum(counts):  # of nothing to nothing, StarDist's ratios are 0 and ours are 1
        assert ours.precision == pytest.approx(theirs["precision"])
        assert ours.recall == pytest.approx(theirs["recall"])
        assert ours.f1 == pytest.approx(theirs["f1"])
        assert ours.average_precision == pytest.approx(theirs["accuracy"])
        assert ours.mean_true_iou == pytest.approx(theirs["mean_true_score"])
        assert ours.mean_matched_iou == pytest.approx(theirs["mean_matched_score"])
        assert ours.panoptic_quality == pytest.approx(theirs["panoptic_quality"])


@settings(deadline=None)
@given(pairs, st.sampled_from([0.3, 0.5, 0.9]))
def test_unmatched_labels_are_those_that_are_in_no_pair(images, iou):
    truth, found = images
    missed, wrong = metrics.overlaps(truth, found).unmatched(iou)
    one = metrics.match(truth, found, iou)
    assert (len(missed), len(wrong)) == (one.false_negative, one.false_positive)
    left = np.where(np.isin(truth, missed), 0, truth), np.where(np.isin(found, wrong), 0, found)
    rest = metrics.match(*left, iou)
    assert (rest.true_positive, rest.false_positive, rest.false_negative) == (
        one.true_positive,
        0,
        0,
    )


def test_a_group_is_the_mean_of_its_images_and_their_sum():
    scenes = [random_scene(seed) for seed in range(5)]
    row = scores.of_group([scores.score(*scene) for scene in scenes])
    near = lambda value: pytest.approx(value, abs=6e-5)  # noqa: E731  rounded to 4 digits
    for iou in scores.IOUS:
        each = [stardist(*scene, iou) for scene in scenes]
        tp, fp, fn = (sum(one[key] for one in each) for key in ("tp", "fp", "fn"))
        assert tp > 0
        assert fp > 0
        at = row["iou"][f"{iou:g}"]
        assert at["pooled"] == {
            "ap": near(tp / (tp + fp + fn)),
            "precision": near(tp / (tp + fp)),
            "recall": near(tp / (tp + fn)),
            "f1": near(2 * tp / (2 * tp + fp + fn)),
            "mean_true_iou": near(
                sum(one["mean_matched_score"] * one["tp"] for one in each) / (tp + fn)
            ),
            "true_positive": tp,
            "false_positive": fp,
            "false_negative": fn,
        }
        assert at["by_image"] == {
            name: near(np.mean([one[key] for one in each]))
            for name, key in (
                ("ap", "accuracy"),
                ("precision", "precision"),
                ("recall", "recall"),
                ("f1", "f1"),
                ("mean_true_iou", "mean_true_score"),
            )
        }
    half = [stardist(*scene, 0.5 + 1e-9) for scene in scenes]
    assert row["panoptic"]["by_image"] == {
        "pq": near(np.mean([one["panoptic_quality"] for one in half])),
        "sq": near(np.mean([one["mean_matched_score"] for one in half])),
        "rq": near(np.mean([one["f1"] for one in half])),
    }
    total = sum(one["mean_matched_score"] * one["tp"] for one in half)
    weight = sum(one["tp"] + one["fp"] / 2 + one["fn"] / 2 for one in half)
    assert row["panoptic"]["pooled"]["pq"] == near(total / weight)
    assert row["aji"]["by_image"] == near(np.mean([dense_aji(*scene) for scene in scenes]))
    side_by_side = [
        np.hstack([np.where(scene[k] > 0, scene[k] + 50 * n, 0) for n, scene in enumerate(scenes)])
        for k in (0, 1)
    ]
    assert row["aji"]["pooled"] == near(dense_aji(*side_by_side))
    assert row["dice"]["pooled"] == near(metrics.dice(*side_by_side))
    assert row["pixel_accuracy"]["pooled"] == near(metrics.pixel_accuracy(*side_by_side))
    for key, rule in (("dice", metrics.dice), ("pixel_accuracy", metrics.pixel_accuracy)):
        assert row[key]["by_image"] == near(np.mean([rule(*scene) for scene in scenes]))
    assert row["kaggle"] == near(np.mean([metrics.kaggle_score(*scene) for scene in scenes]))
    counts = [[len(np.unique(labels)) - 1 for labels in scene] for scene in scenes]
    assert row["count_error"] == {
        "by_image": near(np.mean([abs(found - true) / true for true, found in counts])),
        "total": near(sum(found - true for true, found in counts) / sum(t for t, _ in counts)),
    }
    assert (row["images"], row["true"]) == (5, sum(true for true, _ in counts))


def test_an_iou_of_exactly_one_half_counts_for_ap_but_not_for_panoptic_quality():
    one = scores.score(np.array([[1, 1, 0]]), np.array([[1, 0, 0]]))
    row = scores.of_image(one)
    assert row["iou"]["0.5"]["ap"] == 1.0
    assert row["panoptic"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0}
    assert row["kaggle"] == 0.0


def test_images_without_nuclei():
    empty, three = np.zeros((4, 9), int), np.arange(36).reshape(4, 9) % 4
    right, invented, missed = (
        scores.of_image(scores.score(*pair))
        for pair in ((empty, empty), (empty, three), (three, empty))
    )
    assert (right["kaggle"], right["panoptic"]["pq"], right["aji"], right["count_error"]) == (
        1.0,
        1.0,
        1.0,
        0.0,
    )
    for wrong, error in ((invented, 3.0), (missed, 1.0)):
        assert (wrong["kaggle"], wrong["panoptic"]["pq"], wrong["aji"]) == (0.0, 0.0, 0.0)
        assert wrong["count_error"] == error


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    st.tuples(st.integers(1, 14), st.integers(1, 6)),
)
def test_resized_labels_take_the_nearest_pixel_centre(old, new):
    y, x = np.indices(old)
    for axis, taken in enumerate((metrics.resized(y, new), metrics.resized(x, new))):
        assert taken.shape == new
        for at in np.ndindex(new):
            centre = Fraction(2 * at[axis] + 1, 2) * old[axis] / new[axis]
            away = [abs(centre - source - Fraction(1, 2)) for source in range(old[axis])]
            assert away[taken[at]] == min(away)


def test_found_labels_of_another_size_are_scored_at_the_size_of_the_truth():
    truth, _ = random_scene(2)
    finer = truth.repeat(2, axis=0).repeat(2, axis=1)
    assert scores.of_image(scores.score(truth, finer))["kaggle"] == 1.0
    assert scores.of_image(scores.score(finer, truth))["kaggle"] == 1.0


# which images


def samples(counts):
    return [
        Sample(f"{group}{rank}", "", group, "val" if rank % 10 == 9 else "train")
        for group, count in counts.items()
        for rank in range(count)
    ]


def test_a_split_and_a_limit():
    given_ = samples({"a": 40, "b": 20})
    held_out = evaluate.choose(given_, "val", None)
    assert [one.image for one in held_out] == ["a9", "a19", "a29", "a39", "b9", "b19"]
    assert len(evaluate.choose(given_, "train", None)) == 54
    assert evaluate.choose(given_, "all", None) == given_
    few = [one.image for one in evaluate.choose(given_, "val", 3)]
    assert len(few) == len(set(few)) == 3
    assert {name[0] for name in few} == {"a", "b"}
    assert evaluate.choose(given_, "val", 100) == held_out


# pictures


def test_a_comparison_is_drawn_in_three_colours():
    picture = np.full((7, 12, 3), 100, np.uint8)
    truth, found = np.zeros((7, 12), int), np.zeros((7, 12), int)
    truth[1:6, 1:6] = 1
    found[1:6, 1:5] = 4
    truth[1:6, 7:11] = 2
    drawn = overlay.compare(picture, truth, found, missed=truth == 2, wrong=found == 9)
    colour = {
        where: tuple(int(value) for value in drawn[3, where]) for where in range(drawn.shape[1])
    }
    assert colour[0] == colour[2] == (100, 100, 100)
    assert colour[1] == overlay.AGREED
    assert (colour[4], colour[5]) == (overlay.FOUND, overlay.TRUE)
    assert (colour[7], colour[8]) == (overlay.TRUE, (60, 144, 162))
    assert (picture == 100).all()


def test_the_page_escapes_names_and_needs_nothing_else():
    one = page.Figure(b"png", "<b>&", ("a < b",))
    text = page.page("t<i>", ["x & y"], [one], [])
    assert "<b>&<" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "a &lt; b" in text
    assert "x &amp; y" in text
    assert "<title>t&lt;i&gt;</title>" in text
    assert base64.b64encode(b"png").decode() in text
    assert "drawn at random" not in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert "http" not in text


# the command


@pytest.fixture(scope="module")
def nuclei():
    return demo.make_slide(640, seam_px=128)


def write(folder, name, image, labels):
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    if name.endswith(".tif"):
        tifffile.imwrite(folder / "images" / name, image)
    else:
        Image.fromarray(image).save(folder / "images" / name)
    tifffile.imwrite(folder / "labels" / f"{name.rsplit('.', 1)[0]}.tif", labels)


def bytes_of(image):
    return (np.clip(image / 4095, 0, 1) ** 0.5 * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def judged(nuclei, tmp_path_factory):
    """Three images, one of them large and one with a name to escape, evaluated by the command."""
    image, truth = nuclei
    folder = tmp_path_factory.mktemp("data") / "set"
    write(folder, "a.tif", image[:100, :120], truth[:100, :120])
    write(folder, "b<i>&.png", bytes_of(image[200:340, 300:420]), truth[200:340, 300:420])
    write(folder, "c.tif", image[:130], truth[:130])
    out = folder.parent / "out"
    done = command.nucleiflow(
        "evaluate", folder, "--out", out, "--json", out.parent / "x" / "all.json", "--quiet"
    )
    assert (done.code, done.err) == (0, "")
    return folder, out, done.out


def test_the_figures_are_those_of_the_labels_that_the_pipeline_wrote(judged):
    folder, out, _ = judged
    content = json.loads((out / "evaluation.json").read_text())
    assert json.loads((out.parent / "x" / "all.json").read_text()) == content
    rows = {row["image"]: row for row in content["per_image"]}
    assert set(rows) == {"images/a.tif", "images/b<i>&.png", "images/c.tif"}
    hits = found_all = true_all = 0
    for name, row in rows.items():
        stem = name.removeprefix("images/").rsplit(".", 1)[0]
        truth = tifffile.imread(folder / "labels" / f"{stem}.tif").astype(int)
        stored = command.labels(out / "runs" / re.sub(r"[<>&]", "_", stem))
        found = metrics.resized(stored, truth.shape).astype(int)
        theirs = stardist(framed(truth), framed(found), 0.5)
        assert row["true"] == len(np.unique(truth)) - 1 > 0
        assert row["found"] == len(np.unique(found)) - 1
        assert row["iou"]["0.5"]["ap"] == pytest.approx(theirs["accuracy"], abs=6e-5)
        assert row["aji"] == pytest.approx(dense_aji(truth, found), abs=6e-5)
        assert (row["status"], row["split"], row["stain"]) == ("done", "train", "fluorescence")
        hits += theirs["tp"]
        found_all += row["found"]
        true_all += row["true"]
    assert hits > 0, "some nuclei are found, or this tests little"
    total = content["total"]
    assert total["iou"]["0.5"]["pooled"]["true_positive"] == hits
    assert (total["images"], total["true"], total["found"]) == (3, true_all, found_all)
    assert content["groups"] == content["modalities"] == {"fluorescence": total}


def test_the_json_says_what_was_evaluated(judged):
    _, out, _ = judged
    content = json.loads((out / "evaluation.json").read_text())
    assert (content["folder"], content["split"], content["limit"]) == ("set", "all", None)
    assert (content["images"], content["failed"]) == (3, [])
    assert re.fullmatch(r"[0-9a-f]{64}", content["model"]["sha256"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", content["date"])
    assert content["thresholds"]["iou"] == [0.5, 0.7, 0.9]
    assert str(out) not in json.dumps(content)


def test_the_table_has_a_row_for_each_group_and_the_total(judged):
    lines = judged[2].splitlines()
    assert lines[0] == "set, split all: 3 images"
    content = json.loads((judged[1] / "evaluation.json").read_text())
    for name, row in (
        ("fluorescence", content["groups"]["fluorescence"]),
        ("all", content["total"]),
    ):
        (line,) = (line for line in lines if re.match(rf"{name} +\d+ +\d+ +\d+ ", line))
        figures = re.findall(r"[\d.]+", line)
        assert figures[:3] == ["3", str(row["true"]), str(row["found"])]
        assert figures[3] == f"{row['kaggle']:.3f}"
        assert figures[-3:] == [f"{row['iou'][iou]['pooled']['ap']:.3f}" for iou in row["iou"]]
    titled = next(line for line in lines if line.startswith("group"))
    assert len(titled) == len(line)


def test_the_page_shows_small_pictures(judged):
    text = (judged[1] / "evaluation.html").read_text()
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    ]
    assert sorted(one.size for one in pictures) == [(120, 100), (120, 140), (320, 65)]
    assert "b&lt;i&gt;&amp;.png" in text
    for one in pictures:
        pixels = np.asarray(one.convert("RGB")).astype(int)
        assert (pixels.max(axis=2) - pixels.min(axis=2) > 60).any(), "outlines are coloured"


def test_an_image_that_fails_counts_as_an_empty_answer(nuclei, tmp_path):
    image, truth = nuclei
    for name, y in (("x", 0), ("y", 100)):
        write(
            tmp_path / "set",
            f"{name}.png",
            bytes_of(image[y : y + 90, :90]),
            truth[y : y + 90, :90],
        )
        labels = truth[y : y + 90, :90].astype(np.uint16)
        Image.fromarray(labels).save(tmp_path / "set" / "labels" / f"{name}.png")
    (tmp_path / "set" / "index.csv").write_text("image_id,organ\nx,liver\ny,brain\n")
    bad = tmp_path / "set" / "images" / "y.png"
    bad.write_bytes(bad.read_bytes()[:-200])
    done = command.nucleiflow("evaluate", tmp_path / "set", "--out", tmp_path / "out", "--quiet")
    assert done.code == 3
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["failed"] == ["images/y.png"]
    assert set(content["groups"]) == {"liver", "brain"}
    assert set(content["modalities"]) == {"fluorescence", "unreadable"}
    good, failed = sorted(content["per_image"], key=lambda row: row["image"])
    assert (failed["status"], failed["found"], failed["kaggle"]) == ("failed", 0, 0.0)
    assert failed["true"] > 0
    assert good["status"] == "done"
    assert content["total"]["images"] == 2
    assert content["total"]["true"] == good["true"] + failed["true"]
    assert "failed, counted as nothing found: images/y.png: " in done.out
    page_text = (tmp_path / "out" / "evaluation.html").read_text()
    assert page_text.count("<figure>") == 2


def test_images_of_one_name_are_kept_apart(nuclei, tmp_path):
    image, truth = nuclei
    counts = {}
    for name, y in (("one", 0), ("two", 300)):
        part = truth[y : y + 90, :200]
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "masks").mkdir()
        Image.fromarray(bytes_of(image[y : y + 90, :200])).save(
            tmp_path / name / "images" / "image.png"
        )
        numbers = np.unique(part[part > 0])
        for number in numbers:
            mask = (part == number).astype(np.uint8) * 255
            Image.fromarray(mask).save(tmp_path / name / "masks" / f"{number}.png")
        counts[f"{name}/images/image.png"] = len(numbers)
    json_path = tmp_path / "scores.json"
    done = command.nucleiflow("evaluate", tmp_path, "--json", json_path, "--quiet")
    assert done.code == 0
    rows = json.loads(json_path.read_text())["per_image"]
    assert {row["image"]: row["true"] for row in rows} == counts
    assert len(set(counts.values())) == 2
    assert all(row["iou"]["0.5"]["recall"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "holds no annotated images: it needs images/ and labels/"),
        (("--split", "test"), "split is 'test': choose one of all, val, train"),
        (("--split", "val"), "no image is in the split val"),
        (("--stain", "blue"), "stain is 'blue'"),
        (("--mpp", "1000"), "--mpp is 1000.0"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(nuclei, tmp_path, options, says):
    if options:
        write(tmp_path, "x.tif", nuclei[0][:64, :64], nuclei[1][:64, :64])
    done = command.nucleiflow("evaluate", tmp_path, *options, "--quiet")
    assert done.code == 2
    assert says in done.line
    assert done.out == ""


def test_labels_are_checked_before_the_work(nuclei, tmp_path):
    write(tmp_path / "set", "x.tif", nuclei[0][:64, :64], nuclei[1][:64, :60])
    out = tmp_path / "out"
    done = command.nucleiflow("evaluate", tmp_path / "set", "--out", out, "--quiet")
    assert done.code == 2
    assert "x.tif is 64 x 60 px, but x.tif is 64 x 64 px" in done.line
    (tmp_path / "set" / "labels" / "x.tif").unlink()
    done = command.nucleiflow("evaluate", tmp_path / "set", "--out", out, "--quiet")
    assert done.code == 2
    assert "labels has no label image named as x.tif" in done.line
    assert not out.exists()


def test_labels_at_a_working_resolution_are_scored_at_that_of_the_truth(nuclei, tmp_path):
    truth = nuclei[1][:100, :121]
    write(tmp_path / "set", "x.tif", nuclei[0][:100, :121], truth)
    resolution = ("--mpp", 0.25, "--working-mpp", 0.5)
    arguments = ("evaluate", tmp_path / "set", "--out", tmp_path / "out", "--quiet", *resolution)
    assert command.nucleiflow(*arguments).code == 0
    stored = command.labels(tmp_path / "out" / "runs" / "x")
    assert stored.shape[0] == 50
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    found = metrics.resized(stored, truth.shape).astype(int)
    expected = stardist(framed(truth.astype(int)), framed(found), 0.5)
    (row,) = content["per_image"]
    assert row["iou"]["0.5"]["precision"] == pytest.approx(expected["precision"], abs=6e-5)
    assert row["dice"] == pytest.approx(metrics.dice(truth, found), abs=6e-5)
    assert (content["options"]["mpp"], content["options"]["working_mpp"]) == (0.25, 0.5)
