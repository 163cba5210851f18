"""What a layer promises besides its gradient, and what a gradient check would take for something else.

A layer that draws other random numbers at every call looks as if its derivative
did not exist; one that overwrites its input as if the derivative were wrong.
Each function here tests one promise, and its error says what is broken and how
to mend it. They share a `Subject`: a copy of the layer with one batch.
"""

import copy
import dataclasses

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_unmasked
from minicnn.core.errors import CheckError, InputError
from minicnn.core.layer import Layer, build_layer, independent_samples, walk
from minicnn.core.parameter import Parameter, State, watch_gradients


@dataclasses.dataclass
class Run:
    """One forward and backward pass: the output `y`, and the gradients by name (None: nothing was returned)."""

    y: np.ndarray
    gradients: dict

    def arrays(self):
        """The output and every gradient by what a message calls it."""
        named = {f"gradient of {name}": gradient for name, gradient in self.gradients.items()}
        return {"output": self.y} | {name: array for name, array in named.items() if array is not None}


class Subject:
    """A copy of a layer and one batch for it, with the same states and random generators before every run.

    Args:
        target: a layer, which is not changed, built or not.
        x: a batch, or a tuple of several inputs, which `forward` receives as a tuple. Floating point numbers are
            converted to `dtype`; integers stay what they are, and have no gradient.
        dtype: that everything is computed in.
        seed: of the upstream gradient.

    Attributes:
        layer: the copy. name: what messages call it.
        inputs: the batch by name: {"x": array}, or {"x.0": array, "x.1": array}.
        dy: a random upstream gradient, of the output's shape.
    """

    def __init__(self, target, x, dtype="float64", seed=0):
        self.name = name_of(target.loss if isinstance(target, LossLayer) else target)
        self.several = isinstance(x, tuple)
        arrays = [as_numbers(array, dtype) for array in (x if self.several else (x,))]
        names = [f"x.{i}" for i in range(len(arrays))] if self.several else ["x"]
        self.inputs = {name: operations.current.array(array) for name, array in zip(names, arrays, strict=True)}
        self.layer = copy.deepcopy(target)
        self.layer.convert(dtype)
        for _, inner in walk(self.layer, Layer):
            if "dtype" in vars(inner):
                inner.dtype = np.dtype(dtype)
        shapes = tuple(array.shape[1:] for array in arrays)
        if self.several and getattr(type(self.layer), "output_shape", None) is Layer.output_shape:
            raise CheckError(f"{self.name} has several inputs: it needs a method output_shape(input_shapes)")
        self.output_shape = build_layer(self.layer, shapes if self.several else shapes[0], None, dtype)
        self.parameters = self.layer.parameters()
        for parameter in self.parameters.values():
            parameter.trainable = True
            parameter.clear_gradient()
        self._states = [(item, _state_of(item)) for item in self.layer.states().values()]
        # Not default_rng(seed): a caller may draw x so; with dy == x a backward pass that confuses the two would pass.
        self.rng = np.random.default_rng([seed, 1])
        with np.errstate(all="ignore"):
            y, _ = self.forward()
        if dtype == "float64" and not np.isfinite(operations.current.to_numpy(y)).all():
            raise InputError(f"the output of {self.name} is not finite at this x: check it at another input")
        self.dy = operations.current.array(self.rng.normal(size=y.shape), dtype)

    @property
    def x(self):
        """The batch as `forward` receives it."""
        return tuple(self.inputs.values()) if self.several else self.inputs["x"]

    def rows(self, rows, factor=1):
        """Some samples of the batch, multiplied by a factor where they are not integers."""
        taken = [array[rows] * factor if array.dtype.kind == "f" else array[rows] for array in self.inputs.values()]
        return tuple(taken) if self.several else taken[0]

    def another_batch(self):
        """A batch of other numbers, in the same range as this one."""
        return self.rows(slice(None, None, -1), 0.9)

    def moved_arrays(self):
        """Every array that has a gradient, by name: the inputs but for integers, and the parameters."""
        inputs = {name: array for name, array in self.inputs.items() if array.dtype.kind == "f"}
        return inputs | {name: parameter.value for name, parameter in self.parameters.items()}

    def forward(self, x=None, training=False):
        """The output and the backward pass, from the states at the start."""
        for item, state in self._states:
            _restore(item, state)
        result = self.layer.forward(self.x if x is None else x, training)
        if not isinstance(result, tuple) or len(result) != 2 or not callable(result[1]):
            raise CheckError(f"forward of {self.name} must return the output and the backward pass: return y, backward")
        if getattr(result[0], "shape", None) is None:
            raise CheckError(f"forward of {self.name} must return one array, got {type(result[0]).__name__}")
        return result

    def gradients(self, backward, dy):
        """What a backward pass returns and adds to the parameters, by name, as NumPy arrays or None."""
        with watch_gradients() as receivers:
            dx = backward(dy)
        for parameter in receivers - set(self.parameters.values()):
            raise CheckError(
                f"{self.name} adds gradients to a Parameter of shape {tuple(parameter.value.shape)} that its "
                "attributes do not hold, so it is not trained or saved: keep it in an attribute, or there in a list, "
                "a tuple or a dict"
            )
        dx = dx if self.several else (dx,)
        if not isinstance(dx, tuple) or len(dx) != len(self.inputs):
            raise CheckError(
                f"backward of {self.name} must return a tuple of {len(self.inputs)} gradients, one for each input, "
                "with None where there is none"
            )
        found = dict(zip(self.inputs, dx, strict=True)) | {name: p.grad for name, p in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.clear_gradient()
        return {name: None if g is None else np.array(operations.current.to_numpy(g)) for name, g in found.items()}

    def run(self, training=False, x=None, dy=None):
        """Forward and backward once."""
        y, backward = self.forward(x, training)
        return self.finish(y, backward, dy)

    def finish(self, y, backward, dy=None):
        """The run whose forward pass gave y and backward."""
        return Run(operations.current.to_numpy(y).copy(), self.gradients(backward, self.dy if dy is None else dy))

    def modes(self):
        """The values of `training` that differ: only False where a layer computes the same in training."""
        evaluation, training = (self.run(mode) for mode in (False, True))
        return (False,) if difference(evaluation, training, tolerance=0) is None else (True, False)

    def changed_states(self):
        """The names of the states that the last run changed."""
        states = zip(self.layer.states(), self._states, strict=True)
        return [
            name
            for name, (item, before) in states
            if isinstance(item, State) and not np.array_equal(item.value, before)
        ]

    def refuse(self, training, what, fix):
        """Raise the error for a broken promise."""
        raise CheckError(f"{self.name} in {mode_name(training)}: {what}. {fix}")


class LossLayer(Layer):
    """A loss as a layer, so that it can be tested like one: its output is the loss."""

    def __init__(self, loss, labels):
        self.loss, self.labels = loss, labels

    def forward(self, x, training=False):
        kept = np.array(operations.current.to_numpy(self.labels))
        result = self.loss(x, self.labels)
        if not isinstance(result, tuple) or len(result) != 2:
            raise CheckError(f"{name_of(self.loss)} must return the loss and its gradient: return loss, doutputs")
        loss, doutputs = result
        if np.ndim(loss):
            raise CheckError(f"{name_of(self.loss)} must return one number, got an array of shape {np.shape(loss)}")
        if not np.array_equal(kept, operations.current.to_numpy(self.labels)):
            raise CheckError(f"{name_of(self.loss)} changes its labels: write into new arrays only")

        def scaled(dx, dy):
            return dx if dx is None else dx * dy.astype(dx.dtype)

        def backward(dy):
            return tuple(scaled(dx, dy) for dx in doutputs) if isinstance(x, tuple) else scaled(doutputs, dy)

        dtype = (x[0] if isinstance(x, tuple) else x).dtype if type(loss) is float else None
        return operations.current.array(loss, dtype), backward


def check_repeated_forward(subject, training):
    """The same input gives the same output, when states and random generators are the same."""
    before, global_draws = _attributes(subject.layer), _global_generator()
    first, second = (operations.current.to_numpy(subject.forward(None, training)[0]).copy() for _ in range(2))
    found = _compare("output", first, second)
    if found is None:
        return
    if _global_generator() != global_draws:
        cause = "it draws from NumPy's global generator (np.random.rand and the like), which nobody can restore"
    elif changed := _changed(subject.layer, before):
        cause = f"it changed {', '.join(changed)}"
    else:
        cause = "it depends on something that its attributes do not hold"
    subject.refuse(
        training,
        f"two runs at the same input give two results ({found}): {cause}",
        "Keep a number that changes in mc.State, and draw from a generator in an attribute, self.rng = "
        "np.random.default_rng(0): both are found, saved, and here restored before each run",
    )


def check_untouched(subject, training):
    """forward does not write into its input, nor backward into its argument, the input or the output."""
    fix = "Write into new arrays only: x = x * 2, not x *= 2"
    saved = {name: operations.current.to_numpy(array).copy() for name, array in subject.inputs.items()}
    y, backward = subject.forward(None, training)
    for name, array in subject.inputs.items():
        if _compare(name, saved[name], operations.current.to_numpy(array), 0):
            subject.refuse(training, f"forward changes its input {name}", fix)
    arguments = {"dy, its argument": subject.dy, "y, the output of forward": y, **subject.inputs}
    saved = {name: operations.current.to_numpy(array).copy() for name, array in arguments.items()}
    subject.gradients(backward, subject.dy)
    for name, array in arguments.items():
        if _compare(name, saved[name], operations.current.to_numpy(array), 0):
            subject.refuse(training, f"backward changes {name}", fix)


def check_repeated_backward(subject, training):
    """A second forward and backward pass gives the same gradients; so does a second call of one backward pass."""
    y, backward = subject.forward(None, training)
    first = subject.finish(y, backward)
    fix = "Let backward compute from arrays that it does not change"
    found = difference(first, subject.run(training))
    if found:
        subject.refuse(training, f"the second backward pass is not the first: {found}", fix)
    try:
        again = subject.finish(y, backward)
    except InputError:  # it says that it can be called once only, as that of a Sequential
        return
    found = difference(first, again)
    if found:
        subject.refuse(training, f"backward is right only at its first call: {found} at the second", fix)


def check_two_batches(subject, training):
    """A forward pass of another batch does not disturb the backward pass of the first."""
    expected = subject.run(training)
    y, backward = subject.forward(None, training)
    subject.forward(subject.another_batch(), training)
    found = difference(expected, subject.finish(y, backward))
    if found:
        subject.refuse(
            training,
            f"after a forward pass of another batch the backward pass of the first is another: {found}",
            "Keep what backward needs in local variables of forward, not on self",
        )


def check_shapes(subject, training):
    """The output has the shape that `output_shape` promises, for any number of samples."""
    for rows in (slice(None), slice(0, 2 if training else 1)):  # a batch of one has no variance
        x = subject.rows(rows)
        try:
            y, _ = subject.forward(x, training)
        except InputError:
            if training and rows == slice(0, 1):  # one sample may be too few, as for the variance of BatchNorm
                continue
            raise
        promised = (len(x[0] if subject.several else x), *subject.output_shape)
        # For several inputs the default of output_shape is no promise.
        if tuple(y.shape) != promised and not (
            subject.several and type(subject.layer).output_shape is Layer.output_shape
        ):
            subject.refuse(
                training,
                f"output_shape promises {promised}, and forward gives {tuple(y.shape)}",
                "Let output_shape(input_shape) return the shape of one output, without the batch axis",
            )


def check_dtype(subject, training):
    """Everything that comes out is of the dtype that goes in."""
    dtype = subject.dy.dtype
    if not subject.moved_arrays():
        return  # nothing but integers
    with np.errstate(all="ignore"):  # float32 is smaller
        run = subject.run(training)
    found = {name: array.dtype for name, array in run.arrays().items() if array.dtype != dtype}
    if found:
        name, other = next(iter(found.items()))
        subject.refuse(
            training,
            f"for {dtype} numbers the {name} is {other}",
            "Take constants from Python or math (x * math.sqrt(2)), not from NumPy, and name the dtype of new "
            "arrays: np.zeros(shape, x.dtype), or np.zeros_like(x)",
        )


def check_precision(subject, training):
    """A float64 input is computed with in float64: a change far below the precision of float32 is seen.

    The same for every parameter, and for the gradients, which are not all numbers that float32 can hold.
    """
    fix = "Keep x.dtype: no astype('float32') and no float32 arrays on the way"
    run = subject.run(training)
    beyond_rounding = 1e-10 * np.abs(operations.current.to_numpy(subject.dy)).max(initial=0)
    for name, gradient in run.gradients.items():
        if gradient is not None and np.abs(gradient).max(initial=0) > beyond_rounding:
            with np.errstate(over="ignore"):
                rounded = gradient.astype("float32")
            if np.array_equal(gradient, rounded):
                subject.refuse(training, f"the gradient of {name} is computed in float32", fix)
    for name, array in subject.moved_arrays().items():
        here = operations.current.to_numpy(array).copy()
        move = np.maximum(1, np.abs(here)) * np.where(np.arange(here.size).reshape(here.shape) % 2, 1, -1)
        outputs = []
        for step in (1e-6, 1e-11):
            array[...] = operations.current.array(here + step * move)
            with np.errstate(all="ignore"):
                outputs.append(operations.current.to_numpy(subject.forward(training=training)[0]).copy())
        array[...] = operations.current.array(here)
        depends = np.abs(outputs[0] - run.y) > 1e-8 * np.abs(run.y).max(initial=0)
        if np.count_nonzero((outputs[1] != run.y)[depends]) < np.count_nonzero(depends) / 10:
            subject.refuse(
                training, f"a change of {name} by 1e-11 is not seen in the output: it is computed in float32", fix
            )


def check_samples(subject, training):
    """A layer that claims `independent_samples` gives for the halves of a batch what it gives for the batch.

    Where it claims "means", the halves receive the means of the batch in training, as the chunks of a backend do.
    """
    N, before = len(subject.dy), operations.current
    alone = independent_samples(subject.layer, training)
    share_means = independent_samples(subject.layer, training, "means") and isinstance(subject.dy, np.ndarray)
    if N < 2 or not (alone or share_means):
        return
    backend = _MeansOfBatch()
    operations.use(before if alone else backend)
    try:
        whole, halves = subject.run(training), []
        for rows in (slice(0, N // 2), slice(N // 2, None)):
            backend.start_chunk()
            halves.append(subject.run(training, subject.rows(rows), subject.dy[rows]))
        changed = [] if alone else subject.changed_states()
    finally:
        operations.use(before)
    gradients = {}
    for name, gradient in whole.gradients.items():
        found = [half.gradients[name] for half in halves]
        if gradient is None or any(array is None for array in found):
            continue  # a missing one is a matter of other checks
        gradients[name] = np.concatenate(found) if name in subject.inputs else sum(found)
    found = difference(whole, Run(np.concatenate([half.y for half in halves]), gradients))
    if found:
        fix = "Set independent_samples = False"  # nothing else allows chunks outside training
        if training:
            means = "mc.backends.current().mean must compute every mean over the batch, in backward, too"
            fix = f'Set independent_samples = "evaluation" if it holds outside training. For "means", {means}'
        subject.refuse(training, f"it claims independent_samples, and a batch is not its two halves: {found}", fix)
    if changed:
        subject.refuse(
            training,
            f"it claims independent_samples, and every chunk of a batch changes {', '.join(changed)}",
            "Change it in a function, and let mc.backends.current().once(function) call it: once a batch",
        )


class _MeansOfBatch(operations.Operations):
    """The backend "plain" for a batch, and then for its chunks one by one, which receive the means of the batch."""

    def __init__(self):
        self._means, self._chunks = [], 0

    def start_chunk(self):
        self._received = iter(self._means)
        self._chunks += 1

    def mean(self, x, axes):
        if 0 not in axes:
            return super().mean(x, axes)
        if self._chunks:
            return next(self._received, None) or super().mean(x, axes)
        self._means.append(super().mean(x, axes))
        return self._means[-1]

    def once(self, function):
        if self._chunks < 2:
            function()


def check_state(subject):
    """Later outputs do not depend on an attribute that training changed and no file keeps.

    Returns:
        the names of attributes that training changed although no output depends on them, such as a batch kept.
    """
    before = _attributes(subject.layer)
    expected = operations.current.to_numpy(subject.forward()[0]).copy()
    subject.forward(subject.another_batch(), training=True)
    changed = _changed(subject.layer, before)
    if changed and _compare("output", expected, operations.current.to_numpy(subject.forward()[0]), 0):
        subject.refuse(
            True,
            f"forward changed {', '.join(changed)}, on which later outputs depend and which would be lost on save",
            "Keep it in mc.State",
        )
    return changed


def _check_float32(target, x, training):
    """check_dtype in float32, where a layer that widens may stop the next one."""
    try:
        check_dtype(Subject(target, x, "float32"), training)
    except InputError as error:
        raise CheckError(f"{name_of(target)} computes in float64, and not in float32: {error}") from error


def keep(subject, target, x, training=None):
    """Test what `gradcheck.check` relies on, in the modes given by `training`; None for both.

    Args:
        subject: in float64. target, x: what it was made of.

    Returns:
        the modes to compare gradients in: both where they differ; and what `check_state` returns.
    """
    modes = (False, True) if training is None else (bool(training),)
    for mode in modes:
        check_untouched(subject, mode)
    changed = check_state(subject)
    modes = subject.modes() if training is None else modes
    for mode in modes:
        check_repeated_forward(subject, mode)
        check_repeated_backward(Subject(target, x), mode)  # one whose backward pass has not been called
        _check_float32(target, x, mode)
        if not isinstance(target, LossLayer):
            check_shapes(subject, mode)
            check_precision(subject, mode)
            check_samples(subject, mode)
    return modes, changed


def difference(first, second, tolerance=1e-9):
    """How two runs differ, in words; None where they agree, relative to the largest number."""
    expected, found = first.arrays(), second.arrays()
    largest = max((np.abs(array).max(initial=0) for array in expected.values()), default=0)
    for name in expected:
        if name not in found:
            return f"the {name} is missing"
        # A gradient that is zero by construction is nothing but rounding: that of the others is allowed.
        apart = _compare(name, expected[name], found[name], tolerance, 1e-3 * largest)
        if apart:
            return apart
    return None


def _compare(name, first, second, tolerance=1e-9, smallest=0.0):
    if first.shape != second.shape:
        return f"the {name} is {second.shape} instead of {first.shape}"
    first, second = np.asarray(first), np.asarray(second)
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.subtract(first, second, dtype=np.float64))
        wrong = ~((apart <= tolerance * np.abs(first).max(initial=smallest)) | (first == second))
    wrong &= ~(np.isnan(first) & np.isnan(second))
    if not wrong.any():
        return None
    return f"{wrong.sum()} of {wrong.size} numbers of the {name} differ, by up to {apart[wrong].max():.3g}"


def as_numbers(x, dtype):
    """A copy of an array or list: integers as they are, floating point numbers in `dtype`."""
    check_unmasked(x, "gradcheck")
    x = operations.current.to_numpy(x)
    if x.dtype.kind not in "fiub":
        raise InputError(f"gradcheck needs an array of numbers, got {x.dtype}")
    return np.array(x, dtype if x.dtype.kind == "f" else None)


def name_of(target):
    """What messages call a target: a layer by its repr, a model or a loss by its class."""
    return repr(target) if isinstance(target, Layer) and not hasattr(target, "row") else type(target).__name__


def mode_name(training):
    """What messages call the two modes."""
    return "training" if training else "evaluation"


def _state_of(item):
    return item.bit_generator.state if isinstance(item, np.random.Generator) else _copy(item.value)


def _restore(item, state):
    if isinstance(item, np.random.Generator):
        item.bit_generator.state = state
    else:
        item.value = _copy(state)


def _copy(value):
    """A copy of a state's value; an array stays where it is, on the device, too."""
    return value.copy() if hasattr(value, "strides") else copy.deepcopy(value)


def _global_generator():
    """The state of NumPy's global generator, as something that can be compared."""
    _, key, position, *_ = np.random.get_state()
    return key.tobytes(), position


def _attributes(layer):
    """Every attribute of a layer and the layers inside: (value, a copy of an array that may be changed in place)."""
    return {
        f"{name}.{key}".lstrip("."): (value, value.copy() if isinstance(value, np.ndarray) else None)
        for name, inner in walk(layer, Layer)
        for key, value in vars(inner).items()
        if not isinstance(value, (Parameter, State, Layer))
    }


def _changed(layer, before):
    """The names of attributes that are not what they were."""
    changed = []
    for name, (value, _) in _attributes(layer).items():
        old, contents = before.get(name, (None, None))
        if value is not old or (contents is not None and not np.array_equal(value, contents)):
            changed.append(name)
    return changed
