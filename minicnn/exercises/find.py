"""The tasks of "find the mistake": ten layers that are written already, each with one mistake.

The file that a learner receives is itself the known mistake. As long as a learner's
function gives the same outcomes, the mistake is still there, and the check says
what it sees and not what it is.
"""

import functools
import types

from minicnn.core import layers
from minicnn.exercises import convolutions, learning, solutions
from minicnn.exercises import layers as layer_tasks
from minicnn.exercises.task import FILES, NotWrittenError, Task, describe, layer, same


class FindTask(Task):
    """A task whose file contains a mistake.

    Args:
        file: the name of the file, without ".py"; also of the task.
        function: the name of the function in it.
        solution, run: as for `Task`.
    """

    def __init__(self, file, function, solution, run):
        super().__init__(file, file, solution, run, functions=(function,))

    @functools.cached_property
    def faulty(self):
        """The outcomes of the file as it is given."""
        module = types.ModuleType(self.file)
        source = (FILES / f"{self.file}.py").read_text(encoding="utf-8")
        exec(compile(source, f"{self.file}.py", "exec"), vars(module))
        return self.outcomes(getattr(module, self.functions[0]))

    def check(self, *functions):
        __tracebackhide__ = True
        found = self.outcomes(*functions)
        if len(found) == len(self.faulty) and all(same(a[1], b[1]) for a, b in zip(found, self.faulty, strict=True)):
            wrong = self._first_wrong(found)
            name, right = self.right[wrong]
            raise NotWrittenError(
                f"{self.name}: the mistake is still there. {name} is wrong: {describe(found[wrong][1], right)}"
            )
        return super().check(*functions)


def _leaky_relu(x, slope):
    return solutions.as_function(layers.LeakyReLU(slope), x)


def _max_pool(x, size, padding):
    return solutions.as_function(layers.MaxPool2D(size, padding=padding), x)


def _sigmoid(x):
    return solutions.as_function(layers.Sigmoid(), x)


def _numbers(*arguments):
    return lambda rng: (rng.normal(size=(4, 5)), *arguments)


def _negative_images(rng):
    return rng.normal(size=(2, 3, 5, 7)) - 2, 3, 1


_convolution = layer({"": convolutions.random_convolution((2, 3))}, gradients=("dx", "dweight", "dbias"))

FIND01 = FindTask("find01_dense", "dense", solutions.dense, layer_tasks.DENSE.run)
FIND02 = FindTask("find02_convolution", "convolution", solutions.convolution_layer, _convolution)
FIND03 = FindTask("find03_average_pool", "average_pool", solutions.average_pool, convolutions.AVERAGE_POOL.run)
FIND04 = FindTask("find04_leaky_relu", "leaky_relu", _leaky_relu, layer({"": _numbers(0.1)}))
FIND05 = FindTask("find05_max_pool", "max_pool", _max_pool, layer({"": _negative_images}))
FIND06 = FindTask(
    "find06_cross_entropy",
    "softmax_cross_entropy",
    solutions.softmax_cross_entropy,
    layer_tasks.SOFTMAX_CROSS_ENTROPY.run,
)
FIND07 = FindTask("find07_dropout", "dropout", solutions.dropout, layer_tasks.DROPOUT.run)
FIND08 = FindTask("find08_batch_norm", "batch_norm", solutions.batch_norm, layer_tasks.BATCH_NORM.run)
FIND09 = FindTask("find09_adam", "adam_step", solutions.adam_step, learning.ADAM.run)
FIND10 = FindTask("find10_sigmoid", "sigmoid", _sigmoid, layer({"": _numbers()}))
