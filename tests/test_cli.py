"""The commands and their options: what they print, what they write, and what they leave alone."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import command
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import nucleiflow
from nucleiflow import progress, source, speeds, stream


def needs(path):
    return pytest.mark.skipif(not path.exists(), reason=f"no real slide at {path}")


def spoken(*arguments):
    """Standard output of a command that did well and wrote nothing else."""
    done = command.nucleiflow(*arguments)
    assert (done.code, done.err) == (0, "")
    return done.out


def parsed(*arguments):
    """The one JSON object that a command prints."""
    return json.loads(spoken(*arguments, "--json"))


def test_version():
    assert spoken("--version") == f"nucleiflow {nucleiflow.__version__}\n"


# info


def test_info_of_a_generated_slide(slide):
    (one,) = parsed("info", slide)["slides"]
    assert one == {
        "slide": str(slide),
        "format": "OME-TIFF",
        "levels": [[700, 900], [350, 450], [175, 225]],
        "downsamples": [1.0, 2.0, 4.0],
        "channels": ["DAPI"],
        "colour": False,
        "dtype": "uint16",
        "mpp": 0.25,
        "mpp_source": "OME PhysicalSizeX",
        "images": [],
        "notes": [],
    }


def test_info_in_words(slide):
    lines = spoken("info", slide).splitlines()
    assert lines[0] == str(slide)
    said = dict(line.split(maxsplit=1) for line in lines[1:])
    assert said["format"] == "OME-TIFF, uint16, grey"
    assert said["levels"].startswith("3: 900 x 700  450 x 350  225 x 175 px")
    assert said["pixel"] == "0.25 µm (OME PhysicalSizeX)"


def test_info_says_what_is_not_known(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    text = spoken("info", tmp_path / "a.tif")
    assert "unknown (none: give --mpp)" in text
    assert re.search(r"note +.*stack of 3", text)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param(
            command.SVS,
            ("Aperio SVS", [2967, 2220], 1, True, "uint8", 0.499),
            marks=needs(command.SVS),
        ),
        pytest.param(
            command.NDPI,
            ("Hamamatsu NDPI", [4864, 3968], 4, True, "uint8", 0.2282),
            marks=needs(command.NDPI),
        ),
        pytest.param(
            command.OME_ZARR,
            ("OME-Zarr 0.4", [682, 682], 3, False, "uint8", None),
            marks=needs(command.OME_ZARR),
        ),
    ],
    ids=["svs", "ndpi", "ome-zarr"],
)
def test_info_of_real_slides(path, says):
    (one,) = parsed("info", path)["slides"]
    mpp = one["mpp"] and round(one["mpp"], 4)
    facts = one["format"], one["levels"][0], len(one["levels"]), one["colour"], one["dtype"]
    assert facts == says[:-1]
    assert says[-1] is None or mpp == says[-1]


def test_info_of_several_slides_is_in_order(slide, small_slide):
    found = parsed("info", small_slide, slide, small_slide)["slides"]
    assert [one["slide"] for one in found] == [str(small_slide), str(slide)]


# plan


def test_plan_tells_the_cost_and_writes_nothing(slide, tmp_path):
    out = tmp_path / "out"
    arguments = ("plan", slide, "--out", out, "--tile-px", 256)
    (one,) = parsed(*arguments, "--workers", 3)["slides"]
    assert (one["height"], one["width"], one["tile_px"], one["workers"]) == (700, 900, 256, 3)
    cost = one["cost"]
    halo = one["halo_px"]
    full, last_row, last_column = (side + 2 * halo for side in (256, 192, 192))
    windows = 6 * full**2 + 3 * full * last_row + 2 * full * last_column + last_row * last_column
    assert cost["tiles"] == 12
    assert cost["network_megapixels"] == pytest.approx(windows / 1e6)
    assert cost["seconds"] is None
    assert (one["fatal"], one["warnings"]) == (None, [])
    text = spoken(*arguments)
    assert "12 of 256 px" in text
    assert "unknown: plan --calibrate" in text
    assert "warning" not in text
    assert not out.exists()


@pytest.mark.parametrize("words", [["--help"], ["info"], ["plan"], ["status"]])
def test_what_only_looks_does_not_import_tensorflow(words, small_slide, tmp_path):
    (tmp_path / "status.json").write_text("{}")
    given = {"info": [small_slide], "plan": [small_slide], "status": [tmp_path]}
    script = (
        "import sys; from nucleiflow import cli\n"
        "try: cli.main()\n"
        "finally: print(sorted({'tensorflow', 'keras', 'numba', 'distributed'} & set(sys.modules)))"
    )
    arguments = [*words, *map(str, given.get(words[0], []))]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]", done


def test_plan_with_calibration_tells_the_time_from_then_on(small_slide, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    done = command.outside("plan", small_slide, "--out", out, "--json", "--calibrate")
    assert (done.code, done.err) == (0, "")
    (one,) = json.loads(done.out)["slides"]
    assert 0.01 < one["cost"]["seconds"] < 600
    assert one["cost"]["network_megapixels"] > one["cost"]["megapixels"]
    assert not out.exists()
    (later,) = parsed("plan", small_slide, "--out", out)["slides"]
    assert later["cost"]["seconds"] == one["cost"]["seconds"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "NaN"])
def test_a_damaged_memory_of_speeds_is_none(text, small_slide, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "nucleiflow").mkdir()
    (tmp_path / "nucleiflow" / "speeds.json").write_text(text)
    assert speeds.remembered("0" * 64, "2/1") is None
    speeds.remember("0" * 64, "2/1", 3.5)
    assert speeds.remembered("0" * 64, "2/1") == 3.5
    assert speeds.remembered("0" * 64, "2/2") is None


def test_plan_warns_of_what_is_missing(tmp_path):
    Image.fromarray(np.zeros((60, 70), np.uint8)).save(tmp_path / "a.png")
    arguments = ("plan", tmp_path / "a.png", "--out", tmp_path / "out")
    (one,) = parsed(*arguments)["slides"]
    assert one["warnings"] == ["µm per pixel: none: give --mpp"]
    assert "warning  µm per pixel" in spoken(*arguments)
    assert parsed(*arguments, "--mpp", 0.5)["slides"][0]["warnings"] == []


def test_plan_refuses_a_disk_that_is_too_small(monkeypatch, slide, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    arguments = ("plan", slide, "--out", tmp_path / "a" / "b")
    done = command.nucleiflow(*arguments)
    assert done.code == 2
    assert "cannot run: " in done.out
    assert "GB may be needed" in done.out
    (one,) = json.loads(command.nucleiflow(*arguments, "--json").out)["slides"]
    assert str(tmp_path / "a" / "b") in one["fatal"]


def test_plan_warns_of_too_little_memory(monkeypatch, slide, tmp_path):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**9))
    arguments = ("plan", slide, "--out", tmp_path, "--workers", 4)
    (one,) = parsed(*arguments)["slides"]
    assert "4 workers may need" in one["warnings"][0]


def test_plan_judges_each_slide_alone(slide, tmp_path):
    (tmp_path / "bad.svs").touch()
    done = command.nucleiflow("plan", tmp_path / "bad.svs", slide, "--json")
    assert done.code == 2
    bad, good = json.loads(done.out)["slides"]
    assert "empty" in bad["fatal"]
    assert bad["cost"] is None
    assert good["fatal"] is None
    assert "cannot run" in command.nucleiflow("plan", tmp_path / "bad.svs").out


def test_the_disk_that_plan_promises_is_enough(finished, slide, tmp_path):
    arguments = ("plan", slide, "--out", tmp_path, "--tile-px", 256)
    promised = parsed(*arguments)["slides"][0]["cost"]["disk_bytes"]
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    used = sum(path.stat().st_size for path in files)
    small = sum(path.stat().st_size for path in files if path.name.endswith(".json"))
    assert used - small <= promised


# run


def test_run_json_is_one_object_on_standard_output(small_slide, tmp_path):
    arguments = ("run", small_slide, "--out", tmp_path, "--workers", 0, "--json")
    for again in (False, True):
        done = command.nucleiflow(*arguments)
        assert done.code == 0
        content = json.loads(done.out)
        assert content["exit_code"] == 0
        (one,) = content["slides"]
        assert one["status"] == "done"
        assert one["nuclei"] == command.labels(tmp_path / "small").max()
        assert one.get("again", False) == again
        assert (tmp_path / "small" / one["labels"]).is_dir()
        assert done.err, "progress goes to standard error"


def test_run_json_tells_of_failure(tmp_path):
    (tmp_path / "bad.svs").touch()
    arguments = ("run", tmp_path / "bad.svs", "--out", tmp_path, "--workers", 0, "--json")
    done = command.nucleiflow(*arguments)
    assert done.code == 2
    content = json.loads(done.out)
    assert content["exit_code"] == 2
    assert content["slides"][0]["status"] == "failed"
    assert "empty" in content["slides"][0]["reason"]


def test_progress_is_plain_lines_without_a_terminal(monkeypatch, small_slide, tmp_path):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(stream, "TICK_SECONDS", 0.0)
    options = ("--workers", 0, "--tile-px", 64)
    done = command.nucleiflow("run", small_slide, "--out", tmp_path, *options)
    assert (done.code, done.out) == (0, "")
    lines = done.err.splitlines()
    tiles = [line for line in lines if re.search(r"\d+/\d+ tiles", line)]
    pattern = r"small  (\w+)  (\d+)/(\d+) tiles(  \d+\.\d\d MP/s)?(?:  \d+:\d\d:\d\d left)?"
    told = [re.fullmatch(pattern, line).groups() for line in tiles]
    segmented = [int(done) for name, done, *_ in told if name == "segment"]
    assert segmented == sorted(segmented)
    assert {total for name, _, total, _ in told if name == "segment"} <= {"35"}
    assert segmented, "nothing was told of the longest stage"
    assert any(pace for *_, pace in told)
    assert "\r" not in done.err
    assert "\x1b" not in done.err
    last = lines[-1]
    assert re.match(r"small: .*; [\d,]+ nuclei in 0\.1 MP, \d+\.\d s \(.* MP/s\) -> ", last)


def test_final_word_says_what_was_done(finished):
    word = finished.word
    assert word["nuclei"] == finished.labels.max() == len(np.unique(finished.labels)) - 1
    assert (word["height"], word["width"], word["mpp"]) == (700, 900, 0.25)
    assert (word["status"], word["holes"]) == ("done", [])
    assert set(word["seconds"]) == {
        *("image", "look", "segment", "merge", "label", "tally"),
        *("measure", "neighbours", "export"),
    }
    batch = command.records.get_json(finished.folder.parent / "batch.json")
    assert batch["model"]["sha256"] == word["fingerprint"]["model"]
    assert "absent" not in batch["versions"].values()


def test_working_at_a_level_and_with_an_mpp(slide, tmp_path):
    _, word = command.segment(slide, tmp_path / "level", "--level", 1)
    assert (word["height"], word["width"], word["mpp"]) == (350, 450, 0.5)
    _, word = command.segment(slide, tmp_path / "mpp", "--level", 1, "--mpp", 0.3)
    assert word["mpp"] == 0.6, "--mpp is that of level 0"


def test_a_channel_by_name_or_number(field, tmp_path):
    stack = np.stack([field[:200, :200], field[300:500, 300:500]])
    about = {"axes": "CYX", "Channel": {"Name": ["CD3", "Hoechst"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata=about)
    slide = tmp_path / "a.ome.tif"
    dye, word = command.segment(slide, tmp_path / "dye")
    assert word["normalisation"]["channels"] == [1]
    by_name, _ = command.segment(slide, tmp_path / "name", "--channel", "hoechst")
    first, word = command.segment(slide, tmp_path / "first", "--channel", 0)
    assert word["normalisation"]["channels"] == [0]
    np.testing.assert_array_equal(dye, by_name)
    assert not np.array_equal(dye, first)


# which slides, and where their results go


def test_folders_and_globs_and_names(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("2.tif", "1.SVS", "notes.txt", ".hidden.tif", "3.ome.tiff"):
        (tmp_path / "a" / name).touch()
    (tmp_path / "a" / "4.ome.zarr").mkdir()
    (tmp_path / "a" / "folder.tif").mkdir()
    found = [path.rsplit("/", 1)[1] for path in source.find([str(tmp_path / "a")])]
    assert found == ["1.SVS", "2.tif", "3.ome.tiff", "4.ome.zarr"]
    found = source.find([str(tmp_path / "a" / "[23]*"), str(tmp_path / "a" / "2.tif")])
    assert [path.rsplit("/", 1)[1] for path in found] == ["2.tif", "3.ome.tiff"]
    (tmp_path / "a" / "[9].tif").touch()
    assert source.find([str(tmp_path / "a" / "[9].tif")]) == [str(tmp_path / "a" / "[9].tif")]


def test_slides_of_one_name_get_folders_of_their_own(field, tmp_path):
    slides = [tmp_path / "a" / "x.tif", tmp_path / "b" / "x.tif", tmp_path / "b" / "y.tif"]
    for number, path in enumerate(slides):
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, field[100 * number : 100 * number + 90, :80])
    out = tmp_path / "out"
    arguments = ("run", *slides[:2], tmp_path / "b", "--out", out, "--workers", 0, "--json")
    done = command.nucleiflow(*arguments)
    words = json.loads(done.out)["slides"]
    assert [word["slide"] for word in words] == [str(path) for path in slides]
    folders = [word["folder"] for word in words]
    assert len(set(folders)) == 3
    assert folders[2] == str(out / "y")
    assert all(re.fullmatch(r"x-[0-9a-f]{8}", folder.rsplit("/", 1)[1]) for folder in folders[:2])
    again = json.loads(command.nucleiflow(*arguments).out)["slides"]
    assert [word["folder"] for word in again] == folders
    assert all(word["again"] for word in again)


# overlay


def test_overlay_of_a_region_and_of_the_whole(finished, tmp_path):
    path = tmp_path / "a.png"
    options = ("--png", path, "--region", "100:300,200:500")
    assert spoken("overlay", finished.folder, *options) == f"{path}\n"
    picture = imagecodecs.png_decode(path.read_bytes())
    assert (picture.shape, picture.dtype) == ((200, 300, 3), np.uint8)
    assert (picture.max(axis=2) > picture.min(axis=2)).any(), "outlines are coloured"
    spoken("overlay", finished.folder, "--png", path, "--whole")
    assert imagecodecs.png_decode(path.read_bytes()).shape == (700, 900, 3)
    spoken("overlay", finished.folder.parent, "--png", path)
    assert imagecodecs.png_decode(path.read_bytes()).shape == (700, 900, 3)
    spoken("overlay", finished.folder, "--png", path, "--region", "600:2000,-50:100")
    assert imagecodecs.png_decode(path.read_bytes()).shape == (100, 100, 3)


@pytest.mark.parametrize(
    "region", ["everything", "0:10", "0:10,5", "9:3,0:10", "a:b,c:d", "0:10,0:10,0:10", ","]
)
def test_a_region_that_is_none(region, finished, tmp_path):
    done = command.nucleiflow(
        "overlay", finished.folder, "--png", tmp_path / "a.png", "--region", region
    )
    assert done.code == 2
    assert (
        done.line == f"error: region is {region!r}: write it as y0:y1,x0:x1, such as 0:1024,0:1024"
    )
    assert not (tmp_path / "a.png").exists()


def test_a_region_outside_is_refused_with_the_size(finished, tmp_path):
    options = ("--png", tmp_path / "a.png", "--region", "800:900,0:10")
    done = command.nucleiflow("overlay", finished.folder, *options)
    assert done.code == 2
    assert "outside the slide of 700 x 900 px" in done.line


def test_overlay_of_what_is_not_finished(tmp_path):
    done = command.nucleiflow("overlay", tmp_path, "--png", tmp_path / "a.png")
    assert done.code == 2
    assert "holds no finished slide" in done.line


def test_overlay_that_cannot_be_written(finished, tmp_path):
    (tmp_path / "no").write_text("a file in the way")
    done = command.nucleiflow("overlay", finished.folder, "--png", tmp_path / "no" / "a.png")
    assert done.code == 2
    assert "cannot be written" in done.line


# demo


def test_demo_compares_with_the_truth(tmp_path):
    done = command.nucleiflow("demo", tmp_path, "--size-px", 512, "--workers", 0)
    assert done.code == 0
    said = done.out + done.err
    for name in ("true nuclei", "found rightly", "F1", "panoptic quality", "recall, on tile seams"):
        assert re.search(rf"^{name} +[\d,.]+", said, re.MULTILINE), name
    assert imagecodecs.png_decode((tmp_path / "overlay.png").read_bytes()).shape == (512, 512, 3)
    assert tifffile.imread(tmp_path / "demo.ome.tif", level=0).shape == (512, 512)
    assert command.word(tmp_path / "out" / "demo")["status"] == "done"
    again = command.nucleiflow("demo", tmp_path, "--size-px", 512, "--workers", 0)
    assert "already done" in again.err


def test_demo_of_another_size_in_the_same_folder(tmp_path):
    options = ("--workers", 0, "--quiet")
    for size_px in (256, 320):
        done = command.nucleiflow("demo", tmp_path, "--size-px", size_px, *options)
        assert (done.code, done.err) == (0, "")
        assert command.labels(tmp_path / "out" / "demo").shape == (size_px, size_px)
