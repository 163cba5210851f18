"""Test a layer of your own: every check that the library's own layers pass.

    mc.testing.check_layer(Swish, (3, 5, 5))

Each check is a function of a `Case` (how to make the layer, and a batch for
it). It returns where the layer is right, and raises a CheckError that says
what is wrong and how to mend it. `CHECKS` has them all by name.
"""

import contextlib
import functools
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from minicnn import backends
from minicnn.core import contract, gradcheck, operations
from minicnn.core.contract import Run, Subject, difference
from minicnn.core.errors import BackendError, CheckError, InputError, MinicnnError
from minicnn.core.layer import Layer, walk
from minicnn.core.layers import Dense, Flatten
from minicnn.core.losses import MeanSquaredError
from minicnn.core.optimizers import SGD
from minicnn.core.types import Array, Shape
from minicnn.model import LIBRARY, Sequential, load

MODES = (False, True)


class Case:
    """How a layer is made, and a batch for it.

    Args:
        make: a function without arguments that returns a new layer, or its class.
        input_shape: the shape of one input, without the batch axis; a tuple of shapes for several inputs.
        x: a batch to take instead of normally distributed numbers: integers, or numbers that a layer needs positive.

    Raises:
        InputError: `make` does not return a layer, or returns the same one again.
    """

    def __init__(self, make, input_shape, x=None):
        self.make, self.input_shape = make, tuple(input_shape)
        layer = make() if callable(make) and not isinstance(make, Layer) else None
        if not isinstance(layer, Layer) or make() is layer:
            raise InputError(
                f"a check needs a function that makes a new layer each time, got {make!r}: lambda: {make!r}"
            )
        self.several = bool(self.input_shape) and isinstance(self.input_shape[0], (tuple, list))
        if x is None:
            rng = np.random.default_rng(0)
            shapes = self.input_shape if self.several else (self.input_shape,)
            x = tuple(rng.normal(size=(4, *shape)) for shape in shapes)
            x = x if self.several else x[0]
        self.x = x
        self.name = repr(layer)

    def subject(self, dtype="float64"):
        """A new layer with one batch, its parameters random numbers, the biases included."""
        layer = self.make()
        subject = Subject(layer, self.x, dtype)
        rng = np.random.default_rng(1)
        for parameter in subject.parameters.values():
            noise = rng.normal(size=parameter.value.shape) / 4
            parameter.value[...] = parameter.value + operations.current.array(noise.astype(dtype))
        return subject

    def model(self, *more):
        """The layer in a Sequential; None where a Sequential cannot feed it."""
        if self.several or np.asarray(self.x).dtype.kind != "f":
            return None
        return Sequential([self.make(), *more], self.input_shape)


def check_untouched(case):
    """forward does not write into its input, nor backward into its argument, the input or the output."""
    _in_both_modes(contract.check_untouched, case)


def check_repeated_forward(case):
    """The same input gives the same output, when states and random generators are the same."""
    _in_both_modes(contract.check_repeated_forward, case)


def check_repeated_backward(case):
    """A second forward and backward pass gives the same gradients, and so does a second call of one backward pass."""
    _in_both_modes(contract.check_repeated_backward, case)


def check_two_batches(case):
    """A forward pass of another batch does not disturb the backward pass of the first."""
    _in_both_modes(contract.check_two_batches, case)


def check_shapes(case):
    """The output has the shape that `output_shape` promises, for any number of samples."""
    _in_both_modes(contract.check_shapes, case)


def check_dtype(case):
    """float32 in gives float32 out, and float64 gives float64: the output and every gradient."""
    for dtype in ("float32", "float64"):
        _in_both_modes(contract.check_dtype, case, dtype)


def check_precision(case):
    """A float64 input is computed with in float64 all the way."""
    _in_both_modes(contract.check_precision, case)


def check_samples(case):
    """A layer that claims `independent_samples` gives for the halves of a batch what it gives for the batch.

    Where it claims "means", the halves receive the means of the batch in training.
    """
    _in_both_modes(contract.check_samples, case)


def check_state(case):
    """Later outputs do not depend on an attribute that training changed and no file keeps."""
    contract.check_state(case.subject())


def check_memory_order(case):
    """However the input and `dy` lie in memory, the output and the gradients are the same."""
    subject = case.subject()
    for mode in MODES:
        expected = subject.run(mode)
        for order, lay_out in MEMORY_ORDERS.items():
            *x, dy = (
                operations.current.array(lay_out(operations.current.to_numpy(array)))
                for array in (*subject.inputs.values(), subject.dy)
            )
            found = difference(expected, subject.run(mode, tuple(x) if subject.several else x[0], dy))
            if found:
                subject.refuse(
                    mode,
                    f"with arrays that are {order} the result is another: {found}",
                    "Index by axes, and do not rely on x.ravel(order='K'), x.data, or strides",
                )


def check_input_gradient(case):
    """Without `needs_input_gradient`, `backward(dy, input_gradient=False)` gives the parameters' gradients alone."""
    subject = case.subject()
    if subject.layer.needs_input_gradient:
        return
    expected = subject.run()
    expected.gradients = {name: expected.gradients[name] for name in subject.parameters}
    y, backward = subject.forward()
    run = subject.finish(y, functools.partial(backward, input_gradient=False))
    found = difference(expected, run)
    if any(run.gradients[name] is not None for name in subject.inputs):
        found = "it returns something other than None"
    if found:
        subject.refuse(
            False,
            f"needs_input_gradient is False, and backward(dy, input_gradient=False) is wrong: {found}",
            "Leave out the input's gradient alone, or leave needs_input_gradient = True",
        )


def check_saving(case):
    """A model with the layer comes back from a file: the same constructor's arguments, and the same outputs."""
    model = case.model()
    if model is None:
        return
    x = operations.current.array(np.asarray(case.x, dtype="float32"))
    model.forward(x, training=True)  # its states are no longer those of the beginning
    with _temporary_folder() as folder:
        try:
            model.save(folder / "model.npz")
            loaded = load(folder / "model.npz", custom_layers=_own_classes(model))
        except MinicnnError as error:
            raise CheckError(f"{case.name} cannot be saved and loaded: {error}") from error
    fix = "Keep each constructor's argument as an attribute of its name, and all else in mc.Parameter or mc.State"
    if repr(loaded.layers) != repr(model.layers):
        raise CheckError(f"{case.name} comes back from a file as {loaded.layers[0]!r}. {fix}")
    expected, found = (Run(operations.current.to_numpy(network(x)), {}) for network in (model, loaded))
    found = difference(expected, found, tolerance=0)
    if found:
        raise CheckError(f"{case.name} comes back from a file as another layer: {found}. {fix}")


def check_resuming(case):
    """A training run that is resumed from a checkpoint ends with the same bits as one that was never stopped."""
    if case.model() is None:
        return
    x = np.asarray(case.x, dtype="float32")
    targets = np.random.default_rng(2).normal(size=(len(x), 2))

    def train(epochs, path, resume):
        model = case.model(Flatten(), Dense(2))
        options = dict(batch_size=2, optimizer=SGD(0.001, momentum=0.9), loss=MeanSquaredError(), verbose=False)
        try:
            model.fit(x, targets, epochs=epochs, checkpoint=path, resume=resume, **options)
        except MinicnnError as error:
            raise CheckError(f"{case.name} cannot be trained: {error}") from error
        return model

    with _temporary_folder() as folder:
        whole = train(2, folder / "whole.npz", resume=False)
        train(1, folder / "stopped.npz", resume=False)
        resumed = train(2, folder / "stopped.npz", resume=True)
    for kind, fix in (
        ("parameters", "Keep what training changes in mc.State, random generators in attributes"),
        ("states", "Let State hold numbers and arrays that it owns: self.mean.value = ..., a new array each time"),
    ):
        arrays = [Run(np.zeros(0), _values(getattr(model, kind)())) for model in (whole, resumed)]
        found = difference(*arrays, tolerance=0)
        if found:
            raise CheckError(
                f"{case.name}: a resumed training run is not the run that was never stopped: {found}. {fix}"
            )


def check_backends(case):
    """The outputs and gradients are the same on every backend that works here, up to rounding."""
    before, found = operations.current, {}
    try:
        for name in backends.NAMES:
            with contextlib.suppress(BackendError):
                if backends.use(name) not in found:
                    subject = case.subject()
                    found[backends.current().name] = [subject.run(mode) for mode in MODES]
    finally:
        backends.use(before)
    for name, runs in found.items():
        for mode, expected, run in zip(MODES, found["plain"], runs, strict=True):
            apart = difference(expected, run)
            if apart:
                subject.refuse(
                    mode,
                    f'on the backend "{name}" it is not what it is on "plain": {apart}',
                    "Use NumPy's functions and the operations of minicnn.core.operations",
                )


def check_gradients(case):
    """Every gradient agrees with central differences, in training and outside."""
    subject = case.subject()
    gradcheck.check(subject.layer, subject.x)


#: Every check by name, in the order in which `check_layer` runs them.
CHECKS = {
    function.__name__.removeprefix("check_"): function
    for function in (
        check_untouched,
        check_repeated_forward,
        check_repeated_backward,
        check_state,
        check_shapes,
        check_dtype,
        check_precision,
        check_samples,
        check_two_batches,
        check_gradients,
        check_input_gradient,
        check_memory_order,
        check_backends,
        check_saving,
        check_resuming,
    )
}


def check_layer(
    make: Callable[[], Layer], input_shape: Shape, *, x: Array | None = None, skip: Sequence[str] = ()
) -> None:
    """Run every check of `CHECKS` on a layer.

    Args:
        make: a function without arguments that returns a new layer, or its class.
        input_shape: the shape of one input, without the batch axis; a tuple of shapes for several inputs, which
            `forward` receives as a tuple.
        x: a batch to take instead of normally distributed numbers.
        skip: names of checks to leave out.

    Raises:
        CheckError: the first check that fails; the message says what is wrong and how to mend it.
        InputError: `make` does not make layers, or a name in `skip` that is not one of a check.

    >>> from minicnn import Tanh
    >>> check_layer(Tanh, (3,))
    """
    case = Case(make, input_shape, x)
    for check in _chosen(skip).values():
        check(case)


def parametrize_with_checks(cases: Iterable, *, skip: Sequence[str] = ()) -> Callable:
    """For pytest: one test for each layer and each check.

    Args:
        cases: a list of (make, input_shape), or (make, input_shape, x), as the arguments of `check_layer`.
        skip: names of checks to leave out.

    Returns:
        a decorator of a test with the argument `check`, a function without arguments.

    Raises:
        InputError: as `check_layer`.
        CheckError: not here, but from `check()`.

    >>> from minicnn import Tanh
    >>> @parametrize_with_checks([(Tanh, (3,))])              # doctest: +SKIP
    ... def test_layers_of_mine(check):
    ...     check()
    """
    import pytest  # only whoever writes tests has it

    parameters = []
    for case in (Case(*case) for case in cases):
        for name, check in _chosen(skip).items():
            shape = "x".join(map(str, case.input_shape))
            parameters.append(pytest.param(functools.partial(check, case), id=f"{case.name}-{shape}-{name}"))
    return pytest.mark.parametrize("check", parameters)


def _chosen(skip):
    skip = {skip} if isinstance(skip, str) else set(skip)
    if skip - set(CHECKS):
        raise InputError(f"there is no check {', '.join(sorted(skip - set(CHECKS)))}: there is {', '.join(CHECKS)}")
    return {name: check for name, check in CHECKS.items() if name not in skip}


def _in_both_modes(check, case, dtype="float64"):
    subject = case.subject(dtype)
    for mode in MODES:
        check(subject, mode)


def _every_second(array):
    wide = np.repeat(np.repeat(array, 2, axis=0), 2, axis=-1)
    return wide[::2, ..., ::2]


#: How an array may lie in memory, and a function that copies one there.
MEMORY_ORDERS = {
    "in Fortran's order": lambda array: np.ascontiguousarray(array.T).T,
    "stored with the batch axis innermost": lambda array: np.moveaxis(
        np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0
    ),
    "every second number of larger ones": _every_second,
    "reversed views": lambda array: array[::-1].copy()[::-1],
}


@contextlib.contextmanager
def _temporary_folder():
    """A folder for files; the warning that an initializer of one's own is not kept is of no concern here."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pathlib.Path(folder)


def _own_classes(model):
    """The classes of layers that are not the library's, for `load`."""
    return list({type(layer) for _, layer in walk(model, Layer) if type(layer) not in LIBRARY.values()})


def _values(items):
    """Parameters or states by name, as arrays."""
    return {
        name: operations.current.to_numpy(item.value) for name, item in items.items() if hasattr(item.value, "shape")
    }
