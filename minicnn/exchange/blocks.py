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
        layers: the layers that it consists of; none where it is a join.
        join: how it joins several inputs: "add" or "concatenate"; "" where it has one input.
    """

    inputs: tuple
    layers: tuple = ()
    join: str = ""


def as_row(nodes, start, end):
    """The layers from one node of a graph to another, as a row in which each split is a block.

    Args:
        nodes: `{name: Node}`, each after those whose outputs it receives. That of `start` is not looked at.
        start: the name of the node whose output the row receives.
        end: the name of the node whose output the row returns.

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
    forks, used = _forks(nodes, start), set()

    def row(start, end):
        found = []  # from the end to the start
        while end != start:
            if end in used or end not in forks:
                raise InputError(
                    f"the output of {quoted(end, 60)} is used in more than one block, and a block here has one input "
                    "and one output: only layers that split at one layer and join again at one can be written so"
                )
            used.add(end)
            node = nodes[end]
            if not node.join:
                found += reversed(node.layers)
                (end,) = node.inputs
            else:
                fork = forks[end]
                found.append(_block(node.join, [row(fork, name) for name in node.inputs]))
                end = fork
        return found[::-1]

    return row(start, end)


def _block(join, rows):
    """The block of some rows; a sum of two is a Residual, in which the longer row learns what to add."""
    if join == "add" and len(rows) == 2 and any(rows):
        shorter, longer = sorted(rows, key=len) if len(rows[0]) != len(rows[1]) else reversed(rows)
        return Residual(longer, shortcut=shorter or None)
    return Branches(rows, join=join)


def _forks(nodes, start):
    """The immediate dominator of each node that the start leads to, by Cooper, Harvey and Kennedy's walk."""
    depth, forks = {start: 0}, {}
    for name, node in nodes.items():
        if name == start or not node.inputs or any(before not in depth for before in node.inputs):
            continue
        fork = node.inputs[0]
        for other in node.inputs[1:]:
            while fork != other:
                if depth[fork] > depth[other]:
                    fork = forks[fork]
                elif depth[fork] < depth[other]:
                    other = forks[other]
                else:
                    fork, other = forks[fork], forks[other]
        forks[name], depth[name] = fork, depth[fork] + 1
    return forks
