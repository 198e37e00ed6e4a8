"""Annotated images are found in every layout, with the right labels; what is wrong is said."""

import csv
import hashlib

import command
import numpy as np
import pytest
import tifffile
from PIL import Image

from nucleiflow import dataset, layouts
from nucleiflow.errors import ConfigError, NucleiflowError, SlideError

RNG = np.random.default_rng(5)
DARK = np.pad(RNG.integers(90, 200, (8, 8)), 11).astype(np.uint8)  # 30 x 30, a light on black
LABELS = (DARK > 0).astype(np.uint16)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels, photometric=options.get("photometric", "minisblack"))
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


def indexed(root, names, column="modality"):
    root.mkdir(exist_ok=True)
    with (root / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", column), *names])
    for name, _ in names:
        save(root / "images" / f"{name}.png", DARK)
        save(root / "labels" / f"{name}.png", LABELS)
    return root


def kaggle(root, name, image=DARK, masks=()):
    save(root / name / "images" / f"{name}.png", image)
    (root / name / "masks").mkdir()
    for number, mask in enumerate(masks):
        save(root / name / "masks" / f"{number}.png", mask)
    return root


def pair(root, name, image, labels, kind="labels", suffix=".png"):
    save(root / "images" / name, image)
    return save(root / kind / (name.split(".")[0] + suffix), labels)


# index.csv


def test_every_tenth_of_each_group_is_for_validation(tmp_path):
    names = [(f"{letter}{number:02}", letter) for letter in "ab" for number in range(25)]
    RNG.shuffle(names)
    samples = layouts.find(indexed(tmp_path, names))
    assert [one.name for one in samples] == sorted(name for name, _ in names)
    assert {one.name for one in samples if one.split == "val"} == {"a09", "a19", "b09", "b19"}
    assert {(one.name[0], one.group, one.modality) for one in samples} == {
        ("a", "a", "a"),
        ("b", "b", "b"),
    }


def test_an_organ_is_a_group_and_no_modality(tmp_path):
    (one,) = layouts.find(indexed(tmp_path, [("x", "human liver")], "organ"))
    assert (one.group, one.modality) == ("human liver", "")


@pytest.mark.parametrize(
    ("name", "count", "digest"), [("dsb2018", 60, "ea8152d0"), ("nuinsseg", 48, "60c4c3f0")]
)
def test_the_validation_split_of_the_real_data_stays_as_it_is(name, count, digest):
    folder = command.DATA / name
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    held_out = [one.name for one in layouts.find(folder) if one.split == "val"]
    found = hashlib.sha256("\n".join(held_out).encode()).hexdigest()[:8]
    assert (len(held_out), found) == (count, digest)


# one folder per image


def test_masks_are_numbered_by_file_name_and_the_later_wins(tmp_path):
    first, second = (np.zeros((30, 30), np.uint8) for _ in range(2))
    first[2:10, 2:10] = 255
    second[8:20, 8:20] = 255
    empty = np.zeros((30, 30), np.uint8)
    kaggle(tmp_path / "stage1_train", "one", np.dstack([DARK] * 3 + [DARK * 0]), [first, second])
    kaggle(tmp_path / "stage1_train", "two", DARK, [empty])
    kaggle(tmp_path / "stage1_train", "three", DARK)
    for root in (tmp_path, tmp_path / "stage1_train"):
        samples = {one.name: one for one in layouts.find(root)}
        assert list(samples) == ["one", "three", "two"]
        assert {one.group for one in samples.values()} == {"fluorescence"}
        image, labels = layouts.read(samples["one"])
        np.testing.assert_array_equal(image, np.dstack([DARK] * 3))
        expected = np.where(first, 1, 0)
        expected[8:20, 8:20] = 2
        np.testing.assert_array_equal(labels, expected)
        assert not layouts.read(samples["two"])[1].any()
        assert layouts.read(samples["three"])[1].shape == (30, 30)


def test_masks_with_colour_or_alpha_are_read_by_what_is_not_black(tmp_path):
    mask = np.zeros((30, 30), np.uint8)
    mask[3:7, 4:9] = 255
    opaque = np.full_like(mask, 255)
    forms = [mask, np.dstack([mask, opaque]), np.dstack([mask, mask * 0, mask * 0, opaque])]
    kaggle(tmp_path, "a", DARK, forms[:1])
    for number, form in enumerate(forms):
        kaggle(tmp_path / str(number), "a", DARK, [form])
        (one,) = layouts.find(tmp_path / str(number))
        np.testing.assert_array_equal(layouts.read(one)[1], mask > 0)


# plain pairs


@pytest.mark.parametrize("kind", ["labels", "masks"])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".png", "uint8"),
        (".png", "uint16"),
        (".tif", "uint8"),
        (".tif", "uint16"),
        (".tif", "uint32"),
    ],
)
def test_pairs_of_every_kind(tmp_path, kind, suffix, dtype):
    labels = np.arange(900).reshape(30, 30).astype(dtype)
    pair(tmp_path, "x.tif", DARK.astype(np.uint16) * 200, labels, kind, suffix)
    (one,) = layouts.find(tmp_path)
    image, read = layouts.read(one)
    np.testing.assert_array_equal(image[..., 0], DARK.astype(np.uint16) * 200)
    np.testing.assert_array_equal(read, labels)
    assert (read.dtype, one.split, one.group) == (np.dtype(dtype), "train", "fluorescence")


def test_groups_are_recognised_stains_and_alpha_is_dropped(tmp_path):
    bright = np.where(DARK > 0, 60, 230).astype(np.uint8)
    purple = np.where(DARK[..., None] > 0, [90, 30, 140], [240, 220, 235]).astype(np.uint8)
    opaque = np.full((30, 30), 255, np.uint8)
    pair(tmp_path, "f.ome.tif", DARK, LABELS, suffix=".png")
    pair(tmp_path, "b.png", np.dstack([bright, opaque]), LABELS)
    pair(tmp_path, "h.png", np.dstack([purple, opaque]), LABELS)
    pair(tmp_path, "j.jpg", purple, LABELS, suffix=".tif")
    found = {one.name: one for one in layouts.find(tmp_path)}
    assert {name: one.group for name, one in found.items()} == {
        "f": "fluorescence",
        "b": "brightfield",
        "h": "h&e",
        "j": "h&e",
    }
    np.testing.assert_array_equal(layouts.read(found["b"])[0][..., 0], bright)
    np.testing.assert_array_equal(layouts.read(found["h"])[0], purple)
    assert next(iter(dataset.planes(found.values()))).group == "brightfield"


def test_a_palette_of_colours_is_read_as_numbers(tmp_path):
    picture = Image.fromarray(LABELS.astype(np.uint8) * 3, "P")
    picture.putpalette(RNG.permutation(768).astype(np.uint8).tobytes())
    (tmp_path / "labels").mkdir()
    picture.save(tmp_path / "labels" / "x.png")
    save(tmp_path / "images" / "x.png", DARK)
    (one,) = layouts.find(tmp_path)
    np.testing.assert_array_equal(layouts.read(one)[1], LABELS * 3)


# what can be wrong


def problem(root):
    """The one line that finding and reading all samples of a folder ends in."""
    with pytest.raises(NucleiflowError) as caught:
        [layouts.read(one) for one in layouts.find(root)]
    assert isinstance(caught.value, ConfigError | SlideError)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_folders_that_hold_nothing(tmp_path):
    assert "is not a folder" in problem(tmp_path / "absent")
    assert "holds no annotated images: it needs images/" in problem(tmp_path)
    (tmp_path / "images").mkdir()
    assert "no labels/ or masks/" in problem(tmp_path)
    (tmp_path / "labels").mkdir()
    assert "images is empty" in problem(tmp_path)
    (tmp_path / "index.csv").write_text("image_id,modality\n")
    assert "lists no image" in problem(tmp_path)
    (tmp_path / "index.csv").write_text("name,modality\nx,y\n")
    assert "lacks the column image_id" in problem(tmp_path)


def test_labels_or_images_that_are_missing(tmp_path):
    indexed(tmp_path / "a", [("x", "m"), ("y", "m")])
    (tmp_path / "a" / "labels" / "y.png").unlink()
    assert "y.png is missing" in problem(tmp_path / "a")
    (tmp_path / "a" / "images" / "x.png").unlink()
    assert "lacks x, which index.csv lists" in problem(tmp_path / "a")
    for name in ("x.png", "y.png"):
        pair(tmp_path / "b", name, DARK, LABELS).unlink()
    assert "x.png in images/ (2 of 2 images" in problem(tmp_path / "b")
    kaggle(tmp_path / "c", "x")
    (tmp_path / "c" / "x" / "masks").rmdir()
    assert "has no masks/" in problem(tmp_path / "c")


def test_more_than_one_file_of_a_name(tmp_path):
    pair(tmp_path, "x.png", DARK, LABELS)
    save(tmp_path / "images" / "x.tif", DARK)
    assert "holds x.png and x.tif: keep one" in problem(tmp_path)
    kaggle(tmp_path / "k", "x")
    save(tmp_path / "k" / "x" / "images" / "other.png", DARK)
    assert "holds 2 images: it needs exactly one" in problem(tmp_path / "k")


def test_sizes_that_differ(tmp_path):
    pair(tmp_path / "p", "x.png", DARK, LABELS[:20])
    assert "x.png is 20 x 30 px, but x.png is 30 x 30 px" in problem(tmp_path / "p")
    kaggle(tmp_path / "k", "x", DARK, [LABELS[:, :9].astype(np.uint8)])
    assert "0.png is 30 x 9 px, but its image is 30 x 30 px" in problem(tmp_path / "k")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ((LABELS * 255).astype(np.uint8), "connected components are not instances"),
        (LABELS * np.uint16(65535), "connected components are not instances"),
        (LABELS > 0, "connected components are not instances"),
        (np.dstack([LABELS.astype(np.uint8)] * 3), "is uint8 of 30 x 30 x 3"),
    ],
    ids=["0 and 255", "0 and 65535", "1 bit", "colour"],
)
def test_label_images_that_are_none(tmp_path, labels, says):
    pair(tmp_path, "x.png", DARK, labels)
    assert says in problem(tmp_path)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (LABELS.astype(np.float32), "is float32"),
        (-LABELS.astype(np.int16), "holds -1"),
        (np.stack([LABELS] * 4), None),
    ],
)
def test_label_tiffs_that_are_none(tmp_path, labels, says):
    pair(tmp_path, "x.png", DARK, labels, suffix=".tif")
    if says is None:  # a stack: its first plane
        np.testing.assert_array_equal(layouts.read(*layouts.find(tmp_path))[1], LABELS)
    else:
        assert says in problem(tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    path = pair(tmp_path / "a", "x.png", DARK, LABELS)
    path.write_bytes(path.read_bytes()[:-40])
    assert "x.png: is damaged or cut short" in problem(tmp_path / "a")
    path.write_bytes(b"\xff\xd8\xff\xe0")
    assert "is a JPEG, which changes labels" in problem(tmp_path / "a")
    path.write_bytes(b"hello")
    assert "is neither PNG nor JPEG" in problem(tmp_path / "a")
    path.write_bytes(b"II*\0hello")
    assert "truncated or damaged" in problem(tmp_path / "a")
    (tmp_path / "a" / "images" / "x.png").write_bytes(b"")
    assert "the file is empty" in problem(tmp_path / "a")


def test_what_is_too_large_is_refused_by_its_header(monkeypatch, tmp_path):
    monkeypatch.setattr(layouts, "MAX_PIXELS", 30 * 30 - 1)
    kaggle(tmp_path / "a", "x")
    assert "30 x 30 px: annotated images are read whole" in problem(tmp_path / "a")
    for suffix in (".png", ".tif"):
        path = pair(tmp_path / suffix, "x.png", DARK[:9], LABELS, suffix=suffix)
        assert f"{path}: 30 x 30 px is too large" in problem(tmp_path / suffix)
