"""Every example in a docstring runs; everything public has one; importing needs NumPy alone."""

import doctest
import importlib
import inspect
import pkgutil
import re
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
    for name in mc.exchange.__all__:
        yield f"minicnn.exchange.{name}", getattr(mc.exchange, name)
    for item in (mc.gradcheck.check, mc.testing.check_layer, mc.testing.parametrize_with_checks,
                 mc.im2col.im2col, mc.im2col.col2im, mc.im2col.output_size, mc.im2col.Window,
                 mc.layers.convolution_by_loops):  # fmt: skip
        yield f"{item.__module__}.{item.__name__}", item


#: What raises: the word itself, and the functions whose work is to refuse.
RAISES = re.compile(r"\braise (?!NotImplementedError)|\b(check_\w+|check_integer|_number|as_labels|fans|Sequential)\(")


def can_raise(function):
    """Whether a function refuses something, by its source; what `dataclass` wrote has none."""
    return "<string>" not in function.__code__.co_filename and RAISES.search(inspect.getsource(function)) is not None


@pytest.mark.parametrize(("name", "item"), list(public()), ids=lambda value: value if isinstance(value, str) else "")
def test_everything_public_is_documented(name, item):
    """With an example that runs, and the errors that are raised."""
    assert item.__doc__ and len(item.__doc__.split()) > 4
    assert ">>>" in item.__doc__ or (inspect.isclass(item) and issubclass(item, BaseException))
    if not inspect.isclass(item):
        assert "Raises:" in item.__doc__ or not can_raise(item)
        return
    told = ("__init__", "__post_init__", "__call__", "forward")  # their errors the class tells, inherited ones, too
    calls = [vars(base).get(key) for base in item.__mro__ for key in told]
    assert "Raises:" in item.__doc__ or not any(inspect.isfunction(call) and can_raise(call) for call in calls)
    for key, method in vars(item).items():
        overrides = any(hasattr(base, key) for base in item.__mro__[1:])
        if inspect.isfunction(method) and not key.startswith("_") and not overrides and key not in told:
            assert method.__doc__, f"{name}.{key} says nothing"
            says = "Raises:" in method.__doc__ or "InputError" in method.__doc__
            assert says or not can_raise(method), f"{name}.{key} does not say its errors"


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
