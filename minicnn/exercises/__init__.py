"""Exercises: a course in which the reader writes the layers, and a check that names the mistake.

`files/` holds what a learner receives: one file an exercise, with the text, the
formula, a stub and a test. A `Task` here is the other half of each stub: the
library's own code as the solution, the inputs of the check, and the known
mistakes. A known mistake is a function that makes it. What the learner's function
returns is compared with what the solution returns; where the two differ, with what
each mistake returns, and the one that agrees is named.
"""

from minicnn.exercises import convolutions, find, layers, learning
from minicnn.exercises.task import NotWrittenError, Task, check_task

_ALL = [item for module in (convolutions, layers, learning, find) for item in vars(module).values()]

#: Every task by its name, in the order of the files.
TASKS = {task.name: task for task in sorted((t for t in _ALL if isinstance(t, Task)), key=lambda task: task.file)}


def check(name, *functions):
    """Check a learner's function: nothing happens where it is right. The last line of each exercise calls it.

    Args:
        name: of the exercise, such as "relu".
        functions: the learner's function; for "trained" two of them.

    Returns:
        a sentence about the result, mostly empty.

    Raises:
        CheckError: the function is wrong; the message names the mistake, or where the result first differs.
        NotWrittenError: the stub is not filled in yet; it is a CheckError.
        InputError: there is no such exercise.

    >>> import numpy as np
    >>> def relu(x):
    ...     return np.maximum(x, 0), lambda dy: dy * (dy > 0)
    >>> check("relu", relu)
    Traceback (most recent call last):
    minicnn.core.errors.CheckError: relu: dx is wrong: the mask is taken from dy: it belongs to x. Where x was not
    positive, x did not change y.
    Line (2) of the formula: dx = dy where x > 0, and 0 elsewhere
    """
    __tracebackhide__ = True  # pytest then shows the learner's lines alone
    return check_task(TASKS, name, functions)
