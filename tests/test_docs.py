"""The pages under docs/: their examples run, and the code beside them draws their figures."""

import doctest
import importlib.util
import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE = DOCS / "how-convolution-works.md"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the pages are beside the tests in a checkout only")


def figures():
    """The module that draws the figures of the page."""
    spec = importlib.util.spec_from_file_location("how_convolution_works", DOCS / "how_convolution_works.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [PAGE, DOCS / "layers.md"], ids=lambda page: page.stem)
def test_the_examples_of_the_page_run(page):
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 25 and result.failed == 0


def test_every_figure_of_the_page_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    module = figures()
    monkeypatch.setattr(module, "TRAINING", {"train": 100, "epochs": 1})
    module.main(tmp_path)
    shown = re.findall(rf"\({PAGE.stem}/([\w-]+\.png)\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(shown)
    for name in shown:
        assert (DOCS / PAGE.stem / name).is_file()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
