"""A layer is a tree: layers in layers, states, shared and frozen parameters, in everything that must know of them."""

import copy

import numpy as np
import pytest

import minicnn as mc
from minicnn.core.layer import build_layer


def data(count=64, features=8, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, features), dtype="float32"), np.arange(count) % classes


class Block(mc.Layer):
    """Layers in an attribute, a list and a dict, and neither `build` nor `output_shape` of its own."""

    def __init__(self):
        self.first = mc.Dense(8)
        self.rest = [mc.Tanh(), mc.Dropout(0.2)]
        self.branch = {"scale": mc.Dense(8, use_bias=False)}

    def forward(self, x, training=False):
        y, first = self.first.forward(x, training)
        z, scale = self.branch["scale"].forward(x, training)
        backwards = []
        for layer in self.rest:
            y, backward = layer.forward(y, training)
            backwards.append(backward)

        def backward(dy):
            dx = scale(dy)
            for layer_backward in reversed(backwards):
                dy = layer_backward(dy)
            return dx + first(dy)

        return y + z, backward


class Centre(mc.Layer):
    """Half a batch normalisation: the running mean is kept and not learned."""

    def build(self, input_shape, rng=None, dtype="float32"):
        if not hasattr(self, "mean"):
            self.mean = mc.State(np.zeros(input_shape, dtype))
        return input_shape

    def forward(self, x, training=False):
        if not training:
            mean = self.mean.value
            return x - mean, lambda dy: dy
        mean = x.mean(axis=0)
        self.mean.value = (0.9 * self.mean.value + 0.1 * mean).astype(x.dtype)
        return x - mean, lambda dy: dy - dy.mean(axis=0)


class Noise(mc.Layer):
    """A random generator in a list."""

    def __init__(self):
        self.generators = [np.random.default_rng(3)]

    def forward(self, x, training=False):
        if training:
            x = x + self.generators[0].normal(size=x.shape).astype(x.dtype) / 100
        return x, lambda dy: dy


CUSTOM = [Block, Centre, Noise]


def network(seed=0):
    return mc.Sequential([mc.Dense(8), Block(), Centre(), Noise(), mc.Dense(3)], (8,), seed=seed)


def test_parameters_and_states_are_found_wherever_they_are():
    model = network()
    assert list(model.parameters()) == [
        "dense_1.weight",
        "dense_1.bias",
        "block_1.first.weight",
        "block_1.first.bias",
        "block_1.branch.scale.weight",
        "dense_2.weight",
        "dense_2.bias",
    ]
    assert set(model.states()) == {
        "block_1.rest.1.mask_seed",
        "block_1.rest.1.step",
        "centre_1.mean",
        "noise_1.generators.0",
    }
    assert model.count_parameters() == 72 + 72 + 64 + 27


def test_a_tree_is_trained_saved_and_loaded(tmp_path):
    x, y = data()
    model = network()
    before = {name: p.value.copy() for name, p in model.parameters().items()}
    model.fit(x, y, epochs=3, batch_size=16, optimizer=mc.Adam(0.01), verbose=False)
    for name, parameter in model.parameters().items():
        assert (parameter.value != before[name]).any(), name
    assert (model.layers[2].mean.value != 0).any()
    model.save(tmp_path / "model.npz")
    loaded = mc.load(tmp_path / "model.npz", custom_layers=CUSTOM)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    # The generators continue where they were: the next step is the same, too.
    for one in (model, loaded):
        one.fit(x, y, epochs=1, batch_size=16, optimizer=mc.SGD(0.1), shuffle=False, verbose=False)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_a_tree_is_resumed_to_the_same_bits(tmp_path):
    x, y = data()

    def weights(epochs, name, resume):
        model = network()
        model.fit(
            x,
            y,
            epochs=epochs,
            batch_size=16,
            optimizer=mc.Adam(0.01),
            verbose=False,
            checkpoint=tmp_path / name,
            resume=resume,
        )
        arrays = {name: p.value for name, p in model.parameters().items()}
        return arrays | {"mean": model.layers[2].mean.value}

    expected = weights(4, "whole.npz", False)
    weights(2, "cut.npz", False)
    for name, array in weights(4, "cut.npz", True).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [Block, Centre, Noise, network])
def test_a_tree_passes_the_gradient_check_and_is_not_changed_by_it(make, training, rng):
    target = make()
    x = rng.normal(size=(4, 8))
    build_layer(target, (8,), None, "float64") if isinstance(target, Centre) else None
    states = copy.deepcopy(target.states())
    report = mc.gradcheck.check(target, x, training=training)
    assert {entry.name for entry in report.entries} >= {"x"}
    for name, state in target.states().items():
        if isinstance(state, mc.State):
            np.testing.assert_array_equal(state.value, states[name].value)


def test_restore_best_weights_restores_the_states_of_the_best_epoch():
    x, y = data()
    model = network()
    means = []
    stop = mc.EarlyStopping("loss", mode="max", patience=2, restore_best_weights=True)  # the first epoch is the "best"
    keep = mc.LambdaCallback(on_epoch_end=lambda epoch, logs: means.append(model.layers[2].mean.value.copy()))
    model.fit(x, y, epochs=5, batch_size=16, optimizer=mc.Adam(0.01), callbacks=[keep, stop], verbose=False)
    assert len(means) > 1
    np.testing.assert_array_equal(model.layers[2].mean.value, means[0])


def test_after_a_divergence_the_states_are_the_good_ones_again():
    class Exploding(mc.Layer):
        calls = 0

        def forward(self, x, training=False):
            self.calls += training
            return (x * np.float32(np.inf) if self.calls > 3 else x), lambda dy: dy

    x, y = data()
    model = mc.Sequential([Centre(), Exploding(), mc.Dense(3)], (8,))
    with pytest.raises(mc.DivergenceError):
        model.fit(x * np.float32(1e30), y, epochs=2, batch_size=16, optimizer=mc.SGD(0.1), verbose=False)
    assert np.isfinite(model.layers[0].mean.value).all()


# A Sequential in a Sequential


def test_a_sequential_in_a_sequential_is_the_layers_in_a_row(tmp_path, rng):
    def convolutions():
        return [mc.Conv2D(16, 3, padding="same"), mc.ReLU(), mc.MaxPool2D(2)]

    x, y = rng.random((48, 1, 12, 12), dtype="float32"), np.arange(48) % 3
    flat = mc.Sequential([*convolutions(), mc.Flatten(), mc.Dense(3), mc.Softmax()], (1, 12, 12))
    nested = mc.Sequential(
        [mc.Sequential(convolutions()), mc.Sequential([mc.Flatten(), mc.Sequential([mc.Dense(3), mc.Softmax()])])],
        (1, 12, 12),
    )
    for model in (flat, nested):
        model.fit(x, y, epochs=2, batch_size=16, optimizer=mc.Adam(0.01), verbose=False)
    np.testing.assert_array_equal(nested.predict(x), flat.predict(x))
    np.testing.assert_allclose(nested.predict(x).sum(axis=1), 1, rtol=1e-5)
    assert [name for name, *_ in nested.trace(x)][-1] == "sequential_2.sequential_1.dense_1"
    nested.save(tmp_path / "nested.npz")
    np.testing.assert_array_equal(mc.load(tmp_path / "nested.npz").predict(x), flat.predict(x))


def test_trace_gives_what_forward_and_backward_compute(rng):
    model = mc.networks.lenet5()
    x = rng.random((3, 1, 28, 28), dtype="float32")
    steps = list(model.trace(x))
    logits, backward = model.forward(x)
    np.testing.assert_array_equal(steps[-1][3], logits)
    assert [name for name, *_ in steps] == model.names[:-1]
    dy = dlogits = rng.normal(size=logits.shape).astype("float32")
    for _, _, _, _, layer_backward in reversed(steps):
        dy = layer_backward(dy)
    np.testing.assert_allclose(dy, backward(dlogits), rtol=1e-4, atol=1e-6)


# Freezing


def test_a_frozen_layer_keeps_its_weights_and_the_others_learn():
    x, y = data()
    model = network()
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    before = {name: p.value.copy() for name, p in model.parameters().items()}
    model.fit(x, y, epochs=2, batch_size=16, optimizer=mc.Adam(0.01, weight_decay=0.1), verbose=False)
    for name, parameter in model.parameters().items():
        frozen = name.startswith(("dense_1", "block_1"))
        assert (parameter.value == before[name]).all() == frozen, name
    model.layers[1].trainable = True
    model.fit(x, y, epochs=2, batch_size=16, optimizer=mc.Adam(0.01), verbose=False)
    assert (model.layers[1].first.weight.value != before["block_1.first.weight"]).any()


def test_a_layer_that_was_frozen_before_it_is_built_stays_frozen(tmp_path):
    dense = mc.Dense(4)
    dense.trainable = False
    model = mc.Sequential([dense, mc.Dense(3)], (8,))
    assert not dense.weight.trainable and model.layers[1].weight.trainable
    model.save(tmp_path / "model.npz")
    assert not mc.load(tmp_path / "model.npz").layers[0].trainable


# Parameters used twice


def tied_model():
    encoder, decoder = mc.Dense(8), mc.Dense(8)
    model = mc.Sequential([encoder, mc.Tanh(), decoder], (8,))
    decoder.weight = encoder.weight
    return model


def test_a_tied_parameter_is_trained_once_and_stays_tied_in_a_file(tmp_path, rng):
    model = tied_model()
    x, _ = data()
    assert model.count_parameters() == 64 + 8 + 8
    assert mc.gradcheck.check(model, rng.normal(size=(3, 8))).passed
    model.fit(x, x, epochs=2, batch_size=16, optimizer=mc.Adam(0.01), loss=mc.MeanSquaredError(), verbose=False)
    model.save(tmp_path / "tied.npz")
    loaded = mc.load(tmp_path / "tied.npz")
    assert loaded.layers[0].weight is loaded.layers[2].weight
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_gradients_from_before_are_cleared_by_fit():
    x, y = data()

    def weights(look):
        model = mc.Sequential([mc.Dense(3)], (8,))
        if look:
            outputs, backward = model.forward(x)
            backward(np.ones_like(outputs))
        model.fit(x, y, epochs=1, optimizer=mc.SGD(0.1), verbose=False)
        return model.layers[0].weight.value

    np.testing.assert_array_equal(weights(True), weights(False))


# Layers that were built before


def test_layers_of_a_trained_network_keep_their_weights_in_another_sequential():
    x, y = data()
    model = mc.Sequential([mc.Dense(16), mc.ReLU(), mc.Dense(3)], (8,), seed=1)
    model.fit(x, y, epochs=3, verbose=False)
    expected = model.predict(x)
    features = mc.Sequential(model.layers[:-1])
    assert features.predict(x).shape == (64, 16)
    np.testing.assert_array_equal(model.predict(x), expected)
    head = mc.Sequential([*model.layers[:-1], mc.Dense(2)], (8,))
    assert head.layers[0].weight is model.layers[0].weight


@pytest.mark.parametrize(
    ("make", "shape", "other"),
    [
        (lambda: mc.Dense(3), (8,), (9,)),
        (lambda: mc.Conv2D(3, 3), (2, 8, 8), (1, 8, 8)),
    ],
)
def test_a_built_layer_is_refused_where_it_does_not_fit(make, shape, other):
    layer = make()
    mc.Sequential([layer], shape)
    weights = layer.weight.value.copy()
    with pytest.raises(mc.InputError, match="built before"):
        mc.Sequential([layer], other)
    with pytest.raises(mc.InputError, match="float64"):
        mc.Sequential([layer], shape, dtype="float64")
    np.testing.assert_array_equal(layer.weight.value, weights)


def test_a_build_that_draws_anew_does_not_lose_the_weights():
    class Careless(mc.Layer):
        def build(self, input_shape, rng=None, dtype="float32"):
            self.w = [mc.Parameter(np.zeros(input_shape, dtype))]
            return input_shape

        def forward(self, x, training=False):
            return x + self.w[0].value, lambda dy: dy

    layer = Careless()
    mc.Sequential([layer], (3,))
    layer.w[0].value[...] = 7
    assert mc.Sequential([layer], (3,)).predict(np.zeros((1, 3), "float32")).tolist() == [[7, 7, 7]]
    with pytest.raises(mc.InputError, match="lost"):
        mc.Sequential([layer], (4,))
    assert layer.w[0].value.tolist() == [7, 7, 7]


def test_load_builds_as_on_construction(tmp_path, rng):
    class Scaled(mc.Dense):
        gain = 1.0

        def build(self, input_shape, rng=None, dtype="float32"):
            self.gain = np.float32(input_shape[0] ** -0.5)
            return super().build(input_shape, rng, dtype)

        def forward(self, x, training=False):
            y, backward = super().forward(x * self.gain, training)
            return y, lambda dy: backward(dy) * self.gain

    model = mc.Sequential([Scaled(3)], (8,))
    model.save(tmp_path / "model.npz")
    x = rng.normal(size=(5, 8)).astype("float32")
    np.testing.assert_array_equal(mc.load(tmp_path / "model.npz", [Scaled]).predict(x), model.predict(x))


# Layers that change after construction


def test_layers_can_be_added_and_replaced(tmp_path):
    x, y = data()
    model = mc.Sequential([mc.Dense(16), mc.ReLU(), mc.Dense(3)], (8,))
    kept = model.layers[0].weight.value.copy()
    model.layers[-1] = mc.Dense(5)
    assert model.predict(x).shape == (64, 5)
    model.layers.append(mc.Dense(3))
    model.fit(x, y, epochs=1, optimizer=mc.SGD(0.0), verbose=False)
    np.testing.assert_array_equal(model.layers[0].weight.value, kept)
    inner = mc.Sequential([mc.Dense(4)])
    model.layers.append(inner)
    assert model.predict(x).shape == (64, 4)
    inner.layers.append(mc.Dense(2))
    assert model.predict(x).shape == (64, 2)
    inner.layers.append(mc.ReLU())
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(mc.load(tmp_path / "model.npz").predict(x), model.predict(x))


def test_what_is_removed_from_the_layers_is_gone_at_once():
    model = mc.Sequential([mc.Dense(16), mc.Sequential([mc.ReLU(), mc.Dense(4)]), mc.Dense(3)], (8,))
    first, inner, last = model.layers
    last.weight.add_gradient(np.ones((3, 4), "float32"))
    model.layers.pop()
    inner.layers.pop()
    assert list(model.parameters().values()) == [first.weight, first.bias]
    assert last not in model.layers_inside().values()
    mc.SGD(1.0).step(model.parameters())
    assert last.weight.has_gradient


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda layers: layers.append("relu"), "brackets"),
        (lambda layers: layers.append(layers[0]), "twice"),
        (lambda layers: layers.append(mc.Conv2D(2, 3)), "images"),
    ],
)
def test_a_change_that_cannot_be_right_is_refused_at_the_next_use(change, named, tmp_path):
    model = mc.Sequential([mc.Dense(16), mc.Dense(3)], (8,))
    change(model.layers)
    for use in (lambda: model.predict(data()[0]), lambda: model.save(tmp_path / "m.npz"), model.summary):
        with pytest.raises(mc.InputError, match=named):
            use()
    assert not list(tmp_path.iterdir())


def test_a_layer_that_a_callback_adds_is_trained():
    x, y = data()
    model = mc.Sequential([mc.Dense(3)], (8,))
    added = []

    def add(batch, loss):
        if batch == 1:
            model.layers.append(mc.Dense(3))
            model.build((8,))
            added.append(model.layers[-1].weight.value.copy())

    model.fit(x, y, epochs=1, batch_size=16, callbacks=[mc.LambdaCallback(on_batch_end=add)], verbose=False)
    assert (model.layers[-1].weight.value != added[0]).all()


# Classes and functions in files


class ReLU(mc.Layer):
    """A class of the user's own with a name of the library's."""

    def forward(self, x, training=False):
        return 2 * x, lambda dy: 2 * dy


@pytest.mark.parametrize("given", [[ReLU], ReLU, {"ReLU": ReLU}, (ReLU,)], ids=["list", "class", "dict", "tuple"])
def test_a_class_of_the_users_own_is_asked_for_whatever_its_name(given, tmp_path):
    x, _ = data()
    model = mc.Sequential([mc.Dense(3), ReLU(), mc.ReLU()], (8,))
    model.save(tmp_path / "model.npz")
    with pytest.raises(mc.FileError, match="custom_layers"):
        mc.load(tmp_path / "model.npz")
    loaded = mc.load(tmp_path / "model.npz", custom_layers=given)
    assert [type(layer) for layer in loaded.layers] == [mc.Dense, ReLU, mc.ReLU]
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_custom_layers_that_are_not_classes_of_layers_are_refused(tmp_path):
    mc.Sequential([mc.Dense(3)], (8,)).save(tmp_path / "model.npz")
    for wrong in ([mc.Dense(3)], [dict], {"Dense": 3}):
        with pytest.raises(mc.InputError, match="custom_layers"):
            mc.load(tmp_path / "model.npz", custom_layers=wrong)


class Apply(mc.Layer):
    def __init__(self, function, inner=None, sizes=()):
        self.function, self.inner, self.sizes = function, inner, sizes

    def forward(self, x, training=False):
        return x, lambda dy: dy


def test_a_function_among_the_arguments_is_refused_on_save(tmp_path):
    model = mc.Sequential([Apply(np.tanh)], (8,))
    with pytest.raises(mc.InputError, match=r"Apply.*function"):
        model.save(tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


def test_arguments_come_back_as_they_were(tmp_path):
    layer = Apply(None, mc.Sequential([mc.Dense(8), mc.Tanh()]), [1, (2, 3), {"a": [4]}])
    model = mc.Sequential([layer], (8,))
    model.save(tmp_path / "model.npz")
    loaded = mc.load(tmp_path / "model.npz", Apply).layers[0]
    assert loaded.sizes == [1, (2, 3), {"a": [4]}]
    assert repr(loaded.inner.layers) == "[Dense(8), Tanh()]"


def test_an_argument_kept_under_another_name_is_named(tmp_path):
    class Renamed(mc.Layer):
        def __init__(self, size):
            self._size = size

        def forward(self, x, training=False):
            return x, lambda dy: dy

    with pytest.raises(mc.InputError, match=r"self\.size"):
        mc.Sequential([Renamed(3)], (8,)).save(tmp_path / "model.npz")


# What gradcheck and fit notice


class Forgotten(mc.Layer):
    """A Parameter in a place that no walk reaches."""

    def build(self, input_shape, rng=None, dtype="float32"):
        self.hidden = {mc.Parameter(np.ones(input_shape, dtype))}
        return input_shape

    def forward(self, x, training=False):
        (w,) = self.hidden

        def backward(dy):
            w.add_gradient((dy * x).sum(axis=0))
            return dy * w.value

        return x * w.value, backward


def test_a_parameter_that_the_model_does_not_hold_is_refused(rng):
    x, y = data()
    with pytest.raises(mc.InputError, match="does not hold"):
        mc.Sequential([mc.Dense(8), Forgotten(), mc.Dense(3)], (8,)).fit(x, y, epochs=1, verbose=False)

    class Float64(Forgotten):
        def forward(self, x, training=False):
            (w,) = self.hidden
            w.value = w.value.astype(x.dtype)
            return super().forward(x, training)

    with pytest.raises(mc.CheckError, match="do not hold"):
        mc.gradcheck.check(Float64(), rng.normal(size=(4, 8)))


def test_a_parameter_in_a_list_made_by_build_is_trained(rng):
    class Scale(mc.Layer):
        def build(self, input_shape, rng=None, dtype="float32"):
            self.w = [mc.Parameter(np.ones(input_shape, dtype))]
            return input_shape

        def forward(self, x, training=False):
            def backward(dy):
                self.w[0].add_gradient((dy * x).sum(axis=0))
                return dy * self.w[0].value

            return x * self.w[0].value, backward

    x, y = data()
    model = mc.Sequential([mc.Dense(8), Scale(), mc.Dense(3)], (8,))
    model.fit(x, y, epochs=2, verbose=False)
    assert (model.layers[1].w[0].value != 1).any()
    assert [entry.name for entry in mc.gradcheck.check(Scale(), rng.normal(size=(4, 8))).entries] == ["x", "w.0"]


def test_an_attribute_that_training_changes_and_no_file_keeps_is_named(rng):
    class Lost(mc.Layer):
        mean = 0.0

        def forward(self, x, training=False):
            if training:
                self.mean = 0.9 * self.mean + 0.1 * x.mean(axis=0)
            return x - self.mean, lambda dy: dy

    with pytest.raises(mc.CheckError, match=r"mean.*lost on save.*State"):
        mc.gradcheck.check(Lost(), rng.normal(size=(4, 8)))
    with pytest.raises(mc.CheckError, match=r"lost_1\.mean"):
        mc.gradcheck.check(mc.Sequential([mc.Dense(8), Lost()], (8,)), rng.normal(size=(4, 8)))


class MaskOnSelf(mc.ReLU):
    """A textbook's ReLU, which keeps its mask on the layer."""

    def forward(self, x, training=False):
        self.mask = x > 0
        return x * self.mask, lambda dy: dy * self.mask


def test_a_batch_kept_on_the_layer_is_noted(rng):
    report = mc.gradcheck.check(MaskOnSelf(), rng.normal(size=(4, 3, 5, 5)))
    assert report.passed and "mask" in str(report)
    assert mc.gradcheck.check(mc.ReLU(), rng.normal(size=(4, 3, 5, 5))).notes == ()


def test_a_subclass_with_its_own_forward_does_not_inherit_independent_samples(rng):
    """Its chunks would be computed at the same time, and share one mask."""
    x, y = rng.random((256, 1, 28, 28), dtype="float32"), rng.integers(0, 10, 256)

    def weights(activation):
        layers = [mc.Conv2D(16, 5), activation, mc.MaxPool2D(2), mc.Flatten(), mc.Dense(10)]
        model = mc.Sequential(layers, (1, 28, 28))
        model.fit(x, y, epochs=1, batch_size=256, optimizer=mc.SGD(0.1), verbose=False)
        return model.layers[0].weight.value

    np.testing.assert_allclose(weights(MaskOnSelf()), weights(mc.ReLU()), rtol=1e-3, atol=1e-6)


def test_a_layer_that_claims_independent_samples_and_mixes_them_is_found(rng):
    class Mixed(mc.Layer):
        independent_samples = True

        def forward(self, x, training=False):
            return x - x.mean(axis=0), lambda dy: dy - dy.mean(axis=0)

    with pytest.raises(mc.CheckError, match="independent_samples"):
        mc.gradcheck.check(Mixed(), rng.normal(size=(4, 8)))

    class Honest(Mixed):
        independent_samples = False

    assert mc.gradcheck.check(Honest(), rng.normal(size=(4, 8))).passed


def test_a_loss_with_other_settings_is_not_resumed(tmp_path):
    class Weighted(mc.SoftmaxCrossEntropy):
        def __init__(self, weights, table):
            self.weights, self.table = weights, table

    x, y = data()

    def run(weights, table, epochs):
        model = mc.Sequential([mc.Dense(3)], (8,))
        loss = Weighted(weights, table)
        model.fit(x, y, epochs=epochs, loss=loss, verbose=False, checkpoint=tmp_path / "c.npz", resume=True)

    run([1, 1], np.zeros(2), 1)
    run([1, 1], np.zeros(2), 2)
    with pytest.raises(mc.InputError, match="weights"):
        run([5, 1], np.zeros(2), 3)
    with pytest.raises(mc.InputError, match="table"):
        run([1, 1], np.ones(2), 3)


def test_the_summary_indents_the_layers_inside():
    lines = []
    network().summary(print_fn=lines.append)
    block = next(i for i, line in enumerate(lines) if line.startswith("block_1"))
    assert lines[block + 1].startswith("  first (Dense)") and "(8)" in lines[block + 1]
    assert "136" in lines[block]  # 72 + 64


def test_convert_reaches_all_that_a_tree_holds():
    model = network()
    model.convert("float64")
    dtypes = {p.value.dtype for p in model.parameters().values()} | {model.layers[2].mean.value.dtype}
    assert dtypes == {np.dtype("float64")}


def test_a_converted_model_computes_in_its_new_dtype(rng):
    inner = mc.Sequential([mc.Dense(3), mc.BatchNorm()])
    block = mc.Residual([mc.Sequential([mc.Dense(4), mc.ReLU()])])
    model = mc.Sequential([mc.Dense(4), block, inner], input_shape=(5,))
    for dtype in ("float64", "float32"):
        model.convert(dtype)
        assert model.predict(rng.normal(size=(2, 5))).dtype == dtype
        model.fit(rng.normal(size=(8, 5)).astype(dtype), np.arange(8) % 3, epochs=1, verbose=False)
