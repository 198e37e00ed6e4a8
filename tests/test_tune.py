"""`train --from` goes on from the very function that a file computes, on data of another job."""

import json

import command
import keras
import numpy as np
import pytest
import yaml
from keras import layers
from PIL import Image

from nucleiflow import demo, inference, model, train, unet
from nucleiflow.errors import ConfigError, ModelError
from nucleiflow.unet import Design

# Keras 3.15 itself, when it reads its weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DESIGN = Design((3, 4, 5), stem_stride=2, decoder_convolutions=1, batch_norm=True)
KNOWN = {"postprocessing": {"seed_threshold": 99}, "resolution": {"mpp": [0.2, 0.6]}}


def trained(design, path):
    """The file that a training of this design would write, its batch norm not the identity."""
    keras.utils.set_random_seed(7)
    generator = np.random.default_rng(7)
    network = unet.build(design)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.get_weights()[0].shape
            layer.set_weights([generator.uniform(0.5, 2, size) for _ in range(4)])
    unet.fold(network, design).save(path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = trained(DESIGN, tmp_path_factory.mktemp("base") / "base.keras")
    path.with_suffix(".json").write_text(json.dumps({**KNOWN, "training": {"steps": 9}}))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve annotated images of 64 px."""
    folder = tmp_path_factory.mktemp("data")
    image, truth = demo.make_slide(256, seam_px=128)
    for kind, array in (("images", np.minimum(image >> 4, 255)), ("labels", truth)):
        (folder / kind).mkdir()
        for index in range(12):
            y, x = divmod(index, 4)
            part = array[64 * y : 64 * y + 64, 64 * x : 64 * x + 64]
            dtype = np.uint8 if kind == "images" else np.uint16
            Image.fromarray(part.astype(dtype)).save(folder / kind / f"{index}.png")
    return folder


def job_file(folder, data, **chosen):
    content = {
        "data": [str(data)], "output": str(folder / "tuned"), "steps": 2, "batch": 2, "crop_px": 64,
        "warmup_steps": 0, **chosen,
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    return folder / "job.yaml"


def predicted(path):
    pixels = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3)).astype(np.float32)
    return np.asarray(inference.read_network(path, model.digest(path))(pixels, training=False))


def test_the_first_prediction_is_that_of_the_file(base, data, tmp_path):
    start = train.start_from(base, train.load_job(job_file(tmp_path, data)))
    assert start.design == Design((3, 4, 5), stem_stride=2, decoder_convolutions=1)
    network = unet.build(start.design)
    network.set_weights(start.weights)
    pixels = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3)).astype(np.float32)
    for training in (False, True):
        found = np.asarray(network(pixels, training=training))
        np.testing.assert_array_equal(found, predicted(base))
    assert predicted(base).std() > 0.01


@pytest.mark.parametrize("design", [Design((2, 3)), Design((2, 3, 4), stem_stride=2, outputs=1)])
def test_the_design_is_read_from_the_network(design):
    assert unet.design_of(unet.build(design)) == design


def test_a_training_of_no_step_size_changes_nothing(base, data, tmp_path):
    job = job_file(tmp_path, data, learning_rate=1e-30, network={"filters": [9, 9]})
    done = command.nucleiflow("train", job, "--from", base)
    assert (done.code, done.err) == (0, "")
    np.testing.assert_allclose(predicted(tmp_path / "tuned.keras"), predicted(base), atol=1e-6)
    known = model.sidecar(tmp_path / "tuned.keras")
    assert known["training"]["from"] == model.digest(base)
    assert known["training"]["before"] == {"steps": 9}
    assert known["training"]["network"]["filters"] == [3, 4, 5]
    found = model.load(tmp_path / "tuned.keras")
    assert found.postprocessing("h&e").seed_threshold == 99
    assert found.mpp_range == (0.2, 0.6)


def test_tuning_moves_the_weights_and_is_resumed(base, data, tmp_path):
    short = {"learning_rate": 0.01, "postprocessing": {"grow_px": 3}, "checkpoint_steps": 1}
    job = job_file(tmp_path, data, **short)
    assert command.nucleiflow("train", job, "--from", base).code == 0
    two = predicted(tmp_path / "tuned.keras")
    assert np.abs(two - predicted(base)).max() > 1e-3
    job_file(tmp_path, data, **short, steps=4)
    done = command.nucleiflow("train", job, "--from", base, "--resume")
    assert "going on from step 2" in done.out
    four = predicted(tmp_path / "tuned.keras")
    other = tmp_path / "other"
    other.mkdir()
    whole = job_file(other, data, **short, steps=4)
    assert command.nucleiflow("train", whole, "--from", base).code == 0
    np.testing.assert_allclose(predicted(other / "tuned.keras"), four, atol=1e-5)
    assert model.load(tmp_path / "tuned.keras").postprocessing("h&e").grow_px == 3


def other_network(path):
    pixels = keras.Input((None, None, 3))
    keras.Model(pixels, layers.Conv2D(2, 3, padding="same", activation="sigmoid")(pixels)).save(
        path
    )


def renamed(path):
    """Another's U-Net that has the names of ours."""
    pixels = keras.Input((None, None, 3))
    tensor = pixels
    for name in ("down0a", "down0b", "up0a"):
        tensor = layers.Conv2D(2, 3, padding="same", activation="sigmoid", name=name)(tensor)
    keras.Model(pixels, tensor).save(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: trained(Design((2, 3), outputs=1), path), "gives 1 maps: training goes on"),
        (other_network, "is not one that `nucleiflow train` wrote"),
        (renamed, "is not one that `nucleiflow train` wrote"),
        (lambda path: path.write_bytes(b"nothing"), "is not a Keras file"),
        (lambda path: trained(Design((2,) * 6, stem_stride=2), path), "a multiple of 64"),
    ],
)
def test_networks_to_begin_from_are_checked_first(write, message, data, tmp_path):
    write(tmp_path / "other.keras")
    job = train.load_job(job_file(tmp_path, data, crop_px=48))
    with pytest.raises((ModelError, ConfigError), match=message):
        train.start_from(tmp_path / "other.keras", job)
    done = command.nucleiflow("train", tmp_path / "job.yaml", "--from", tmp_path / "other.keras")
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_file_is_not_tuned_onto_itself(base, data, tmp_path):
    job = job_file(tmp_path, data, output=str(base.with_suffix("")))
    done = command.nucleiflow("train", job, "--from", base)
    assert done.code == 2
    assert "is where the job writes" in done.line


def test_thresholds_of_a_job_are_checked(data, tmp_path):
    with pytest.raises(ConfigError, match=r"postprocessing.*seed_threshold is 999"):
        train.load_job(job_file(tmp_path, data, postprocessing={"seed_threshold": 999}))
