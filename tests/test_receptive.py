"""How far a network sees, found from its layers, is what real networks do, to the pixel."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from nucleiflow import inference, model, unet
from nucleiflow.errors import ModelError
from nucleiflow.plan import Grid, mirror
from nucleiflow.receptive import Reach, reach
from nucleiflow.unet import Design

# Keras 3.15 itself, when it reads its weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def chain(*stack):
    """Layers one after the other, on images of any size with one channel."""
    return keras.Sequential([keras.Input((None, None, 1)), *stack])


def conv(kernel, **options):
    return layers.Conv2D(2, kernel, padding="same", **options)


def residual(dilation):
    pixels = keras.Input((None, None, 1))
    first = conv(3)(pixels)
    second = conv(3, dilation_rate=dilation)(layers.ReLU()(first))
    return keras.Model(pixels, conv(1)(layers.Add()([first, second])))


def arms(*kernels):
    """The same tensor through kernels side by side."""
    pixels = keras.Input((None, None, 1))
    start = conv(3)(pixels)
    return keras.Model(pixels, layers.Add()([conv(kernel)(start) for kernel in kernels]))


def hourglass(grow, pool=layers.MaxPooling2D, skip=True):
    """Down, across, up: a U-Net of one level around the layer that grows back."""
    pixels = keras.Input((None, None, 1))
    side = conv(3)(pixels)
    tensor = conv(3)(pool()(side))
    tensor = grow(tensor)
    tensor = layers.Concatenate()([side, tensor]) if skip else tensor
    return keras.Model(pixels, conv(3)(tensor))


def linear_unet(filters, **form):
    """The project's U-Net, its last sigmoid left out."""
    built = unet.build(Design(filters, **form))
    built.get_layer("maps").activation = keras.activations.linear
    return built


def config_of(built):
    return json.loads(built.to_json())


def make_positive(built):
    """Positive weights and no biases: influence never cancels, and nothing comes from nothing."""
    generator = np.random.default_rng(1)
    for layer in built.layers:
        if not isinstance(layer, layers.BatchNormalization):
            fresh = [generator.uniform(0.5, 1.0, one.shape) for one in layer.get_weights()]
            layer.set_weights([one * (one.ndim > 1) for one in fresh])


def up_to_stride(distance, stride):
    return -(-distance // stride) * stride


def observed(built, stride, far):
    """Radius and least halo: how far a changed line is from the outputs that change with it.

    The halo is counted from the output's block of `stride` px, as cores are made of whole blocks.
    There is one line for each axis and phase of the stride, on an image seen as zero.
    """
    make_positive(built)
    phases, middle = np.arange(stride), up_to_stride(far, stride)
    sides = (2 * middle + stride, up_to_stride(8, stride))
    zero = 127.5 if any(layer.name == "rescale" for layer in built.layers) else 0.0
    radius, halo = 0, 0
    for turn in (False, True):
        images = np.full((stride, *sides, built.input_shape[-1]), zero, np.float32)
        images[phases, middle + phases] += 1000.0
        images = images.swapaxes(1, 2) if turn else images
        maps = np.asarray(built(images, training=False))
        assert maps.shape[:3] == images.shape[:3]
        phase, seen_by = np.nonzero(np.abs(maps).sum(axis=(1 if turn else 2, 3)))
        assert len(phase)
        pixel, block = middle + phase, seen_by // stride * stride
        radius = max(radius, *np.abs(pixel - seen_by))
        halo = max(halo, *(block - pixel), *(pixel - (block + stride - 1)))
    return int(radius), up_to_stride(int(halo), stride)


def assert_tight(built):
    found = reach(config_of(built))
    radius, least_halo = observed(built, found.stride_px, found.radius_px + 3)
    assert found.radius_px == radius
    assert least_halo <= found.halo_px <= up_to_stride(radius, found.stride_px)


TIGHT = {
    "one pixel": (lambda: chain(conv(1)), 1),
    "stack": (lambda: chain(conv(3), layers.ReLU(), conv(5), layers.ReLU(), conv(1)), 1),
    "wide kernel": (lambda: chain(conv((3, 9)), conv((1, 3))), 1),
    "tall kernel": (lambda: chain(conv((9, 3))), 1),
    "even kernel": (lambda: chain(conv(4), conv(2)), 1),
    "dilated": (lambda: chain(conv(3, dilation_rate=2), conv(3, dilation_rate=4)), 1),
    "dilated even kernel": (lambda: chain(conv(4, dilation_rate=3)), 1),
    "depthwise": (lambda: chain(layers.DepthwiseConv2D(5, padding="same")), 1),
    "separable": (
        lambda: chain(layers.SeparableConv2D(2, 3, padding="same", dilation_rate=2)), 1
    ),
    "arms, the wide one first": (lambda: arms(9, 1), 1),
    "arms, the wide one last": (lambda: arms(1, 9), 1),
    "residual": (lambda: residual(1), 1),
    "residual, dilated": (lambda: residual(3), 1),
    "pool and repeat": (lambda: chain(layers.MaxPooling2D(), layers.UpSampling2D()), 2),
    "average pool": (
        lambda: chain(layers.AveragePooling2D(2), conv(3), layers.UpSampling2D(2)), 2
    ),
    "pools that overlap": (
        lambda: chain(layers.AveragePooling2D(3, 2, padding="same"), layers.UpSampling2D()), 2
    ),
    "pool by 3": (lambda: chain(layers.MaxPooling2D(3), conv(3), layers.UpSampling2D(3)), 3),
    "pool by 2, then by 3": (
        lambda: chain(
            layers.MaxPooling2D(2), layers.MaxPooling2D(3), conv(3), layers.UpSampling2D(6)
        ),
        6,
    ),
    "strided, transposed 2": (
        lambda: chain(conv(3, strides=2), layers.Conv2DTranspose(1, 2, 2, padding="same")), 2
    ),
    "strided, transposed 3": (
        lambda: chain(conv(3, strides=2), layers.Conv2DTranspose(1, 3, 2, padding="same")), 2
    ),
    "strided, transposed 4": (
        lambda: chain(conv(5, strides=2), layers.Conv2DTranspose(1, 4, 2, padding="same")), 2
    ),
    "strided by 3, transposed 5": (
        lambda: chain(conv(4, strides=3), layers.Conv2DTranspose(1, 5, 3, padding="same")), 3
    ),
    "strided by 4": (lambda: chain(conv(7, strides=4), layers.UpSampling2D(4), conv(3)), 4),
    "kernel less than its stride": (lambda: chain(conv(1, strides=2), layers.UpSampling2D()), 2),
    "finer than the input": (
        lambda: chain(layers.UpSampling2D(), conv(3), layers.AveragePooling2D(2)), 1
    ),
    "padded by hand": (
        lambda: chain(layers.ZeroPadding2D(((3, 0), (0, 1))), layers.Conv2D(1, (4, 2)), conv(4)), 1
    ),
    "hourglass, repeated": (lambda: hourglass(layers.UpSampling2D()), 2),
    "hourglass, transposed": (
        lambda: hourglass(layers.Conv2DTranspose(1, 4, 2, padding="same")), 2
    ),
    "hourglass, averaged": (
        lambda: hourglass(layers.UpSampling2D(), lambda: layers.AveragePooling2D(2), skip=False), 2
    ),
    "U-Net of 1 pooling": (lambda: linear_unet((2, 3)), 2),
    "U-Net of 2 poolings": (lambda: linear_unet((2, 3, 4)), 4),
    "U-Net of 3 poolings": (lambda: linear_unet((2, 3, 4, 5)), 8),
    "U-Net of 4 poolings": (lambda: linear_unet((2, 3, 4, 5, 6)), 16),
    "U-Net that begins at half resolution": (lambda: linear_unet((2, 3), stem_stride=2), 4),
    "U-Net of half resolution, deeper": (lambda: linear_unet((2, 3, 4), stem_stride=2), 8),
    "U-Net with one convolution going up": (
        lambda: linear_unet((2, 3, 4), stem_stride=2, decoder_convolutions=1), 8
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIGHT)
def test_radius_is_what_an_impulse_shows(name):
    build, stride = TIGHT[name]
    built = build()
    assert reach(config_of(built)).stride_px == stride
    assert_tight(built)


@st.composite
def stacks(draw):
    """(layer, options) in a row that leave the resolution as it was."""
    stack, fine = [], 1
    for _ in range(draw(st.integers(1, 4))):
        kernel, step = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 3]))
        if fine > 1 and draw(st.booleans()):
            kernel = draw(st.integers(fine, fine + 3))
            stack.append(("Conv2DTranspose", {"kernel_size": kernel, "strides": fine}))
            fine = 1
        elif fine == 1 and step > 1 and draw(st.booleans()):
            stack.append(("Conv2D", {"kernel_size": kernel, "strides": step}))
            fine = step
        elif fine == 1 and step > 1:
            size = draw(st.integers(step, step + 2))
            stack.append(("AveragePooling2D", {"pool_size": size, "strides": step}))
            fine = step
        else:
            sides = (kernel, draw(st.integers(1, 5)))
            stack.append(("Conv2D", {"kernel_size": sides, "dilation_rate": step}))
    return [*stack, ("UpSampling2D", {"size": fine})]


def made(kind, options):
    filters = {"filters": 2} if kind.startswith("Conv") else {}
    padding = {} if kind == "UpSampling2D" else {"padding": "same"}
    return getattr(layers, kind)(**filters, **padding, **options)


@settings(deadline=None, max_examples=25)
@given(stacks())
def test_radius_of_any_stack_is_what_an_impulse_shows(stack):
    assert_tight(chain(*(made(kind, options) for kind, options in stack)))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_bilinear_growth_is_bounded(size):
    """Its reach is counted as one coarse pixel on either side, which is at most one too many."""
    built = hourglass(
        layers.UpSampling2D(size, interpolation="bilinear"),
        pool=lambda: layers.MaxPooling2D(size),
    )
    found = reach(config_of(built))
    radius, least_halo = observed(built, size, found.radius_px + 3)
    assert radius <= found.radius_px <= radius + size
    assert least_halo <= found.halo_px
    assert found.stride_px == size


@pytest.mark.parametrize(("poolings", "halo_px"), [(3, 48), (4, 96), (5, 192)])
def test_halo_of_deep_unets_is_no_more_than_needed(poolings, halo_px):
    found = reach(config_of(unet.build(Design((2,) * (poolings + 1)))))
    assert (found.halo_px, found.stride_px) == (halo_px, 2**poolings)


def test_halo_of_a_shallow_unet():
    assert reach(config_of(unet.build(Design((2, 3, 4))))) == Reach(23, 24, 4)


def test_batch_normalisation_and_dropout_add_nothing():
    plain = reach(config_of(unet.build(Design((2, 3, 4)))))
    assert reach(config_of(unet.build(Design((2, 3, 4), batch_norm=True)))) == plain
    stack = chain(conv(3), layers.BatchNormalization(), layers.Dropout(0.5), layers.LeakyReLU())
    assert reach(config_of(stack)) == Reach(1, 1, 1)


def test_reach_of_a_saved_file_equals_that_of_the_network(tmp_path):
    built = unet.build(Design((2, 3, 4)))
    path = tmp_path / "small.keras"
    built.save(path)
    expected = reach(config_of(built))
    assert reach(model.architecture(path)) == expected
    assert reach({"class_name": "Functional", "config": built.get_config()}) == expected
    assert reach(built.get_config()) == expected
    found = model.load(path)
    assert found.reach == expected
    assert found.sha256 == model.digest(path)


def flattened():
    pixels = keras.Input((8, 8, 1))
    return keras.Model(pixels, layers.Dense(4)(layers.Flatten()(conv(3)(pixels))))


def squeezed():
    """Squeeze and excitation: one number of the whole image goes to every pixel."""
    pixels = keras.Input((None, None, 2))
    whole = layers.GlobalAveragePooling2D(keepdims=True)(pixels)
    return keras.Model(pixels, layers.Multiply()([pixels, whole]))


def nested():
    pixels = keras.Input((None, None, 1))
    return keras.Model(pixels, conv(1)(chain(conv(3), conv(3))(pixels)))


def shared():
    pixels = keras.Input((None, None, 2))
    twice = conv(3)
    return keras.Model(pixels, twice(twice(pixels)))


def uneven():
    pixels = keras.Input((None, None, 1))
    return keras.Model(pixels, layers.Add()([conv(3)(pixels), conv(3, strides=2)(pixels)]))


REFUSED = {
    "global pooling": (squeezed, "global_average_pooling2d.*GlobalAveragePooling2D.*unbounded"),
    "dense": (flattened, "dense.*Dense.*unknown or unbounded"),
    "lambda": (lambda: chain(layers.Lambda(lambda x: x)), "Lambda.*unknown or unbounded"),
    "layer norm": (lambda: chain(layers.LayerNormalization()), "LayerNormalization"),
    "a model inside": (nested, "is a model of its own: flatten it"),
    "a model in a chain": (lambda: chain(chain(conv(3))), "Sequential.*is a model of its own"),
    "used twice": (shared, "is used 2 times"),
    "unequal strides": (lambda: chain(layers.MaxPooling2D((1, 2))), "unequal strides 1 and 2"),
    "joined resolutions": (uneven, "joins tensors of different resolution"),
    "bicubic": (
        lambda: chain(layers.UpSampling2D(2, interpolation="bicubic"), layers.MaxPooling2D()),
        "nearest or bilinear",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_of_unknown_reach_are_refused(name):
    build, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        reach(config_of(build()))


def along_y():
    pixels = keras.Input((None, None, 1))
    again = layers.Conv2D(1, 3, padding="same")(pixels)
    return keras.Model(pixels, layers.Concatenate(axis=1)([pixels, again]))


NOT_TILED = {
    "softmax over the image": lambda: chain(layers.Softmax(axis=[1, 2])),
    "joined along y": along_y,
    "maps coarser than the image": lambda: chain(layers.MaxPooling2D()),
    "maps finer than the image": lambda: chain(layers.UpSampling2D()),
    "maps smaller than the image": lambda: chain(layers.Conv2D(2, 3)),
}


@pytest.mark.parametrize("name", NOT_TILED)
def test_networks_that_cannot_be_tiled_are_refused(name):
    with pytest.raises(ModelError):
        reach(config_of(NOT_TILED[name]()))


def tiled(image, grid, predict):
    """Image (h, w, 3) -> maps (h, w, 2), window by window."""
    maps = np.zeros((grid.height, grid.width, 2), np.uint8)
    for index in range(len(grid)):
        tile = grid.tile(index)
        box, rows, columns = mirror(tile.window, grid.height, grid.width)
        found = predict(image[box.slices()][np.ix_(rows, columns)])
        maps[tile.core.slices()] = found[tile.core.slices(origin=tile.window)]
    return maps


def saved(built, path):
    """A network's file, opened again: what it sees, and how to call it."""
    built.save(path)
    known = model.load(path)
    return known.reach, inference.predictor(known.path, known.sha256)


@pytest.fixture(
    scope="module", params=[Design((2, 3, 4, 5, 6)), Design((2, 3, 4), stem_stride=2)], ids=str
)
def deep(request, tmp_path_factory):
    keras.utils.set_random_seed(3)
    built = unet.build(request.param)
    last = built.get_layer("maps")
    kernel, bias = last.get_weights()
    last.set_weights([8 * kernel, bias])  # maps of all values, not all near 128
    return saved(built, tmp_path_factory.mktemp("deep") / "deep.keras")


@pytest.mark.parametrize(("height", "width"), [(160, 215), (33, 400), (256, 1)])
@pytest.mark.parametrize("tile_px", [64, 128])
def test_maps_do_not_depend_on_the_tiling(deep, height, width, tile_px):
    seen, predict = deep
    image = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    whole = Grid(height, width, 512, seen)
    assert len(whole) == 1
    expected = tiled(image, whole, predict)
    assert len(np.unique(expected)) > 50
    found = tiled(image, Grid(height, width, tile_px, seen), predict)
    np.testing.assert_array_equal(found, expected)


def test_maps_are_the_rounded_values_of_the_network(tmp_path):
    built = unet.build(Design((2, 3)))
    _, predict = saved(built, tmp_path / "small.keras")
    pixels = np.random.default_rng(8).integers(0, 256, (64, 96, 3), np.uint8)
    exact = 255 * np.asarray(built(pixels[None].astype(np.float32), training=False))[0]
    found = predict(pixels)
    assert (found.shape, found.dtype) == ((64, 96, 2), np.uint8)
    np.testing.assert_allclose(found, exact, atol=0.501)


def telescope(filters):
    """A U-Net whose maps show one far pixel, up and to the left, by its deepest path alone."""
    built = unet.build(Design(filters))
    for layer in built.layers:
        fresh = [np.zeros(one.shape) for one in layer.get_weights()]
        if layer.name.endswith("_grow"):
            fresh[0][:, :, 0, 0] = 1.0
        elif fresh:
            level = int(layer.name[2]) if layer.name.startswith("up") else None
            below = filters[level] if level is not None and layer.name.endswith("a") else 0
            fresh[0][0, 0, below, 0] = 1.0
        layer.set_weights(fresh)
    kernel, bias = built.get_layer("maps").get_weights()
    kernel[0, 0, 0, :] = 4.0
    built.get_layer("maps").set_weights([kernel, bias])
    return built


@pytest.mark.parametrize("filters", [(1, 1, 1), (2, 3, 4), (1, 2, 1, 2)])
def test_a_halo_too_small_by_two_strides_shows(filters, tmp_path):
    seen, predict = saved(telescope(filters), tmp_path / "telescope.keras")
    image = np.random.default_rng(6).integers(160, 256, (96, 128, 3), np.uint8)
    expected = tiled(image, Grid(96, 128, 256, seen), predict)
    assert expected.min() > 180  # the mirrored image, never the black beyond a window
    np.testing.assert_array_equal(tiled(image, Grid(96, 128, 64, seen), predict), expected)
    less = Reach(seen.radius_px, seen.halo_px - 2 * seen.stride_px, seen.stride_px)
    assert (tiled(image, Grid(96, 128, 64, less), predict) != expected).mean() > 0.01


def test_cropping_then_padding_is_seen():
    stack = chain(layers.Cropping2D(4), layers.ZeroPadding2D(4))
    seen = reach(config_of(stack))
    image = np.full((64, 128, 1), 200, np.uint8)

    def predict(pixels):
        return np.asarray(stack(pixels[None]))[0].astype(np.uint8)

    whole = tiled(image, Grid(64, 128, 256, Reach(4, 4, 1)), predict)
    np.testing.assert_array_equal(tiled(image, Grid(64, 128, 64, seen), predict), whole)


@pytest.mark.parametrize(
    "design",
    [
        Design((4, 6), batch_norm=True),
        Design((3, 5, 7), batch_norm=True),
        Design((3, 5), stem_stride=2, decoder_convolutions=1, outputs=1, batch_norm=True),
    ],
    ids=str,
)
def test_fold_changes_nothing_that_is_seen(design):
    keras.utils.set_random_seed(4)
    generator = np.random.default_rng(4)
    trained = unet.build(design)
    for layer in trained.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.get_weights()[0].shape
            shift, mean = generator.normal(0, 0.5, size), generator.normal(0, 0.5, size)
            scale, variance = generator.uniform(0.5, 2, size), generator.uniform(0.3, 3, size)
            layer.set_weights([scale, shift, mean, variance])
    plain = unet.fold(trained, design)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in plain.layers)
    pixels = generator.integers(0, 256, (2, 32, 48, 3)).astype(np.float32)
    expected = np.asarray(trained(pixels, training=False))
    assert expected.std() > 0.05
    np.testing.assert_allclose(np.asarray(plain(pixels, training=False)), expected, atol=1e-4)


def test_a_file_that_is_not_the_one_asked_for_is_refused(tmp_path):
    path = tmp_path / "small.keras"
    with pytest.raises(ModelError, match="cannot be read"):
        inference.predictor(str(path), "0" * 64)
    path.write_bytes(b"no network")
    with pytest.raises(ModelError, match="has digest"):
        inference.predictor(str(path), "0" * 64)
    with pytest.raises(ModelError, match="is not a Keras file"):
        inference.predictor(str(path), model.digest(path))
    with pytest.raises(ModelError, match="is not a Keras file"):
        model.load(path)
