"""What a task is, and how a learner's function is judged: by the outcomes of the known mistakes.

A task runs a function on small random inputs and collects its outcomes: `y`, then
`dx`, then the gradients of the parameters. The solution gives the right outcomes,
every known mistake gives wrong ones. The first outcome of the learner that is not
right decides: the mistake with the same wrong numbers is the learner's mistake.

The inputs are never square and never symmetric, and a batch has several samples:
so a transposed kernel or a missing sum cannot hide.
"""

import contextlib
import dataclasses
import fractions
import functools
import importlib.resources
import linecache
import math
import pathlib
import re
import traceback

import numpy as np

from minicnn.backends.numpy.threads import single_threaded_blas
from minicnn.core import operations
from minicnn.core.checks import quoted
from minicnn.core.errors import CheckError, InputError

FILES = importlib.resources.files("minicnn.exercises") / "files"

#: Mistakes of every layer, by the end of the outcome's name in which they show.
GENERAL = {
    "after another forward pass": (
        "a stale cache: the same backward pass gave the right numbers until your function was called for another "
        "batch. backward reads what the last call left in a global variable or in an attribute. Let it use the local "
        "variables of its own call"
    ),
    "x afterwards": (
        "your function changes its argument x, which belongs to the caller. Write the result into a new array: "
        "x * mask, not x *= mask or x[...] = 0"
    ),
    "dy afterwards": (
        "backward changes its argument dy, which the layer after this one may still need. Write the result into a new "
        "array: dy * mask, not dy *= mask or dy[...] = 0"
    ),
}

#: The mistake of a function whose outcomes nobody can repeat.
RANDOM = (
    "it depends on something else than its arguments. Random numbers must come from the argument rng alone, not from "
    "np.random; a global variable must not be changed"
)


class NotWrittenError(CheckError):
    """A stub that is not filled in yet."""


@dataclasses.dataclass
class Mistake:
    """A known mistake.

    Attributes:
        function: makes the mistake, and nothing else wrong.
        line: the number of the line of the formula that it breaks.
        hint: what is wrong, in words.
    """

    function: object
    line: int
    hint: str


class Raised:
    """The outcome of a function that raised an error; two of them are the same where type and text are."""

    def __init__(self, error):
        self.error = error

    def __eq__(self, other):
        return isinstance(other, Raised) and repr(self.error) == repr(other.error)

    __hash__ = None


class Task:
    """One function that the learner writes, and all that is known about it.

    Args:
        name: of the task, and of the function.
        file: the name of the learner's file, without ".py".
        solution: the library's own code as a function of the same arguments; None where `run` judges by itself.
        run: a generator function; for a function it yields (name, array) of each outcome, in the order in which a
            learner should look at them. A CheckError that it raises is shown as it is.
        functions: the names of the functions in the learner's file, where they are not the name of the task.

    >>> def run(function):
    ...     yield "the double of 3", as_array(function(3), "double")
    >>> double = Task("double", "ex00_double", lambda x: 2 * x, run)
    >>> @double.mistake(1, "the square is not the double")
    ... def square(x):
    ...     return x * x
    >>> double.check(lambda x: x + x)
    ''
    >>> double.known_mistake(double.outcomes(lambda x: x**2), 0).hint
    'the square is not the double'
    """

    def __init__(self, name, file, solution, run, functions=None):
        self.name, self.file, self.solution, self.run = name, file, solution, run
        self.functions = (name,) if functions is None else functions
        self.mistakes = []

    def __repr__(self):
        return f"Task({self.name!r}, {self.file!r})"

    def mistake(self, line, hint):
        """A decorator that adds a function to the known mistakes."""

        def add(function):
            self.mistakes.append(Mistake(function, line, hint))
            return function

        return add

    @functools.cached_property
    def right(self):
        """The outcomes of the solution."""
        return [] if self.solution is None else self.outcomes(self.solution)

    @functools.cached_property
    def known(self):
        """The outcomes of every known mistake."""
        return [(mistake, self.outcomes(mistake.function)) for mistake in self.mistakes]

    def outcomes(self, *functions):
        """[(name, array)] of a function; an error ends the list as ("", Raised)."""
        found = []
        try:
            with np.errstate(all="ignore"), _plain():  # infinity and NaN are outcomes like others
                for outcome in self.run(*functions):
                    found.append(outcome)
        except (Exception, SystemExit) as error:
            found.append(("", Raised(error)))
        return found

    def check(self, *functions):
        """The sentence about a right function, mostly empty; a CheckError for a wrong one."""
        __tracebackhide__ = True
        found = self.outcomes(*functions)
        wrong = self._first_wrong(found)
        if wrong is None:
            return found[-1][1] if self.solution is None else ""
        value = found[wrong][1]
        if isinstance(value, Raised) and isinstance(value.error, NotImplementedError):
            raise self._not_written(value.error)
        mistake = self.known_mistake(found, wrong)
        what = self._what_is_wrong(found, wrong, mistake, functions)
        is_of_the_code = isinstance(value, Raised) and not isinstance(value.error, CheckError)
        raise CheckError(f"{self.name}: {what}") from (value.error if is_of_the_code else None)

    def formula(self, line):
        """The line of the formula with this number, from the text of the exercise.

        >>> from minicnn.exercises import TASKS
        >>> TASKS["relu"].formula(2)
        'dx = dy where x > 0, and 0 elsewhere'
        """
        text = (FILES / f"{self.file}.py").read_text(encoding="utf-8")
        part = text[text.index(f"def {self.functions[0]}(") :]
        return re.search(rf"^ *\({line}\) +(.*)$", part, re.MULTILINE)[1]

    def _first_wrong(self, found):
        if self.solution is None:
            return len(found) - 1 if isinstance(found[-1][1], Raised) else None
        pairs = zip(found, self.right, strict=False)
        return next((index for index, (one, other) in enumerate(pairs) if not same(one[1], other[1])), None)

    def known_mistake(self, found, wrong):
        """The mistake with the same outcomes up to the first wrong one, and most of the same after it; or None.

        Args:
            found: the outcomes of a learner's function.
            wrong: the index of the first one that is not right.
        """
        best, most = None, 0
        for mistake, outcomes in self.known:
            agree = [same(one[1], other[1]) for one, other in zip(outcomes, found, strict=False)]
            if len(agree) > wrong and all(agree[: wrong + 1]) and sum(agree) > most:
                best, most = mistake, sum(agree)
        return best

    def _what_is_wrong(self, found, wrong, mistake, functions):
        value = found[wrong][1]
        if isinstance(value, Raised) and isinstance(value.error, CheckError):
            return str(value.error)
        if self.solution is None:
            return _raised("the training", self.file, value.error, functions)
        name, right = self.right[wrong]
        if mistake is not None:
            broken = f"is wrong: {mistake.hint}"
            if isinstance(value, Raised):
                broken = f"cannot be computed ({type(value.error).__name__}): {mistake.hint}"
            return f"{name} {broken}.\nLine ({mistake.line}) of the formula: {self.formula(mistake.line)}"
        if isinstance(value, Raised):
            return _raised(name, self.file, value.error, functions)
        for ending, hint in GENERAL.items():
            if name.partition(" (")[0].endswith(ending):
                return f"{hint}."
        other = next((label for label, array in self.right if label != name and same(array, value)), None)
        if other is not None and value.size > 1 and value.any():
            return f"{name} is wrong: it is {other}. Is what you return in the right order?"
        again = self.outcomes(*functions)
        if len(again) < len(found) or not all(same(a[1], b[1]) for a, b in zip(found, again, strict=False)):
            return f"{name} is wrong, and differs from call to call: {RANDOM}."
        text = describe(value, right)
        return f"{name} is wrong: {text}{'' if text.endswith('?') else '.'}"

    def _not_written(self, error):
        """The stub that raised: this one, or that of an exercise on which this one builds."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        stem = pathlib.Path(last.filename).stem
        is_other_file = stem != self.file and any(stem == path.name.removesuffix(".py") for path in FILES.iterdir())
        if is_other_file or (last.name in self.functions and last.name != self.name):
            return NotWrittenError(
                f"{self.name} uses {last.name} of {stem}.py, which is not written yet: do that first"
            )
        return NotWrittenError(
            f"{self.name} is not written yet: in {self.file}.py, put your code in the place of the line "
            "`raise NotImplementedError(...)`"
        )


def check_task(tasks, name, functions):
    """`minicnn.exercises.check`, with the tasks as a dict."""
    __tracebackhide__ = True
    if name not in tasks:
        raise InputError(f"there is no exercise {quoted(name)}: the exercises are {', '.join(tasks)}")
    task = tasks[name]
    if len(functions) != len(task.functions) or not all(map(callable, functions)):
        needed = ", ".join(task.functions)
        raise InputError(f'check("{name}", {needed}) needs the functions themselves, without brackets after them')
    return task.check(*functions)


# How a function is run


def values(cases, names=("the result",)):
    """The `run` of a task whose function returns numbers.

    Args:
        cases: {label: a function of a random generator that returns the arguments}.
        names: of what the function returns; several where it returns a tuple.
    """

    def run(function):
        for label, make in cases.items():
            results = function(*make(np.random.default_rng(0)))
            for name, value in zip(names, as_tuple(results, names, "your function"), strict=True):
                yield _label(name, label), as_array(value, name)

    return run


def layer(cases, gradients=("dx",), also=None):
    """The `run` of a task whose function returns y and backward, with the general mistakes.

    Args:
        cases: as for `values`; the first argument is x.
        gradients: the names of what `backward` returns.
        also: a function of the arguments that returns more outcomes, {name: array}, such as what was kept.
    """

    def run(function):
        for label, make in cases.items():
            arguments = make(np.random.default_rng(0))
            x = arguments[0].copy()
            y, backward = as_pair(function(*arguments))
            yield _label("y", label), as_array(y, "y")
            dy = np.random.default_rng(1).normal(size=np.shape(y))
            given = dy.copy()
            results = as_tuple(backward(given), gradients, "backward")
            for name, value in zip(gradients, results, strict=True):
                yield _label(name, label), as_array(value, name)
            if also is not None:
                for name, value in also(arguments).items():
                    yield _label(name, label), as_array(value, name)
            yield _label("x afterwards", label), arguments[0] - x
            yield _label("dy afterwards", label), given - dy
            _, backward = as_pair(function(*make(np.random.default_rng(0))))
            function(*make(np.random.default_rng(2)))
            results = as_tuple(backward(dy.copy()), gradients, "backward")
            for name, value in zip(gradients, results, strict=True):
                yield _label(f"{name} after another forward pass", label), as_array(value, name)

    return run


def _label(name, label):
    return f"{name} ({label})" if label else name


def as_array(value, name):
    """A copy of a result as an array of float64; a CheckError for what is not numbers."""
    if value is None:
        raise CheckError(f"{name} is None: is a `return` missing?")
    if value is NotImplemented or callable(value):
        raise CheckError(f"{name} is {quoted(value)}, and must be an array: is a call `(...)` missing?")
    try:
        return np.array(value, dtype="float64")
    except (TypeError, ValueError):
        raise CheckError(f"{name} is not an array of numbers, but {type(value).__name__} {quoted(value)}") from None


def as_tuple(results, names, owner):
    """What a function returned as a tuple with one item for each name."""
    if len(names) == 1:
        return results if isinstance(results, tuple) and len(results) == 1 else (results,)
    if not isinstance(results, (tuple, list)) or len(results) != len(names):
        raise CheckError(f"{owner} must return {len(names)} arrays ({', '.join(names)}); it returned {_came(results)}")
    return tuple(results)


def as_pair(results):
    """What a layer returned: y and backward."""
    if not isinstance(results, tuple) or len(results) != 2 or not callable(results[1]):
        came = _came(results)
        raise CheckError(f"your function must return two things, y and the function backward; it returned {came}")
    return results


def _came(results):
    if results is None:
        return "None: is a `return` missing?"
    kinds = [type(item).__name__ for item in results] if isinstance(results, (tuple, list)) else None
    return f"{len(kinds)}: {', '.join(kinds)}" if kinds else f"one {type(results).__name__}"


# How outcomes are compared


def same(one, other):
    """Whether two outcomes are the same, up to rounding."""
    if isinstance(one, Raised) or isinstance(other, Raised):
        return isinstance(one, Raised) and one == other
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-6, atol=1e-9, equal_nan=True)


def describe(value, right):
    """How a wrong outcome differs from the right one, where no known mistake explains it.

    >>> describe(np.array([[2.0, 4.0]]), np.array([[1.0, 2.0]]))
    'it is the right one times 2: look for a factor'
    >>> describe(np.zeros((2, 3)), np.zeros((3, 2)))
    'it has the shape (2, 3), and must have (3, 2): an axis is transposed'
    """
    if value.shape != right.shape:
        fix = ": is a reshape missing?" if value.size == right.size else ""
        fix = ": an axis is transposed" if sorted(value.shape) == sorted(right.shape) else fix
        return f"it has the shape {value.shape}, and must have {right.shape}{fix}"
    if not np.isfinite(value).all() and np.isfinite(right).all():
        index = tuple(np.argwhere(~np.isfinite(value))[0].tolist())
        place = f", the first at {list(index)}" if index else ""
        return f"it has infinite numbers or NaN{place}: where is a division by 0 or an overflow?"
    wrong = ~np.isclose(value, right, rtol=1e-6, atol=1e-9, equal_nan=True)
    where, scale = right != 0, np.abs(right).max()
    if not value.any():
        return "it is 0 everywhere"
    if where.any() and not value[~where].any():
        factor = float((value * right).sum() / (right * right).sum())
        is_simple = math.isclose(factor, fractions.Fraction(factor).limit_denominator(32), rel_tol=1e-6)
        if (
            factor
            and (value.size > 2 or is_simple)
            and np.allclose(value, factor * right, rtol=1e-6, atol=1e-9 * scale)
        ):
            text = f"it is the right one times {factor:.6g}: look for a factor"
            return "it has the wrong sign" if np.isclose(factor, -1) else text
    if value.size > 2 and np.allclose(np.sort(value, axis=None), np.sort(right, axis=None), rtol=1e-6, atol=1e-9):
        return "it has the right numbers in another order: a transpose or a reshape is wrong"
    index = tuple(np.argwhere(wrong)[0].tolist())
    numbers = f"is {value[index]:.6g}, and must be {right[index]:.6g}"
    if value.size == 1:
        return f"it {numbers}"
    return f"{wrong.sum()} of {wrong.size} numbers differ from the right ones. The first, at {list(index)}, {numbers}"


def _raised(name, file, error, functions):
    """An error of the learner's code, with the line."""
    codes = [getattr(one, "__code__", getattr(type(one).__call__, "__code__", None)) for one in functions]
    folders = {pathlib.Path(code.co_filename).parent for code in codes if code is not None}
    frames = [one for one in traceback.extract_tb(error.__traceback__) if pathlib.Path(one.filename).parent in folders]
    text = f"{name} cannot be computed: {type(error).__name__}: {quoted(error, 300)[1:-1]}"
    own = [one for one in frames if pathlib.Path(one.filename).stem == file]  # the error may be in another exercise
    for frame in own[-1:] if own[-1:] == frames[-1:] else own[-1:] + frames[-1:]:
        line = linecache.getline(frame.filename, frame.lineno).strip()
        text += f"\nLine {frame.lineno} of {pathlib.Path(frame.filename).name}: {line}"
    return text


@contextlib.contextmanager
def _plain():
    """A block in which the library computes as `minicnn.core` reads, whatever backend is in use.

    BLAS has one thread in it: on a busy machine the threads of small products wait for each other, some hundred times
    longer than they compute.
    """
    before = operations.current
    operations.use(operations.Operations())
    try:
        with single_threaded_blas():
            yield
    finally:
        operations.use(before)
