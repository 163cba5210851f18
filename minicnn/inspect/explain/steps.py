"""One pass through a network, layer by layer, forward and backward; blocks are opened, so that their layers are seen.

A block runs rows of layers, and joins their outputs. Here the rows are run one layer at a time instead, with the
block's own `combine`, so that every array inside is kept, too.
"""

import functools
from dataclasses import dataclass, field

from minicnn.core.layers import Block
from minicnn.core.sequential import Sequential


@dataclass
class Step:
    """A layer, its input and output, and after `pass_back` the gradients of both.

    Attributes:
        rows: for a block, `{name: list of Step}`.
        reads: the step whose output this one reads; None for the network's input.
        row_gradients: for a block, the gradient that each row received.
    """

    name: str
    layer: object
    x: object
    y: object
    backward: object
    reads: object = None
    rows: dict | None = None
    dy: object = None
    dx: object = None
    row_gradients: list = field(default_factory=list)

    def pass_back(self, dy):
        """The gradient of the input, from that of the output."""
        self.dy = dy
        self.dx = self.backward(dy)
        return self.dx


def run(row, x, training, reads=None, prefix=""):
    """Run layers one after the other.

    Args:
        row: a list of (name, layer).
        x: the batch.
        training: whether to compute as in training.
        reads: the step whose output x is.
        prefix: of the names.

    Returns:
        a list of `Step`.

    >>> import minicnn as mc, numpy as np
    >>> block = mc.Residual([mc.Dense(3), mc.ReLU()])
    >>> model = mc.Sequential([block, mc.Dense(2)], input_shape=(3,))
    >>> [step.name for step in flat(run(model.row, np.ones((1, 3), "float32"), False))]
    ['residual_1', 'residual_1.layers.0', 'residual_1.layers.1', 'dense_1']
    """
    steps = []
    for name, layer in row:
        is_block = isinstance(layer, Block) and type(layer).forward is Block.forward
        step = (_run_block if is_block else _run_layer)(prefix + name, layer, x, training, reads)
        steps.append(step)
        x, reads = step.y, step
    return steps


def flat(steps):
    """All steps as one list: after a block those inside.

    >>> flat([])
    []
    """
    found = []
    for step in steps:
        found.append(step)
        for row in (step.rows or {}).values():
            found += flat(row)
    return found


def pass_back(steps, dy):
    """The gradient of the first step's input, from that of the last one's output.

    >>> pass_back([], 3)
    3
    """
    for step in reversed(steps):
        dy = step.pass_back(dy)
    return dy


def _run_layer(name, layer, x, training, reads):
    y, backward = layer.forward(x, training)
    return Step(name, layer, x, y, backward, reads)


def _run_block(name, layer, x, training, reads):
    rows = {}
    for key, layers in layer.rows().items():
        row = []
        for index, inside in enumerate(layers):
            row += inside.row if isinstance(inside, Sequential) else [(str(index), inside)]
        rows[key] = run(row, x, training, reads, f"{name}.{key}.")
    y, split = layer.combine([row[-1].y if row else x for row in rows.values()])

    def backward(dy):
        step.row_gradients = split(dy)
        gradients = [pass_back(row, dy_row) for row, dy_row in zip(rows.values(), step.row_gradients, strict=True)]
        return functools.reduce(lambda a, b: a + b, gradients)

    step = Step(name, layer, x, y, backward, reads, rows)
    return step
