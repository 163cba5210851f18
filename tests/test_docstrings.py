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
    """What users reach: the names of the package, and the functions and classes that its modules define."""
    for name, item in vars(mc).items():
        if not name.startswith("_") and not inspect.ismodule(item):
            yield name, item
    for module in (mc.attribution, mc.datasets, mc.initializers, mc.losses, mc.metrics, mc.networks, mc.optimizers,
                   mc.plots, mc.schedules):  # fmt: skip
        for name, item in vars(module).items():
            own = getattr(item, "__module__", "").startswith(module.__name__)
            if own and not name.startswith("_") and (inspect.isfunction(item) or inspect.isclass(item)):
                yield f"{module.__name__}.{name}", item


@pytest.mark.parametrize(("name", "item"), list(public()), ids=lambda value: value if isinstance(value, str) else "")
def test_everything_public_is_documented(name, item):
    """With an example that runs, and the errors that are raised."""
    assert item.__doc__ and len(item.__doc__.split()) > 4
    if not inspect.isclass(item):
        assert ">>>" in item.__doc__ or "load_notmnist" in name or "read_notmnist" in name  # which need the data
        assert "Raises:" in item.__doc__ or "raise " not in inspect.getsource(item)
        return
    assert ">>>" in item.__doc__ or issubclass(item, Exception)
    own_init = vars(item).get("__init__")
    assert "Raises:" in item.__doc__ or own_init is None or "raise " not in inspect.getsource(own_init)
    for key, method in vars(item).items():
        overrides = any(hasattr(base, key) for base in item.__mro__[1:])
        if inspect.isfunction(method) and not key.startswith("_") and not overrides:
            assert method.__doc__, f"{name}.{key} says nothing"
            says = "Raises:" in method.__doc__ or "InputError" in method.__doc__
            assert says or "raise InputError" not in inspect.getsource(method), f"{name}.{key} does not say its errors"


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
