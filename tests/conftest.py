"""What all tests share."""

import pathlib

import numpy as np
import pytest

import minicnn as mc

REAL_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "cache"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def letters():
    """A small set of letters: ((x_train, y_train), (x_test, y_test)) with the channel axis."""
    (x_train, y_train), (x_test, y_test) = mc.datasets.load_letters(train=600, test=200, cache=False)
    return (x_train[:, None], y_train), (x_test[:, None], y_test)


@pytest.fixture
def real_data():
    if not REAL_DATA.is_dir():
        pytest.skip("no real notMNIST images beside the project (../shared/data)")
    return REAL_DATA
