"""Residual and Branches: sums and concatenations of rows, in everything that must know of the layers inside."""

import itertools

import numpy as np
import pytest
from layer_cases import built

import minicnn as mc
from minicnn.core.layer import independent_samples


@pytest.fixture(scope="module", params=["numpy", "plain"], autouse=True)
def backend(request):
    """Everything here holds for the formulas of the core and for the fast backend."""
    yield mc.use(request.param)
    mc.use("numpy")


def convolutions(filters=2):
    return [mc.Conv2D(filters, 3, padding="same"), mc.Tanh()]


def row_by_hand(layers, x):
    """The output of layers in a row and its backward pass, without the library's `run`."""
    backwards = []
    for layer in layers:
        x, backward = layer.forward(x)
        backwards.append(backward)

    def backward_of_row(dy):
        for backward in reversed(backwards):
            dy = backward(dy)
        return dy

    return x, backward_of_row


BLOCKS = {
    "the identity": (lambda: mc.Residual(convolutions()), sum),
    "one layer": (lambda: mc.Residual(mc.Conv2D(2, 3, padding="same")), sum),
    "a shortcut": (lambda: mc.Residual(convolutions(4), shortcut=mc.Conv2D(4, 1)), sum),
    "a shortcut of layers": (lambda: mc.Residual(convolutions(4), shortcut=[mc.Conv2D(4, 1), mc.Tanh()]), sum),
    "a sum": (lambda: mc.Branches([convolutions(3), convolutions(3), [mc.Conv2D(3, 1)]]), sum),
    "channels": (
        lambda: mc.Branches([convolutions(3), [], [mc.MaxPool2D(3, stride=1, padding=1)]], join="concatenate"),
        lambda outputs: np.concatenate(outputs, axis=1),
    ),
}


@pytest.mark.parametrize(("make", "combine"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_is_its_rows_computed_by_hand(make, combine, rng):
    block = built(make, (2, 5, 4))
    x = rng.normal(size=(3, 2, 5, 4))
    passes = [row_by_hand(row, x) for row in block.rows().values()]
    expected = combine([y for y, _ in passes])
    y, backward = block.forward(x, training=True)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert block.output_shape((2, 5, 4)) == y.shape[1:]
    dy = rng.normal(size=y.shape)
    edges = np.cumsum([0, *(output.shape[1] for output, _ in passes)])
    parts = [dy for _ in passes]
    if combine is not sum:
        parts = [dy[:, start:stop] for start, stop in itertools.pairwise(edges)]
    dx = backward(dy)
    found = {name: parameter.grad for name, parameter in block.parameters().items()}
    for parameter in block.parameters().values():
        parameter.clear_gradient()
    np.testing.assert_allclose(dx, sum(back(part) for (_, back), part in zip(passes, parts, strict=True)), atol=1e-12)
    for name, parameter in block.parameters().items():
        np.testing.assert_allclose(found[name], parameter.grad, atol=1e-12)
    with pytest.raises(mc.InputError, match="already called"):
        backward(dy)


def test_a_residual_block_that_adds_nothing_is_the_identity(rng):
    block = mc.Residual([mc.Conv2D(2, 3, padding="same"), mc.BatchNorm(scale_initializer=mc.initializers.zeros)])
    block.build((2, 5, 4), dtype="float64")
    x = rng.normal(size=(3, 2, 5, 4))
    y, backward = block.forward(x, training=True)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(backward(y), y)


@pytest.mark.parametrize(
    ("inside", "training", "evaluation"),
    [
        ([mc.Dense(3), mc.Tanh()], True, True),
        ([mc.BatchNorm()], False, True),
        ([mc.Residual([mc.Dropout(0.5)])], False, True),
        ([mc.Residual([mc.LayerNorm()])], True, True),
    ],
)
def test_a_batch_may_be_split_where_everything_inside_allows_it(inside, training, evaluation):
    for block in (mc.Residual(inside), mc.Branches([[], inside])):
        assert independent_samples(block, training=True) == training
        assert independent_samples(block, training=False) == evaluation


def data(count=64, features=6, classes=3):
    return np.random.default_rng(0).random((count, features), dtype="float32"), np.arange(count) % classes


def nested_model():
    inner = mc.Residual([mc.Dense(8), mc.Tanh(), mc.Dense(4)])
    both = mc.Branches([[mc.Dense(4), inner], [mc.Dense(2, use_bias=False)], []], join="concatenate")
    return mc.Sequential([mc.Dense(6), both, mc.Sequential([mc.ReLU(), mc.Dense(3)])], (6,))


NAMES = [
    *("dense_1.weight", "dense_1.bias"),
    *("branches_1.branches.0.0.weight", "branches_1.branches.0.0.bias"),
    *("branches_1.branches.0.1.layers.0.weight", "branches_1.branches.0.1.layers.0.bias"),
    *("branches_1.branches.0.1.layers.2.weight", "branches_1.branches.0.1.layers.2.bias"),
    "branches_1.branches.1.0.weight",
    *("sequential_1.dense_1.weight", "sequential_1.dense_1.bias"),
]


def test_blocks_in_blocks_are_trained_saved_and_loaded(tmp_path):
    x, y = data()
    model = nested_model()
    assert list(model.parameters()) == NAMES
    before = {name: parameter.value.copy() for name, parameter in model.parameters().items()}
    model.fit(x, y, epochs=2, optimizer=mc.Adam(0.01), verbose=False)
    for name, parameter in model.parameters().items():
        assert (parameter.value != before[name]).any(), name
    model.layers[1].branches[0][1].trainable = False
    model.save(tmp_path / "model.npz")
    loaded = mc.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert [p.trainable for p in loaded.parameters().values()] == [".layers." not in name for name in NAMES]


def test_a_frozen_block_keeps_its_weights():
    x, y = data()
    model = nested_model()
    model.layers[1].trainable = False
    before = {name: parameter.value.copy() for name, parameter in model.parameters().items()}
    model.fit(x, y, epochs=1, optimizer=mc.Adam(0.01), verbose=False)
    for name, parameter in model.parameters().items():
        assert (parameter.value == before[name]).all() == name.startswith("branches_1"), name


def test_the_summary_shows_the_layers_inside_with_their_shapes():
    lines = []
    nested_model().summary(print_fn=lines.append)
    block = next(i for i, line in enumerate(lines) if line.startswith("branches_1"))
    shown = [line.split("(")[0] for line in lines[block : block + 7]]
    assert [len(line) - len(line.lstrip()) for line in shown] == [0, 2, 2, 4, 4, 4, 2]
    assert "(12)" in lines[block] and f"{28 + 40 + 36 + 12}" in lines[block]
    assert "(8)" in lines[block + 3] and "40" in lines[block + 3]


def test_a_block_is_traced_and_explained_as_a_layer(tmp_path, rng):
    layers = [mc.Residual([*convolutions(1), mc.BatchNorm()]), mc.Flatten(), mc.Dense(3), mc.Softmax()]
    model = mc.Sequential(layers, (1, 6, 6))
    x = rng.random((1, 1, 6, 6), dtype="float32")
    assert [name for name, *_ in model.trace(x)] == ["residual_1", "flatten_1", "dense_1"]
    mc.explain(model, x[0]).save(tmp_path / "page.html")
    assert "Residual" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "shape", "named"),
    [
        (lambda: mc.Residual([mc.Conv2D(4, 1)]), (2, 6, 6), r"\(4, 6, 6\).*\(2, 6, 6\).*shortcut=Conv2D\(4, 1\)"),
        (lambda: mc.Residual([mc.Conv2D(4, 3, stride=2, padding=1)]), (2, 7, 5), r"shortcut=Conv2D\(4, 1, stride=2\)"),
        (lambda: mc.Residual([mc.Conv2D(2, 3)]), (2, 6, 6), r"padding=\"same\""),
        (lambda: mc.Residual([mc.Dense(5)]), (6,), r"shortcut=Dense\(5"),
        (lambda: mc.Residual([mc.Flatten()]), (2, 6, 6), r"\(72,\).*\(2, 6, 6\)"),
        (lambda: mc.Residual([mc.Dense(5)], shortcut=[mc.Dense(4)]), (6,), r"\(5,\).*\(4,\)"),
        (lambda: mc.Branches([[mc.Dense(5)], []]), (6,), r"\(5,\), \(6,\).*concatenate"),
        (lambda: mc.Branches([[mc.Conv2D(2, 3)], []], join="concatenate"), (1, 6, 6), r"\(2, 4, 4\), \(1, 6, 6\)"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named_with_the_fix(make, shape, named):
    with pytest.raises(mc.InputError, match=named):
        mc.Sequential([make()], shape)


def test_the_proposed_shortcut_fits():
    for stride, shape in ((2, (2, 7, 5)), ((1, 3), (2, 7, 8)), (3, (1, 10, 6))):
        inner = mc.Conv2D(4, 3, stride=stride, padding="same")
        with pytest.raises(mc.InputError) as error:
            mc.Residual([inner]).build(shape)
        shortcut = eval(str(error.value).partition("shortcut=")[2], {"Conv2D": mc.Conv2D})
        assert mc.Residual([inner], shortcut=shortcut).build(shape) == inner.output_shape(shape)


def test_a_batch_of_another_size_is_refused_and_not_broadcast(rng):
    block = built(lambda: mc.Residual([mc.Conv2D(2, 3)], shortcut=mc.AvgPool2D(3)), (2, 3, 3))
    assert block(rng.normal(size=(1, 2, 3, 3))).shape == (1, 2, 1, 1)
    with pytest.raises(mc.InputError, match=r"\(2, 3, 3\).*\(2, 1, 1\)"):
        block.forward(rng.normal(size=(1, 2, 5, 5)))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: mc.Residual([]), "a layer"),
        (lambda: mc.Residual("relu"), "list"),
        (lambda: mc.Residual([mc.ReLU]), "brackets"),
        (lambda: mc.Residual([mc.ReLU()], shortcut=[3]), "brackets"),
        (lambda: mc.Branches([mc.ReLU()]), "two"),
        (lambda: mc.Branches([[mc.ReLU()]]), "two"),
        (lambda: mc.Branches([[mc.ReLU()], []], join="sum"), "concatenate"),
        (lambda: mc.Branches([[layer := mc.ReLU()], [layer]]), "twice"),
    ],
)
def test_what_is_not_a_block_is_refused(make, named):
    with pytest.raises(mc.InputError, match=named):
        make()


class Widened(mc.Layer):
    """A layer of the user's own without `output_shape`, which changes the shape."""

    def __init__(self):
        self.inner = mc.Dense(9)

    def forward(self, x, training=False):
        return self.inner.forward(x, training)


def test_a_layer_of_the_users_own_stands_in_a_block(tmp_path):
    x, y = data()
    model = mc.Sequential([mc.Residual([Widened(), mc.Dense(6)]), mc.Dense(3)], (6,))
    assert model.layers[0].output_shape((6,)) == (6,)
    model.fit(x, y, epochs=1, verbose=False)
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(mc.load(tmp_path / "model.npz", Widened).predict(x), model.predict(x))
