"""Matrix products by all the ways that speed takes, against NumPy's plain `@` in float64."""

import itertools

import numpy as np
import pytest

from minicnn.backends.numpy import matmul
from minicnn.backends.numpy.matmul import batched_matmul, batched_matmul_sum, parallel_matmul, thin_matmul

rng = np.random.default_rng(0)


@pytest.fixture(params=[True, False], ids=["small-products", "plain"])
def small(request, monkeypatch):
    monkeypatch.setattr(matmul, "blas_multiplies_small", lambda: request.param)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [0, matmul.LARGE_MATRIX])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [(67, 5000, 32), (300, 1001, 17), (41, 900, 128), (1003, 500, 600), (17, 70, 97), (300, 200, 1), (300, 200, 2)],
)
def test_a_large_product(monkeypatch, rows, inner, columns, transposed, limit):
    monkeypatch.setattr(matmul, "PARALLEL_PRODUCT", 0)
    monkeypatch.setattr(matmul, "LARGE_MATRIX", limit)
    a = rng.normal(size=(rows, inner)).astype("float32")
    if transposed:
        a = np.asfortranarray(a)
    b = rng.normal(size=(inner, columns)).astype("float32")
    expected = a.astype("float64") @ b
    np.testing.assert_allclose(parallel_matmul(a, b), expected, rtol=0, atol=1e-3)
    out = np.full((rows, columns), np.nan, dtype="float32")
    assert parallel_matmul(a, b, out=out) is out
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [0, matmul.PARALLEL_PRODUCT])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(300, 32, 784), (128, 100, 256), (3, 500, 1000), (9, 2, 5), (9, 1, 5)]
)
def test_the_gradient_of_a_dense_weight(monkeypatch, rows, inner, columns, transposed, limit):
    monkeypatch.setattr(matmul, "PARALLEL_PRODUCT", limit)
    a, b = (rng.normal(size=shape).astype("float32") for shape in ((rows, inner), (inner, columns)))
    if transposed:
        b = np.asfortranarray(b)
    np.testing.assert_allclose(thin_matmul(a, b), a.astype("float64") @ b, rtol=0, atol=1e-3)


STACKS = [
    (rows, inner, columns, groups, count)
    for (rows, inner, columns), (groups, count) in itertools.product(
        [(32, 144, 448), (64, 200, 448), (7, 5, 6), (70, 150, 331), (100, 120, 96), (128, 576, 128), (64, 600, 96)],
        [(1, 3), (2, 1)],
    )
]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("rows", "inner", "columns", "groups", "count"), STACKS)
def test_stacks(rows, inner, columns, groups, count):
    a = rng.normal(size=(groups, 1, rows, inner)).astype("float32")
    b = rng.normal(size=(groups, count, inner, columns)).astype("float32")
    atol = 1e-4 * max(1, inner / 200)
    expected = a.astype("float64") @ b
    np.testing.assert_allclose(batched_matmul(a, b), expected, rtol=0, atol=atol)
    out = np.full((groups, rows, count, columns), np.nan, dtype="float32").swapaxes(1, 2)  # a convolution's output
    batched_matmul(a, b, out=out)
    np.testing.assert_allclose(out, expected, rtol=0, atol=atol)


SHAPES = [(64, 32, 512), (150, 16, 160), (149, 16, 640), (400, 48, 1024), (576, 64, 256), (96, 96, 64), (128, 97, 1024)]
SUMS = [(*shape, 2, 3) for shape in SHAPES]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("rows", "columns", "inner", "groups", "count"), STACKS + SUMS)
def test_sums_over_stacks(rows, columns, inner, groups, count):
    a = rng.normal(size=(groups, count, rows, inner)).astype("float32")
    dy = rng.normal(size=(groups, columns, count, inner)).astype("float32")  # an output's gradient
    b = dy.swapaxes(1, 2)
    expected = (a.astype("float64") @ b.swapaxes(2, 3)).sum(axis=1)
    np.testing.assert_allclose(batched_matmul_sum(a, b), expected, rtol=0, atol=1e-3)
