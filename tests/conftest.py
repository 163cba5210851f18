"""What all tests share."""

import pathlib
import shutil
import signal

import numpy as np
import pytest

import minicnn as mc
from minicnn.backends.numpy import convolution

REAL_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Where the tests are a background job of a shell, Ctrl-C is ignored, and the programs that they interrupt would go on.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "cache"))


@pytest.fixture
def by_tiles(monkeypatch):
    """No convolution is small enough to be computed with all its columns."""
    monkeypatch.setattr(convolution, "is_small", lambda *_: False)


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


@pytest.fixture(scope="module")
def browser():
    """Chromium, for the pages as a user sees them."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
