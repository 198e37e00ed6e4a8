"""Training jobs: exact continuation, the schedule, the averaged weights, and the 2018 recipe."""

import json

import command
import numpy as np
import pytest
import yaml
from skimage.io import imsave

from nucleiflow import classic, demo, inference, model, train
from nucleiflow.errors import ConfigError

# Keras asks its variables for arrays in NumPy's old way when it saves a network.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty small annotated images in the layout images/, labels/, index.csv."""
    folder = tmp_path_factory.mktemp("annotated")
    pixels, labels = demo.make_slide(512)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    rows = ["image_id,modality"]
    for index in range(20):
        y, x = 96 * (index % 4), 96 * (index // 4)
        part = slice(y, y + 96), slice(x, x + 96)
        imsave(
            folder / "images" / f"n{index:02}.png",
            (pixels[part] >> 4).astype(np.uint8),
            check_contrast=False,
        )
        imsave(
            folder / "labels" / f"n{index:02}.png",
            labels[part].astype(np.uint16),
            check_contrast=False,
        )
        rows.append(f"n{index:02},fluorescence")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def job(folder, output, **changes):
    fields = {
        "data": [str(folder)],
        "output": str(output),
        "steps": 6,
        "batch": 2,
        "crop_px": 64,
        "warmup_steps": 2,
        "decay_steps": 2,
        "checkpoint_steps": 3,
        "network": {"filters": [4, 8], "stem_stride": 2, "batch_norm": True},
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(fields | changes))
    return path


def weights(path):
    return inference.read_network(str(path), model.digest(path)).get_weights()


def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(folder, tmp_path):
    whole = train.train(
        train.load_job(job(folder, tmp_path / "whole")), resume=False, say=lambda _: None
    )
    first = train.load_job(job(folder, tmp_path / "parts"))
    stopped = []

    def stop(text):
        stopped.append(text)

    interrupted = _Stops(train.batches, after=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.train(first, resume=False, say=stop)
    parts = train.train(first, resume=True, say=stop)
    assert "going on from step 3" in stopped
    for one, other in zip(weights(whole), weights(parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    record = json.loads(parts.with_suffix(".json").read_text())
    assert record["sha256"] == model.digest(parts)
    assert record["training"]["images"] == 18
    assert record["training"]["held_out"] == 2
    assert model.load(parts).reach.stride_px == 4


class _Stops:
    """The same batches, and Ctrl-C after some of them."""

    def __init__(self, batches, after):
        self.batches, self.after = batches, after

    def __call__(self, *given):
        for number, batch in enumerate(self.batches(*given)):
            if number == self.after:
                raise KeyboardInterrupt
            yield batch


def test_batches_depend_on_the_step_alone(folder, tmp_path):
    work = train.load_job(job(folder, tmp_path / "a"))
    planes = train.dataset.planes(train.dataset.find(folder))
    images = list(planes)
    all_, later = list(train.batches(work, images, 0)), list(train.batches(work, images, 4))
    assert len(all_) == 6
    assert len(later) == 2
    for one, other in zip(all_[4:], later, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_the_rate_rises_stays_and_falls(folder, tmp_path):
    work = train.load_job(
        job(folder, tmp_path / "a", steps=100, warmup_steps=10, decay_steps=20, learning_rate=0.5)
    )
    rates = np.array([float(train.rate_at(work, step)) for step in range(101)])
    assert rates[0] == pytest.approx(0.05)
    assert rates[4] == pytest.approx(0.25)
    np.testing.assert_allclose(rates[9:81], 0.5)
    assert rates[90] == pytest.approx(0.25)
    assert rates[100] == 0
    longer = work.model_copy(update={"steps": 200})
    np.testing.assert_allclose(
        [float(train.rate_at(longer, step)) for step in range(80)], rates[:80]
    )


def test_the_exported_network_is_the_average_not_the_last_step(folder, tmp_path):
    """With no averaging at all the file holds the last weights; with much, other ones."""
    last = train.train(
        train.load_job(job(folder, tmp_path / "last", average=0.0)), resume=False, say=str
    )
    mean = train.train(
        train.load_job(job(folder, tmp_path / "mean", average=0.9)), resume=False, say=str
    )
    pairs = list(zip(weights(last), weights(mean), strict=True))
    assert any(np.abs(one - other).max() > 1e-4 for one, other in pairs)


def test_the_classic_recipe_says_what_it_is_worth(folder, tmp_path):
    path = tmp_path / "classic.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "recipe": "classic",
                "data": [str(folder)],
                "output": str(tmp_path / "classic"),
                "epochs": 2,
                "batch": 4,
                "side_px": 32,
                "filters": [4, 8],
            }
        )
    )
    done = command.outside("train", path)
    assert done.code == 0, done.err
    assert "epoch 2/2  pixel accuracy: training" in done.out
    record = json.loads((tmp_path / "classic.json").read_text())
    assert len(record["training"]["epochs_seen"]) == 2
    assert record["instances"]["all"]["images"] == 2
    assert 0 <= record["instances"]["fluorescence"]["pixel_accuracy"] <= 1


def test_the_classic_network_learns(folder, tmp_path):
    """Pixel accuracy on the training images beats calling everything background."""
    work = classic.ClassicJob(
        recipe="classic",
        data=(folder,),
        output=tmp_path / "learns",
        epochs=12,
        batch=2,
        side_px=64,
        filters=(8, 16),
        learning_rate=0.005,
    )
    classic.train(work, say=lambda _: None)
    record = json.loads((tmp_path / "learns.json").read_text())
    background = np.mean(
        [(train.dataset.read(one)[1] == 0).mean() for one in train.dataset.find(folder)]
    )
    assert record["training"]["epochs_seen"][-1]["binary_accuracy"] > background + 0.02


def test_squeezing_keeps_what_is_nucleus():
    labels = np.zeros((40, 60), np.uint16)
    labels[10:30, 20:50] = 7
    image = (labels[..., None] * 1000).astype(np.uint16)
    small, mask = classic.squeeze(image, labels, 32)
    assert small.shape == (32, 32, 3)
    assert mask.shape == (32, 32, 1)
    assert mask.mean() == pytest.approx((labels > 0).mean(), abs=0.03)
    assert small[16, 18, 0] == pytest.approx(7000 / 65535 * 255, abs=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: 3", "data"),
        ("recipe: modern\ndata: [a]\noutput: b", "recipe"),
        ("data: [a]\noutput: b\nsteps: 0", "steps"),
        ("data: [a]\noutput: b\nsteps: 3\nepochs: 3", "epochs"),
        ("data: [a]\noutput: b\nsteps: 3\nprecision: float16", "precision"),
        ("data: [a]\noutput: b\nsteps: 3\nnetwork: {stem_stride: 3}", "stem_stride is 3"),
        ("data: [a]\noutput: b\nsteps: 3\nnetwork: {filters: [4]}", "filters is [4]"),
        (
            "data: [a]\noutput: b\nsteps: 3\ncrop_px: 48\nnetwork: {filters: [1, 1, 1, 1, 1, 1]}",
            "crop_px is 48: this network needs a multiple of 32",
        ),
        ("- 1", "dictionary"),
        ("a: [", "not YAML"),
    ],
)
def test_a_faulty_job_is_one_clear_line(tmp_path, text, says):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        train.load_job(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_weight_for_a_group_that_is_not_there_is_refused(folder, tmp_path):
    path = job(folder, tmp_path / "slip", group_weights={"Fluorescence": 2.0})
    done = command.nucleiflow("train", path)
    assert done.code == 2
    assert "group_weights names 'Fluorescence': there are fluorescence" in done.err


@pytest.mark.parametrize("flag", ["--resume", "--from=weights.keras"])
def test_the_classic_recipe_begins_from_nothing(flag, folder, tmp_path):
    path = tmp_path / "classic.yaml"
    path.write_text(
        yaml.safe_dump({"recipe": "classic", "data": [str(folder)], "output": str(tmp_path / "c")})
    )
    done = command.nucleiflow("train", path, flag)
    assert done.code == 2
    assert done.line.startswith(f"error: {flag.split('=')[0]}: ")
