"""What a user of another library types first gets what it should do, or one sentence that says where it is."""

import re

import numpy as np
import pytest

import minicnn as mc
from minicnn.core import habits
from minicnn.core.arguments import Configured, explained

X, Y = np.random.default_rng(0).random((6, 4), dtype="float32"), np.array([0, 1, 2, 0, 1, 2])


def small_model():
    return mc.Sequential([mc.Dense(3)], input_shape=(4,))


WRONG_CALLS = {
    "an activation as second argument": (lambda: mc.Dense(3, "relu"), "mc.ReLU()"),
    "an activation by name": (lambda: mc.Conv2D(3, 3, activation="relu"), "mc.ReLU()"),
    "PyTorch's order": (lambda: mc.Conv2D(1, 6, 5), "input channels"),
    "PyTorch's Linear": (lambda: mc.Dense(64, 10), "number of inputs"),
    "PyTorch's Sequential": (lambda: mc.Sequential(mc.Dense(3), mc.ReLU()), "brackets"),
    "PyTorch's Sequential of three": (lambda: mc.Sequential(mc.Dense(3), mc.ReLU(), mc.Dense(3)), "one list"),
    "a stride by position": (lambda: mc.MaxPool2D(2, 2), "pool_size=2, *, stride"),
    "Keras's strides": (lambda: mc.MaxPool2D(2, strides=2), "stride"),
    "an argument to a layer without": (lambda: mc.ReLU(0.1), "ReLU()"),
    "no units": (lambda: mc.Dense(), "units"),
    "units twice": (lambda: mc.Dense(3, units=3), "units"),
    "lr": (lambda: mc.Adam(lr=0.1), "learning_rate"),
    "betas": (lambda: mc.Adam(0.1, betas=(0.9, 0.99)), "beta1"),
    "momentum by position": (lambda: mc.SGD(0.1, 0.9), "momentum=0.0"),
    "a schedule by position": (lambda: mc.StepDecay(0.1, 100, 0.5), "every"),
    "a schedule's gamma": (lambda: mc.StepDecay(0.1, every=100, gamma=0.5), "factor"),
    "a loss's from_logits": (lambda: mc.SoftmaxCrossEntropy(from_logits=True), "logits"),
    "a callback by position": (lambda: mc.EarlyStopping("val_loss", 0.1), "min_delta"),
    "an unknown argument of a callback": (lambda: mc.CSVLogger("log.csv", sep=";"), "separator"),
    "a batch size as third argument of fit": (lambda: small_model().fit(X, Y, 32), "batch_size=32"),
    "a loss as third argument of evaluate": (lambda: small_model().evaluate(X, Y, mc.MeanSquaredError()), "loss="),
    "a batch size as second argument of predict": (lambda: small_model().predict(X, 32), "batch_size="),
    "metrics": (lambda: small_model().fit(X, Y, metrics=["accuracy"]), "mc.metrics"),
    "class_weight": (lambda: small_model().fit(X, Y, class_weight={0: 1}), "class_weights"),
    "a step without parameters": (lambda: mc.SGD().step(), "model.parameters()"),
    "a layer's class": (lambda: mc.Sequential([mc.Dense]), "()"),
    "a layer's class, added": (lambda: mc.Sequential().add(mc.ReLU), "()"),
}


@pytest.mark.parametrize(("call", "named"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_a_wrong_call_gets_a_sentence(call, named):
    with pytest.raises(mc.InputError, match=re.escape(named)) as caught:
        call()
    assert len(str(caught.value)) < 450 and " at 0x" not in str(caught.value)


NOT_FLAGS = {
    "Dense": lambda flag: mc.Dense(3, use_bias=flag),
    "Conv2D": lambda flag: mc.Conv2D(3, 3, use_bias=flag),
    "AvgPool2D": lambda flag: mc.AvgPool2D(2, count_include_pad=flag),
    "SGD": lambda flag: mc.SGD(0.1, momentum=0.9, nesterov=flag),
    "EarlyStopping": lambda flag: mc.EarlyStopping(restore_best_weights=flag),
    "ModelCheckpoint": lambda flag: mc.ModelCheckpoint("a.npz", save_best_only=flag),
    "CSVLogger": lambda flag: mc.CSVLogger("a.csv", append=flag),
    "fit, shuffle": lambda flag: small_model().fit(X, Y, epochs=1, verbose=False, shuffle=flag),
    "fit, resume": lambda flag: small_model().fit(X, Y, epochs=1, verbose=False, resume=flag),
    "trainable": lambda flag: setattr(small_model(), "trainable", flag),
}


@pytest.mark.parametrize("use", NOT_FLAGS.values(), ids=NOT_FLAGS)
def test_a_flag_is_true_or_false(use):
    for value in ("relu", 1, None, "False"):
        with pytest.raises(mc.InputError, match=re.escape(repr(value))):
            use(value)
    use(False)
    use(np.bool_(False))


@pytest.mark.parametrize("kind", mc.layers.LAYERS.values(), ids=mc.layers.LAYERS)
def test_every_layer_explains_a_wrong_call(kind):
    with pytest.raises(mc.InputError, match=kind.__name__):
        kind(nothing_of_this_name=1)


def test_an_error_inside_a_constructor_stays_what_it_is():
    class Broken(mc.Layer):
        def __init__(self, size):
            self.size = len(size)

    with pytest.raises(TypeError, match="len"):
        Broken(3)
    with pytest.raises(mc.InputError, match="size"):
        Broken()
    with pytest.raises(mc.InputError, match=r"Child\(\)"):
        type("Child", (mc.ReLU,), {})(1, 2)


def test_a_function_without_names_after_its_first_arguments_is_not_told_of_them():
    class Box:
        @explained
        def fill(self, count):
            return count

    with pytest.raises(mc.InputError, match=r"fill\(count\): too many positional arguments$"):
        Box().fill(1, 2)
    assert Box().fill(1) == 1


@pytest.mark.parametrize("name", habits.NAMES)
def test_a_name_of_another_library_says_where_it_is(name):
    with pytest.raises(mc.UnknownNameError, match=re.escape(habits.NAMES[name])):
        getattr(mc, name)
    assert not hasattr(mc, name)


def test_sentences_name_only_what_exists():
    """Else they send the user from one error to the next."""
    sentences = [
        s for table in (habits.NAMES, habits.ATTRIBUTES, habits.ARGUMENTS, habits.POSITIONS) for s in table.values()
    ]
    for name in re.findall(r"mc\.(\w+)", " ".join(sentences)):
        assert hasattr(mc, name), name
    for name in re.findall(r"(?<!\w)model\.(\w+)", " ".join(sentences)):
        assert hasattr(small_model(), name), name
    for name in re.findall(r"(?<!\w)optimizer\.(\w+)", " ".join(sentences)):
        assert hasattr(mc.Adam(), name), name


@pytest.mark.parametrize("name", habits.ATTRIBUTES)
def test_an_attribute_of_another_library_says_where_it_is(name):
    for owner in (small_model(), mc.Adam(), mc.MeanSquaredError(), mc.Constant(0.1), mc.EarlyStopping()):
        if name in dir(owner):
            continue
        with pytest.raises(mc.UnknownNameError, match=re.escape(habits.ATTRIBUTES[name])):
            getattr(owner, name)
        assert not hasattr(owner, name)


def test_an_attribute_error_inside_a_property_keeps_its_own_name():
    class Layer(mc.Layer):
        @property
        def size(self):
            return self.forgotten

    with pytest.raises(AttributeError, match="forgotten"):
        Layer().size  # noqa: B018


def test_layers_can_be_added_one_by_one():
    """And the network is the one that a list makes, where its shape comes last."""
    listed = mc.Sequential([mc.Dense(5), mc.ReLU(), mc.Dense(3)], input_shape=(4,))
    added, with_shape = mc.Sequential(), mc.Sequential(input_shape=(4,))
    for model in (added, with_shape):
        for layer in (mc.Dense(5), mc.ReLU(), mc.Dense(3)):
            assert model.add(layer) is None
    np.testing.assert_array_equal(added.predict(X), listed.predict(X))
    assert with_shape.shapes == listed.shapes and with_shape.names == listed.names
    first, last = with_shape.layers[0].weight.value, with_shape.layers[2].weight.value
    assert not np.isin(last / abs(last).max(), first / abs(first).max()).any()  # other random numbers


def test_a_layer_that_does_not_fit_is_not_added():
    model = mc.Sequential([mc.Dense(3)], input_shape=(4,))
    for wrong in (mc.Conv2D(3, 3), model.layers[0], "relu"):
        with pytest.raises(mc.InputError):
            model.add(wrong)
    assert model.layers == [model.layers[0]] and model.names == ["dense_1"]
    assert model.predict(X).shape == (6, 3)


def test_a_layer_that_replaces_another_does_not_start_with_the_numbers_of_the_first():
    model = mc.Sequential([mc.Dense(4, weight_initializer=mc.initializers.he_normal), mc.Dense(3)], input_shape=(4,))
    model.layers[-1] = mc.Dense(4, weight_initializer=mc.initializers.he_normal)
    assert model.predict(X).shape == (6, 4)
    assert (model.layers[-1].weight.value != model.layers[0].weight.value).any()


def test_a_history_has_kerass_name():
    history = small_model().fit(X, Y, epochs=2, verbose=False)
    assert history.history["loss"] == history["loss"] and len(history.history["loss"]) == 2


REPRS = {
    "Dense(3)": lambda: mc.Dense(3),
    "Conv2D(6, 5, padding='same', use_bias=False)": lambda: mc.Conv2D(6, 5, padding="same", use_bias=False),
    "Dense(3, weight_initializer=he_normal)": lambda: mc.Dense(3, weight_initializer=mc.initializers.he_normal),
    "SGD()": lambda: mc.SGD(),
    "SGD(learning_rate=0.1, momentum=0.9)": lambda: mc.SGD(0.1, momentum=0.9),
    "Adam(learning_rate=CosineDecay(0.1, steps=5))": lambda: mc.Adam(mc.CosineDecay(0.1, steps=5)),
    "RMSprop(rho=0.8)": lambda: mc.RMSprop(rho=0.8),
    "SoftmaxCrossEntropy()": lambda: mc.SoftmaxCrossEntropy(),
    "SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=(1.0, 2.0))": lambda: mc.SoftmaxCrossEntropy(
        label_smoothing=0.1, class_weights=[1, 2]
    ),
    "WarmUp(StepDecay(0.1, every=3, factor=0.5), steps=2)": lambda: mc.WarmUp(
        mc.StepDecay(0.1, every=3, factor=0.5), steps=2
    ),
    "EarlyStopping(patience=3)": lambda: mc.EarlyStopping(patience=3),
    "LambdaCallback(on_batch_end=print)": lambda: mc.LambdaCallback(on_batch_end=print),
    "Parameter((2, 3), float64)": lambda: mc.Parameter(np.zeros((2, 3))),
    "State((3,), float32)": lambda: mc.State(np.zeros(3, "float32")),
    "State(7)": lambda: mc.State(7),
}


@pytest.mark.parametrize(("text", "make"), REPRS.items(), ids=REPRS)
def test_a_repr_is_the_call(text, make):
    assert repr(make()) == text


def test_an_argument_kept_under_another_name_is_shown_and_not_saved(tmp_path):
    class Scale(mc.Layer):
        def __init__(self, factor, *, offset=0):
            self.by, self.offset = factor, offset

        def forward(self, x, training=False):
            return x * self.by, lambda dy: dy * self.by

    assert repr(Scale(2)) == "Scale(...)"
    with pytest.raises(mc.InputError, match=r"self\.factor"):
        mc.Sequential([Scale(2)], input_shape=(4,)).save(tmp_path / "model.npz")


class NoBackward(mc.Layer):
    def forward(self, x, training=False):
        return x


class TwoArrays(mc.Layer):
    def forward(self, x, training=False):
        return x, x


class Halves(mc.Layer):
    """Its shape is not promised."""

    def forward(self, x, training=False):
        return x[:, ::2], lambda dy: np.repeat(dy, 2, axis=1)


class Holds(mc.Layer):
    """A layer that holds one, and returns its output alone."""

    def __init__(self):
        self.inner = mc.Dense(3)

    def forward(self, x, training=False):
        return self.inner(x)


@pytest.mark.parametrize(
    ("kind", "named"),
    [(NoBackward, "return y, backward"), (TwoArrays, "return y, backward"), (Holds, "return y, backward"),
     (Halves, "output_shape")],
)  # fmt: skip
def test_a_layer_of_ones_own_that_breaks_its_promise_is_named_before_any_work(kind, named):
    with pytest.raises(mc.InputError, match=named) as caught:
        mc.Sequential([mc.Dense(4), kind()], input_shape=(4,))
    assert kind.__name__ in str(caught.value)


@pytest.mark.parametrize("backend", ["plain", "numpy"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(mc.Conv2D(2, 5), (1, 8, 8)), (mc.MaxPool2D(5), (1, 8, 8)), (mc.AvgPool2D(5), (1, 8, 8)), (mc.Dense(2), (4,)),
     (mc.ReLU(), (4,)), (mc.Softmax(), (4,)), (mc.GlobalAvgPool2D(), (1, 8, 8))],
    ids=repr,
)  # fmt: skip
def test_a_bare_layer_names_itself(layer, shape, backend):
    """For an empty batch, and for images smaller than its window."""
    mc.use(backend)
    try:
        layer.build(shape)
        with pytest.raises(mc.InputError, match="one sample") as caught:
            layer.forward(np.zeros((0, *shape), "float32"))
        assert repr(layer) in str(caught.value)
        if isinstance(layer, (mc.Conv2D, mc.MaxPool2D, mc.AvgPool2D)):
            with pytest.raises(mc.InputError, match="3 x 3") as caught:
                layer.forward(np.zeros((2, 1, 3, 3), "float32"))
            assert repr(layer) in str(caught.value)
    finally:
        mc.use("numpy")


def test_labels_as_texts_get_the_way_to_numbers():
    with pytest.raises(mc.InputError, match=r"np\.unique\(y, return_inverse=True\)"):
        small_model().fit(X, np.array(list("abcabc")), verbose=False)
    with pytest.raises(mc.InputError, match=r"y\.ravel\(\)"):
        small_model().fit(X, Y[:, None], verbose=False)
    with pytest.raises(mc.InputError, match=r"y\.astype\(int\)"):
        small_model().fit(X, Y.astype(float), verbose=False)


def test_what_is_configured_shows_what_differs():
    class Box(Configured):
        def __init__(self, size=1, *, color):
            self.size, self.color = size, color

    assert repr(Box(color="red")) == repr(Box(int("1"), color="red")) == "Box(color='red')"
    assert repr(Box(2, color="red")) == "Box(size=2, color='red')"
