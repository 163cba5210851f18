"""A graph of layers as rows of layers: where it splits and joins again, a block.

Other libraries describe a network as a graph: every node names the nodes whose
outputs it receives. Here a network is a row of layers, and what splits and joins
again is a block that holds rows: Residual or Branches.

The block of a join begins at its fork: the nearest node that every way from the
input to the join passes. In the theory of graphs that node is the join's
immediate dominator. The ways from the fork to the join are the block's rows.
"""

from typing import NamedTuple

from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.layers import Branches, Residual


class Node(NamedTuple):
    """A step of a network.

    Attributes:
        inputs: the names of the nodes whose outputs it receives.
        layers: the layers that it consists of; none where it is a join, or changes nothing.
        join: how it joins several inputs: "add" or "concatenate"; "" where it has one input.
        text: what an error calls it, where its name does not say enough.
    """

    inputs: tuple
    layers: tuple = ()
    join: str = ""
    text: str = ""


class Forks:
    """The fork of each node of a graph, while nodes are added: the nearest node that all ways to it pass.

    Args:
        start: the name of the node where all ways begin.

    Attributes:
        of: `{name: name of the fork}` of every node that was added; None for the start.

    >>> forks = Forks("in")
    >>> for name, inputs in (("a", ["in"]), ("b", ["a"]), ("c", ["a"]), ("sum", ["b", "c"])):
    ...     forks.add(name, inputs)
    >>> forks.of["sum"], forks.common(["b", "in"])
    ('a', 'in')

    Source: Cooper, Harvey & Kennedy, "A simple, fast dominance algorithm", 2001.
    """

    def __init__(self, start):
        self.of, self._depth = {start: None}, {start: 0}

    def add(self, name, inputs):
        """Add a node that receives the outputs of nodes which were added before."""
        self.of[name] = self.common(inputs)
        self._depth[name] = self._depth[self.of[name]] + 1

    def common(self, names):
        """The last node that all ways to these nodes pass; of a single one the node itself."""
        found, *others = names
        for other in others:
            while found != other:
                if self._depth[found] < self._depth[other]:
                    found, other = other, found
                found = self.of[found]
        return found


def as_row(nodes, start, end, simplified=list):
    """The layers from one node of a graph to another, as a row in which each split is a block.

    Args:
        nodes: `{name: Node}`, each after those whose outputs it receives. That of `start` is not looked at.
        start: the name of the node whose output the row receives.
        end: the name of the node whose output the row returns.
        simplified: a function of the layers of each row to those that shall stand in their place.

    Returns:
        a list of layers.

    Raises:
        InputError: the graph cannot be written so, because a node's output is used in two blocks; or `end` cannot be
            reached from `start`.

    >>> from minicnn.core.layers import Dense, Tanh
    >>> nodes = {"in": Node(()), "a": Node(("in",), (Dense(3),)), "b": Node(("a",), (Tanh(),)),
    ...          "sum": Node(("a", "b"), join="add")}
    >>> as_row(nodes, "in", "sum")
    [Dense(3), Residual([Tanh()])]
    """
    forks, used = Forks(start), set()
    for name, node in nodes.items():
        if name != start and node.inputs and all(before in forks.of for before in node.inputs):
            forks.add(name, node.inputs)

    def row(start, end):
        parts = []  # from the end to the start
        while end != start:
            if end in used or end not in forks.of:
                raise InputError(
                    f"the output of {nodes[end].text or quoted(end, 60)} is used in more than one block, and a block "
                    "here has one input and one output: only layers that split at one layer and join again at one can "
                    "be written so"
                )
            node, fork = nodes[end], forks.of[end]
            if node.layers or node.join:  # what changes nothing may stand in several rows
                used.add(end)
            parts.append([_block(node.join, [row(fork, name) for name in node.inputs])] if node.join else node.layers)
            end = fork  # of a node with one input it is the input
        return simplified([layer for part in reversed(parts) for layer in part])

    return row(start, end)


def _block(join, rows):
    """The block of some rows; a sum of two is a Residual, in which the longer row learns what to add."""
    if join == "add" and len(rows) == 2 and any(rows):
        shorter, longer = sorted(rows, key=len) if len(rows[0]) != len(rows[1]) else reversed(rows)
        return Residual(longer, shortcut=shorter or None)
    return Branches(rows, join=join)
