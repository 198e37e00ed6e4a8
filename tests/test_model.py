"""Models of one's own: what keeps the contract is taken, all else is refused with the way out."""

import copy
import json
import pickle
import subprocess
import sys
import zipfile

import command
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from nucleiflow import contract, cost, demo, describe, inference, model, normalise, unet, weakspots
from nucleiflow import settings as sidecars
from nucleiflow.errors import ModelError
from nucleiflow.graph import graph
from nucleiflow.settings import Postprocessing
from nucleiflow.unet import Design

# Keras 3.15 itself, when it reads its weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def convolutions(taken=(None, None, 3), maps=2, end="sigmoid", **options):
    pixels = keras.Input(taken)
    tensor = layers.Conv2D(4, 3, padding="same", activation="relu")(pixels)
    return keras.Model(
        pixels, layers.Conv2D(maps, 3, padding="same", activation=end, **options)(tensor)
    )


def ended_by(*stack, maps=2):
    """A network whose last layers are given."""
    pixels = keras.Input((None, None, 3))
    tensor = layers.Conv2D(maps, 3, padding="same")(pixels)
    for layer in stack:
        tensor = layer(tensor)
    return keras.Model(pixels, tensor)


def two_heads(joined):
    pixels = keras.Input((None, None, 3))
    heads = [layers.Conv2D(1, 3, padding="same", activation="sigmoid")(pixels) for _ in range(2)]
    return keras.Model(pixels, joined(heads))


def two_inputs():
    pixels = [keras.Input((None, None, 3), name=name) for name in ("red", "blue")]
    return keras.Model(pixels, layers.Conv2D(2, 1, activation="sigmoid")(layers.Add()(pixels)))


def of_a_batch():
    pixels = keras.Input(batch_shape=(8, None, None, 3))
    return keras.Model(pixels, layers.Conv2D(2, 1, activation="sigmoid")(pixels))


def flat():
    pixels = keras.Input((None, 3))
    return keras.Model(pixels, layers.Conv1D(2, 1, activation="sigmoid")(pixels))


def channels_first():
    pixels = keras.Input((3, None, None))
    head = layers.Conv2D(2, 1, activation="sigmoid", data_format="channels_first")
    return keras.Model(pixels, head(pixels))


def with_an_operation():
    pixels = keras.Input((None, None, 3))
    return keras.Model(pixels, keras.ops.sigmoid(layers.Conv2D(2, 1)(pixels) * 2.0))


def classifier():
    pixels = keras.Input((None, None, 3))
    tensor = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, padding="same")(pixels))
    return keras.Model(pixels, layers.Dense(1, activation="sigmoid")(tensor))


def halved():
    pixels = keras.Input((None, None, 3))
    head = layers.Conv2D(2, 3, strides=2, padding="same", activation="sigmoid")
    return keras.Model(pixels, head(pixels))


@keras.saving.register_keras_serializable("theirs")
class Mine(layers.ReLU):
    """A layer that only its author has."""


@keras.saving.register_keras_serializable("theirs")
def swish_of_mine(values):
    return values


TAKEN = {
    "two maps": (convolutions, 3, 2),
    "one map": (lambda: convolutions(maps=1), 3, 1),
    "one channel": (lambda: convolutions((None, None, 1)), 1, 2),
    "one of each": (lambda: convolutions((None, None, 1), maps=1), 1, 1),
    "hard": (lambda: convolutions(end="hard_sigmoid"), 3, 2),
    "ours": (lambda: unet.build(Design((2, 3), stem_stride=2)), 3, 2),
    "joined heads": (lambda: two_heads(layers.Concatenate()), 3, 2),
    "mean of heads": (lambda: two_heads(layers.Average()), 3, 1),
    "an activation layer": (lambda: ended_by(layers.Activation("sigmoid")), 3, 2),
    "up-sampled maps": (
        lambda: ended_by(
            layers.MaxPooling2D(), layers.Activation("sigmoid"), layers.UpSampling2D()
        ),
        3,
        2,
    ),
    "a chain": (
        lambda: keras.Sequential(
            [
                keras.Input((None, None, 1)),
                layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
            ]
        ),
        1,
        1,
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_keeps_the_contract_is_taken(name, tmp_path):
    build, channels, maps = TAKEN[name]
    built = build()
    if name == "two maps":
        built.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    built.save(tmp_path / "my.keras")
    found = model.load(tmp_path / "my.keras")
    assert (found.contract.channels, found.contract.maps) == (channels, maps)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    seen = inference.predictor(found.path, found.sha256)(pixels)
    assert (seen.shape, seen.dtype) == ((32, 48, 2), np.uint8)
    grey = pixels if channels == 3 else normalise.grey(pixels)
    exact = 255 * np.asarray(built(grey[None].astype(np.float32), training=False))[0]
    np.testing.assert_allclose(seen, np.broadcast_to(exact, seen.shape), atol=0.501)


REFUSED = {
    "fixed size": (lambda: convolutions((256, 256, 3)), "takes only .*256, 256.*rebuild it with"),
    "fixed batch": (of_a_batch, "takes only .*8"),
    "four channels": (lambda: convolutions((None, None, 4)), "takes 4 channels: it gets 3, or 1"),
    "no height": (flat, r"images are \(n, height, width, channels\)"),
    "channels first": (channels_first, r"images are \(n, height, width, channels\)"),
    "two inputs": (two_inputs, r"has 2 inputs \(red, blue\)"),
    "two outputs": (lambda: two_heads(list), "has 2 outputs .*Concatenate"),
    "named outputs": (
        lambda: two_heads(lambda heads: dict(zip("ns", heads, strict=True))), "has 2 outputs"
    ),
    "three maps": (lambda: convolutions(maps=3), "gives 3 maps: it must give 2"),
    "linear": (lambda: convolutions(end=None), "activation linear.*activation='sigmoid'"),
    "relu": (lambda: convolutions(end="relu"), "activation relu"),
    "softmax": (lambda: convolutions(end="softmax"), "each map by itself"),
    "a softmax layer": (lambda: ended_by(layers.Softmax()), "Softmax, activation none"),
    "a sum of maps": (lambda: two_heads(layers.Add()), r"\(Add, activation none\)"),
    "stretched maps": (
        lambda: ended_by(layers.Activation("sigmoid"), layers.Rescaling(255)), "Rescaling"
    ),
    "half the size": (halved, "must be as large as the image"),
    "a classifier": (classifier, "whose reach is unknown or unbounded"),
    "a Lambda": (
        lambda: ended_by(layers.Lambda(lambda x: x), layers.Activation("sigmoid")),
        "is a Lambda, which holds code",
    ),
    "a layer of theirs": (
        lambda: ended_by(Mine(), layers.Activation("sigmoid")), "is a theirs>Mine of .* and only"
    ),
    "an activation of theirs": (lambda: convolutions(end=swish_of_mine), "swish_of_mine"),
    "an operation": (with_an_operation, "only keras.layers are loaded"),
    "a model inside": (lambda: ended_by(convolutions((None, None, 2))), "is a model of its own"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_is_refused_in_one_line(name, tmp_path):
    build, message = REFUSED[name]
    path = tmp_path / "my.keras"
    build().save(path)
    with pytest.raises(ModelError, match=message) as refusal:
        model.load(path)
    assert "my.keras" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ModelError, match=message):
        inference.predictor(str(path), model.digest(path))


def test_a_refusal_reaches_the_user(small_slide, tmp_path):
    convolutions((64, 64, 3)).save(tmp_path / "my.keras")
    options = ("--out", tmp_path / "out", "--workers", 0, "--quiet")
    done = command.nucleiflow("run", small_slide, "--model", tmp_path / "my.keras", *options)
    assert done.code == 2
    assert "rebuild it with keras.Input((None, None, 3))" in done.line
    assert not (tmp_path / "out").exists()


def test_code_is_refused_wherever_it_is_written():
    built = ended_by(layers.Lambda(lambda x: x), layers.Activation("sigmoid"))
    for kind in ("Lambda", "__lambda__"):
        with pytest.raises(ModelError, match="holds code"):
            contract.check(json.loads(built.to_json().replace('"Lambda"', f'"{kind}"')))
    plain = json.loads(convolutions().to_json())
    for module, kind in (("builtins", "function"), ("keras.utils", "get_file"), ("os", "system")):
        for place in ("activation", "kernel_initializer", "kernel_regularizer", "name"):
            changed = copy.deepcopy(plain)
            changed["config"]["layers"][-1]["config"][place] = {
                "module": module, "class_name": kind, "config": "eval", "registered_name": kind,
            }  # fmt: skip
            with pytest.raises(ModelError, match=r"only keras\.layers are loaded"):
                contract.check(changed)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my.h5", b"\x89HDF\r\n\x1a\n", "HDF5.*model.save"),
        ("my.keras", b"\x89HDF\r\n\x1a\n", "HDF5.*model.save"),
        ("my.pkl", b"anything", "pickle, which can run code and is never loaded"),
        ("my.keras", pickle.dumps({"a": 1}), "pickle, which can run code and is never loaded"),
        ("my.pt", b"PK\x03\x04", "pickle"),
        ("my.keras", b"", "is not a Keras file"),
        ("my.keras", b"PK\x03\x04 cut short", "is not a Keras file"),
    ],
)
def test_other_formats_are_told_from_damage(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        model.load(tmp_path / name)


def test_a_saved_model_folder_and_a_missing_file_are_told_apart(tmp_path):
    with pytest.raises(ModelError, match=r"is a folder \(a SavedModel\?\)"):
        model.load(tmp_path)
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        model.load(tmp_path / "my.keras")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "my.keras"
    convolutions().save(path)
    return path


def rewritten(plain, path, extra=(), **changed):
    """A copy of a model file whose members differ."""
    with zipfile.ZipFile(plain) as one, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as other:
        for name in one.namelist():
            other.writestr(name, changed.get(name, one.read(name)))
        for name in extra:
            other.writestr(name, b"more")
    return path


def test_files_that_grow_without_bound_are_refused_before_they_are_unpacked(
    plain, tmp_path, monkeypatch
):
    bomb = rewritten(plain, tmp_path / "a.keras", **{"config.json": b" " * (1 << 24) + b"{}"})
    assert bomb.stat().st_size < 1 << 17
    with pytest.raises(ModelError, match=r"holds config\.json of 17 MB, and 17 MB are the most"):
        model.load(bomb)
    monkeypatch.setitem(model.MEMBERS, "model.weights.h5", 1 << 20)
    bomb = rewritten(plain, tmp_path / "b.keras", **{"model.weights.h5": bytes(1 << 21)})
    with pytest.raises(ModelError, match=r"holds model\.weights\.h5 of 2 MB"):
        model.load(bomb)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_no_network_needs_are_refused(plain, tmp_path):
    for extra in ("assets/vocabulary.txt", "../out", "code.py"):
        with pytest.raises(ModelError, match=f"holds {extra}"):
            model.load(rewritten(plain, tmp_path / "my.keras", extra=[extra]))
    with pytest.raises(ModelError, match="two files of one name"):
        model.load(rewritten(plain, tmp_path / "my.keras", extra=["config.json"]))


def test_networks_too_large_for_any_machine_are_refused():
    config = json.loads(convolutions().to_json())
    config["config"]["layers"][1]["config"]["filters"] = 10**7
    with pytest.raises(ModelError, match="over 268,435,456 parameters"):
        contract.check(config)
    chain = keras.Sequential([
        keras.Input((None, None, 3)), layers.UpSampling2D(1000), layers.MaxPooling2D(1000),
        layers.MaxPooling2D(1000), layers.UpSampling2D(1000),
        layers.Conv2D(2, 1, activation="sigmoid"),
    ])  # fmt: skip
    with pytest.raises(ModelError, match="stride is 1000 px: 256 at most"):
        contract.check(json.loads(chain.to_json()))


def places(part, path=()):
    yield path
    inner = (
        part.items()
        if isinstance(part, dict)
        else enumerate(part)
        if isinstance(part, list)
        else ()
    )
    for key, value in inner:
        yield from places(value, (*path, key))


CONFIG = json.loads(unet.build(Design((2, 3), stem_stride=2)).to_json())
PLACES = [path for path in places(CONFIG) if path]
names = st.sampled_from(["class_name", "name", "config"])
numbers = st.lists(st.integers(-2, 9) | st.none(), max_size=4)
plain_values = st.none() | st.booleans() | st.integers(-3, 300) | st.text(max_size=5)
json_values = plain_values | numbers | st.dictionaries(names, st.text(max_size=3))


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(PLACES), json_values)
def test_a_damaged_description_is_refused_or_harmless(place, value):
    """Whatever is written in one place of the description, there is one line or a contract."""
    config = copy.deepcopy(CONFIG)
    part = config
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    try:
        found = contract.check(config)
    except ModelError:
        return
    assert found.channels in (1, 3)
    assert found.maps in (1, 2)


# sidecars


def test_a_model_without_a_sidecar_has_defaults(plain):
    found = model.load(plain)
    assert found.settings == sidecars.Settings()
    assert {found.postprocessing(stain) for stain in ("h&e", "fluorescence")} == {Postprocessing()}


def test_thresholds_hold_for_all_stains_but_those_that_differ(plain, tmp_path):
    known = {
        "postprocessing": {
            "nucleus_threshold": 100,
            "grow_px": 9,
            "by_stain": {"h&e": {"seed_threshold": 77}, "brightfield": {"grow_px": 0}},
        },
        "resolution": {"mpp": [0.2, 0.6], "nucleus_px": [8, 100]},
        "training": {"anything": "at all"},
    }
    path = rewritten(plain, tmp_path / "my.keras")
    path.with_suffix(".json").write_text(json.dumps(known))
    found = model.load(path)
    assert found.postprocessing("fluorescence") == Postprocessing(100, 128, 9)
    assert found.postprocessing("h&e") == Postprocessing(100, 77, 9)
    assert found.postprocessing("brightfield") == Postprocessing(100, 128, 0)
    assert (found.mpp_range, found.nucleus_px) == ((0.2, 0.6), (8.0, 100.0))
    assert found.settings.inverts


@pytest.mark.parametrize(
    ("chosen", "threshold"),
    [
        ({}, 128),
        ({"nucleus_threshold": 90}, 90),
        ({"nucleus_threshold": 9, "seed_threshold": 8}, 8),
    ],
)
def test_seeds_of_one_map_are_its_nuclei(chosen, threshold):
    known = {"postprocessing": {**chosen, "by_stain": {"h&e": {"grow_px": 1}}}}
    for stain in ("h&e", "fluorescence"):
        assert sidecars.read(known, maps=1).of(stain).seed_threshold == threshold


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"postprocessing": {"treshold": 3}}, "postprocessing.treshold is not known: use nucleus_"),
        ({"postprocessing": {"seed_threshold": "a"}}, "seed_threshold is 'a': use a whole number"),
        ({"postprocessing": {"seed_threshold": 0}}, "is 0: use a whole number, 1 to 255"),
        ({"postprocessing": {"nucleus_threshold": 256}}, "is 256"),
        ({"postprocessing": {"nucleus_threshold": 0.5}}, "is 0.5"),
        ({"postprocessing": {"nucleus_threshold": True}}, "is True"),
        ({"postprocessing": {"grow_px": 257}}, "postprocessing.grow_px is 257: .*0 to 256"),
        ({"postprocessing": {"grow_px": -1}}, "is -1"),
        ({"postprocessing": {"min_seed_area_px": 0}}, "min_seed_area_px is 0: .*1 to"),
        ({"postprocessing": [1]}, r"postprocessing is \[1\]: use an object"),
        ({"postprocessing": {"by_stain": {"ihc": {}}}}, "by_stain.ihc is not known: use fluoresc"),
        ({"postprocessing": {"by_stain": {"h&e": 3}}}, "by_stain.h&e is 3: use an object"),
        ({"postprocessing": {"by_stain": {"h&e": {"x": 3}}}}, "by_stain.h&e.x is not known"),
        (
            {"postprocessing": {"by_stain": {"h&e": {"grow_px": 999}}}},
            "by_stain.h&e.grow_px is 999",
        ),
        ({"input": {"polarity": "dark"}}, "polarity is 'dark': use bright-nuclei or as-is"),
        ({"input": {"colour": "rgb"}}, "input.colour is not known"),
        ({"resolution": {"mpp": [2, 1]}}, r"resolution.mpp is \[2, 1\]: use \[lowest, highest\]"),
        ({"resolution": {"mpp": 0.5}}, "resolution.mpp is 0.5"),
        ({"resolution": {"nucleus_px": [0, 3]}}, "resolution.nucleus_px is"),
        ({"resolution": {"um": [1, 3]}}, "resolution.um is not known"),
        ([1], "must be an object"),
        ({"sha256": "0" * 64}, "is not the file that my.json describes"),
    ],
)
def test_a_sidecar_with_a_mistake_is_refused(known, message, plain, tmp_path):
    path = rewritten(plain, tmp_path / "my.keras")
    path.with_suffix(".json").write_text(json.dumps(known))
    with pytest.raises(ModelError, match=message) as refusal:
        model.load(path)
    assert "my.json" in str(refusal.value)


# what a network costs


def counted(built, side_px=64):
    """Operations per pixel, from the sizes of the tensors of one image: another way to count."""
    convolutions = [layer for layer in built.layers if hasattr(layer, "kernel_size")]
    probe = keras.Model(built.inputs[0], [[one.input, one.output] for one in convolutions])
    tensors = probe(np.zeros((1, side_px, side_px, built.input_shape[-1]), np.float32))
    work = 0
    for layer, (before, after) in zip(convolutions, tensors, strict=True):
        transposed = isinstance(layer, layers.Conv2DTranspose)
        pixels = np.prod((before if transposed else after).shape[1:3])
        kernels = [weight for weight in layer.weights if weight.ndim == 4]
        work += 2 * pixels * sum(np.prod(kernel.shape) for kernel in kernels)
    return work / side_px**2


NETWORKS = {
    "classic": lambda: unet.build(Design()),
    "stem": lambda: unet.build(Design((4, 8, 16), stem_stride=2, decoder_convolutions=1)),
    "batch norm": lambda: unet.build(Design((4, 8), outputs=1, batch_norm=True)),
    "separable": lambda: ended_by(
        layers.SeparableConv2D(6, 3, padding="same", depth_multiplier=2),
        layers.DepthwiseConv2D(5, padding="same", use_bias=False),
        layers.MaxPooling2D(4),
        layers.Conv2D(8, (3, 1), padding="same", groups=2),
        layers.Conv2DTranspose(2, 4, 4, padding="same", activation="sigmoid"),
        maps=4,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_is_counted_from_the_description(name):
    built = NETWORKS[name]()
    found = graph(json.loads(built.to_json()))
    assert cost.parameters(found) == built.count_params()
    assert cost.flop_per_px(found) == pytest.approx(counted(built), rel=1e-6)


def test_the_classic_network_costs_what_it_is_known_to():
    found = graph(json.loads(unet.build(Design()).to_json()))
    assert cost.flop_per_px(found) / 1000 == pytest.approx(92.5, rel=0.02)


# the card


def row(ap):
    at = {"ap": ap, "precision": 0.9, "recall": 0.8, "f1": 0.85, "mean_true_iou": 0.7}
    panoptic = {"pq": 0.71, "sq": 0.8, "rq": 0.89}
    both = {"pooled": 0.66, "by_image": 0.67}
    return {
        "images": 5, "true": 100, "found": 98, "kaggle": 0.44,
        "iou": {iou: {"pooled": at, "by_image": at} for iou in ("0.5", "0.7", "0.9")},
        "panoptic": {"pooled": panoptic, "by_image": panoptic},
        "aji": both, "dice": both, "pixel_accuracy": both,
        "count_error": {"by_image": 0.1, "total": -0.02},
    }  # fmt: skip


def evaluation(sha256):
    return {
        "folder": "dsb2018", "split": "val", "images": 5, "date": "2020-01-01", "version": "1",
        "model": {"name": "my.keras", "sha256": sha256},
        "modalities": {"h&e": row(0.613), "fluorescence": row(0.907)},
        "groups": {"purple <b>": row(0.617)},
        "total": row(0.811),
    }  # fmt: skip


@pytest.fixture
def described(plain, tmp_path):
    """A model with all that may lie beside it."""
    path = rewritten(plain, tmp_path / "my.keras")
    known = {
        "postprocessing": {"seed_threshold": 201, "by_stain": {"h&e": {"seed_threshold": 99}}},
        "resolution": {"mpp": [0.2, 0.6]},
        "training": {
            "command": "nucleiflow train my.yaml",
            "data": [{"name": "A", "licence": "CC0"}],
        },
        "weaknesses": ["mitoses are <missed>"],
    }
    path.with_suffix(".json").write_text(json.dumps(known))
    (tmp_path / "trials.csv").write_text("trial,AP50\nwider,0.9\n")
    (tmp_path / "NOTICE.md").write_text("Thanks to everyone.\n")
    for name, sha256 in (("now", model.digest(path)), ("before", "f" * 64)):
        (tmp_path / f"evaluation-{name}.json").write_text(json.dumps(evaluation(sha256)))
    return path


def test_the_card_says_what_is_known(described):
    done = command.nucleiflow("model", described)
    assert (done.code, done.err) == (0, "")
    for said in (
        model.digest(described), "0.2 to 0.6 µm per pixel", "name: A, licence: CC0", "201", "99",
        "nucleiflow train my.yaml", "0.907", "0.613", "0.811", "wider: AP50 0.9",
        "Thanks to everyone.", "mitoses are <missed>", "bright on dark", "stride 1 px",
        "(measured on other weights (ffffffffffff))",
    ):  # fmt: skip
        assert said in done.out, said
    assert done.out.count("measured on other weights") == 1


def test_the_card_as_json(described):
    done = command.nucleiflow("model", described, "--json")
    found = json.loads(done.out)
    assert found["postprocessing"]["h&e"]["seed_threshold"] == 99
    assert found["network"]["parameters"] == 186
    assert found["network"]["kflop_per_px"] == pytest.approx(0.36)
    scores = found["evaluations"]["evaluation-now.json"]
    assert scores["note"] is None
    assert scores["groups"]["purple <b>"]["iou"]["0.5"]["pooled"]["ap"] == 0.617
    assert str(described.parent) not in done.out


def test_the_card_of_a_bare_file_says_what_is_missing(plain):
    said = command.nucleiflow("model", plain).out
    for missing in (
        "no sidecar: these are the defaults",
        "none beside the file",
        "not written down",
    ):
        assert missing in said


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": 3}'])
def test_an_evaluation_that_is_none_is_named(content, described):
    (described.parent / "evaluation-now.json").write_text(content)
    done = command.nucleiflow("model", described)
    assert done.code == 2
    assert "evaluation-now.json" in done.line


def test_the_page_needs_nothing_else(described, tmp_path, monkeypatch):
    monkeypatch.setattr(weakspots, "SLIDE_PX", 256)
    monkeypatch.setattr(weakspots, "FIELD_PX", 128)
    page = tmp_path / "card.html"
    assert command.nucleiflow("model", described, "--html", page).code == 0
    said = page.read_text()
    assert said.count('src="data:image/png;base64,') == 4
    assert "http" not in said.replace("http-equiv", "")
    assert "mitoses are &lt;missed&gt;" in said
    assert "purple &lt;b&gt;" in said
    assert command.nucleiflow("model", described, "--html", page, "--no-pictures").code == 0
    assert "<img" not in page.read_text()


def test_pictures_begin_with_most_errors():
    truth = demo.make_slide(512, seam_px=256)[1]
    found = np.where(np.arange(512) < 256, truth, 0).astype(np.uint32)  # the right half is missed
    shown = np.zeros((512, 512, 3), np.uint8)
    figures = weakspots._worst(shown, truth, found)
    assert [figure.name for figure in figures[:2]] == sorted(
        ["rows 0 to 256, columns 256 to 512", "rows 256 to 512, columns 256 to 512"],
        key=lambda name: (
            -len(np.unique(truth[:256, 256:] if "rows 0" in name else truth[256:, 256:]))
        ),
    )
    assert all(figure.png.startswith(b"\x89PNG") for figure in figures)


def test_the_shipped_card_needs_no_tensorflow():
    code = (
        "import sys; sys.argv = ['nucleiflow', 'model']\n"
        "from nucleiflow import cli\n"
        "try: cli.main()\n"
        "finally: assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert model.digest(model.SHIPPED) in done.stdout
    assert describe.describe()["network"]["halo_px"] == model.load().reach.halo_px
