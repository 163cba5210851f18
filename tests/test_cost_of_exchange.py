"""The cost model of docs/parallel.md: its tables are on the page, and the library sends what its formulas say."""

import doctest
import importlib.util
import pathlib

import pytest

from minicnn.parallel import choose

DOCS = pathlib.Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the pages are beside the tests in a checkout only")


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location("cost_of_exchange", DOCS / "cost_of_exchange.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_tables_are_on_the_page(model):
    page = (DOCS / "parallel.md").read_text(encoding="utf-8")
    assert len(model.tables()) == 4
    for title, table in model.tables().items():
        assert table in page, f"print it again with python docs/cost_of_exchange.py: {title}"


def test_its_examples_run(model):
    result = doctest.testmod(model)
    assert result.attempted >= 5 and result.failed == 0


@pytest.mark.parametrize("shape", [(120, 400), (1000, 784), (10, 84)])
def test_the_library_gathers_factors_exactly_where_they_are_fewer_bytes(model, shape):
    most = int(model.crossing(*shape))
    for W in (2, 8, 512):
        assert model.factors(*shape, most, W).sent <= model.gradients(*shape, most, W).sent
        assert model.factors(*shape, most + 1, W).sent > model.gradients(*shape, most + 1, W).sent
        assert choose(shape, most, W) == "factors" and choose(shape, most + 1, W) == "gradient"
