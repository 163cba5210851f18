"""Which layer of a file of Keras belongs to which layer of a network that is there already.

By class and by order: the third convolution there is the third one here. Where
numbers or shapes differ, nothing is taken.
"""

import itertools
from typing import NamedTuple

from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer, kept_arrays, walk
from minicnn.exchange.keras_arrays import ARRAYS, Array, arrays_of
from minicnn.exchange.keras_network import group_name
from minicnn.exchange.keras_save import by_groups, steps_of


class Found(NamedTuple):
    """A layer in a file: its class as groups are named by it, or None; its name; its arrays, and their names or ()."""

    kind: str | None
    name: str
    datasets: list
    names: tuple = ()


def copied(model, there, path):
    """(Parameter or State of a network, array) from another network, whose arrays are as they are here."""
    pairs = []
    for kind in ARRAYS:
        ours, theirs = ([layer for _, layer in walk(net, Layer) if type(layer) is kind] for net in (model, there))
        _check_numbers(kind.__name__, ours, theirs, path)
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True), 1):
            names = [[array.here for array in arrays_of(layer)] for layer in (mine, other)]
            shapes = [[tuple(getattr(layer, name).value.shape) for name in names[0] if name in names[1]] for layer in
                      (mine, other)]  # fmt: skip
            if names[0] != names[1] or shapes[0] != shapes[1]:
                raise InputError(
                    f"{path} does not fit: {kind.__name__} number {number} has {_text(names[1], shapes[1])} there and "
                    f"{_text(names[0], shapes[0])} here"
                )
            pairs += [(getattr(mine, name), getattr(other, name).value) for name in names[0]]
    _check_all(model, pairs, path)
    return pairs


def matched(model, found, path):
    """(Parameter or State of a network, array as it is here) from the layers of a file of weights.

    Raises:
        InputError: other layers or shapes.
    """
    wanted = _wanted(model, {layer.kind for layer in found})
    if any(layer.kind is None for layer in found):  # an old file: layers are told by the names of their arrays
        wanted = [(_signature([a.keras for a, *_ in arrays], [shape for _, _, shape, _ in arrays]), name, arrays)
                  for _, name, arrays in wanted]  # fmt: skip
        found = [layer._replace(kind=_signature(layer.names, [d.shape for d in layer.datasets])) for layer in found]
    pairs = []
    for kind in dict.fromkeys([kind for kind, _, _ in wanted] + [layer.kind for layer in found]):
        ours = [item for item in wanted if item[0] == kind]
        theirs = [layer for layer in found if layer.kind == kind]
        _check_numbers(kind if isinstance(kind, str) else f"layers of {', '.join(kind[0])}", ours, theirs, path)
        for (_, name, arrays), layer in zip(ours, theirs, strict=True):
            shapes = [shape for _, _, shape, _ in arrays]
            if [dataset.shape for dataset in layer.datasets] != shapes:
                names = [array.keras for array, *_ in arrays]
                there = quoted([dataset.shape for dataset in layer.datasets], 100)
                raise InputError(
                    f"{path} does not fit: {quoted(layer.name, 100)} has arrays of the shapes {there}, and {name} "
                    f"needs {_text(names, shapes)}"
                )
            for (array, kept, _, order), dataset in zip(arrays, layer.datasets, strict=True):
                pairs.append((kept, array.from_keras(dataset.read(), tuple(kept.value.shape), order)))
    _check_all(model, pairs, path)
    return pairs


def _wanted(model, kinds):
    """(class, name, [(Array, Parameter or State, shape in Keras, order)]) of each layer that has arrays, in order."""
    wanted = []
    for step in by_groups(steps_of(model)).values():
        if step.arrays:
            arrays = [(array, kept, shape, step.received.order) for array, kept, shape in step.values()]
            wanted.append((group_name(step.kind, {}), step.name, arrays))
    if "depthwise_conv2d" not in kinds and "separable_conv2d" not in kinds and None not in kinds:
        wanted = [_as_grouped(item) if item[0] == "depthwise_conv2d" else item for item in wanted]
    if "separable_conv2d" in kinds:
        wanted = _separable(wanted)
    return wanted


def _as_grouped(item):
    """A depthwise convolution as a convolution with groups, which is the same with other shapes."""
    _, name, ((_, kept, (KH, KW, C, M), order), *bias) = item
    return "conv2d", name, [(Array("kernel", "weight", "kernel"), kept, (KH, KW, 1, C * M), order), *bias]


def _separable(wanted):
    """The layers, where a depthwise convolution without bias and the one of 1x1 after it are one of Keras's."""
    merged, rest = [], list(wanted)
    while rest:
        kind, name, arrays = rest.pop(0)
        following = rest[0] if rest else (None, None, None)
        is_pair = kind == "depthwise_conv2d" and len(arrays) == 1 and following[0] == "conv2d"
        if is_pair and following[2][0][2][:2] == (1, 1):
            merged.append(("separable_conv2d", name, arrays + rest.pop(0)[2]))
        else:
            merged.append((kind, name, arrays))
    return merged


def _signature(names, shapes):
    return tuple(name.removeprefix("depthwise_") for name in names), tuple(map(len, shapes))


def _check_numbers(kind, ours, theirs, path):
    if len(ours) != len(theirs):
        raise InputError(
            f"{path} does not fit: {quoted(kind, 60)} is there {len(theirs)} times, and here {len(ours)} times"
        )


def _check_all(model, pairs, path):
    """Refuse a network of which an array would be left as it is."""
    filled = {id(kept) for kept, _ in pairs}
    for name, kept in kept_arrays(model):
        if id(kept) not in filled:
            raise InputError(f"{path} does not fit: {name} is in a layer that Keras does not have")


def _text(names, shapes):
    return (
        ", ".join(f"{name} {shape}" for name, shape in itertools.zip_longest(names, shapes, fillvalue="")) or "nothing"
    )
