"""Every example in a docstring runs; everything public has one; importing needs NumPy alone."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import minicnn as mc

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(mc.__path__, "minicnn.") if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("name", ["minicnn", *MODULES])
def test_every_module_opens_with_its_idea(name):
    assert len(importlib.import_module(name).__doc__.split()) >= 5


def public():
    for name, item in vars(mc).items():
        if not name.startswith("_") and not inspect.ismodule(item):
            yield name, item
    for name, item in vars(mc.networks).items():
        if inspect.isfunction(item):
            yield f"networks.{name}", item


@pytest.mark.parametrize(("name", "item"), list(public()), ids=lambda value: value if isinstance(value, str) else "")
def test_everything_public_is_documented(name, item):
    assert item.__doc__ and len(item.__doc__.split()) > 4
    if inspect.isclass(item):
        for key, method in vars(item).items():
            overrides = any(hasattr(base, key) for base in item.__mro__[1:])
            if inspect.isfunction(method) and not key.startswith("_") and not overrides:
                assert method.__doc__, f"{name}.{key} says nothing"


@pytest.mark.parametrize("layer", mc.layers.LAYERS.values(), ids=mc.layers.LAYERS)
def test_every_layer_has_an_example(layer):
    assert ">>>" in layer.__doc__


def test_importing_needs_numpy_alone():
    code = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"PIL", "platformdirs", "threadpoolctl", "tqdm", "matplotlib", "cupy", "torch"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
import minicnn
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
