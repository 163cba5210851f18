"""A model as a table: its layers with their output shapes, parameters, work and memory."""

import math

from minicnn.core import operations
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.layers import Conv2D, Conv2DTranspose
from minicnn.markup import fill, table

HEADER = ("Layer", "Output shape", "Parameters", "Multiply-adds", "Memory")


def count_parameters(model):
    """How many numbers a built model has to learn; a tied parameter counts once."""
    check_built(model)
    return sum(parameter.value.size for parameter in model.parameters().values())


def print_summary(model, batch_size, print_fn):
    """Print the table of a built model, line by line; the arguments are those of `Sequential.summary`."""
    rows, totals = _table(model, batch_size)
    width = max([22, *(len(row[0]) for row in rows)])
    rule = "-" * (width + 62)  # ASCII, because `print_fn` may be of any kind

    def show(name, shape, count, work, memory):
        print_fn(f"{name:{width}}  {shape:>16}  {count:>12}  {work:>14}  {memory:>10}")

    show(*HEADER)
    print_fn(rule)
    for row in rows:
        show(*row)
    print_fn(rule)
    for line in totals:
        print_fn(line)


def html_summary(model):
    """The same as HTML; of a model without a shape the list of its layers."""
    if model.input_shape is None:
        layers = [fill("<li>{{layer}}</li>", layer=repr(layer)) for layer in model.layers]
        return fill("<p>A Sequential that takes its shape from the first batch:</p><ol>{{layers}}</ol>", layers=layers)
    rows, totals = _table(model, 32)
    lines = [fill("<div>{{line}}</div>", line=line) for line in totals]
    return fill("{{table}}{{lines}}", table=table(HEADER, rows), lines=lines)


def check_built(model):
    """Refuse a model without a shape; build what was added to the layers of one that has a shape."""
    if model.input_shape is None:
        raise InputError("this model has no shape yet: give it input_shape=..., or call model.build(shape)")
    model.build(model.input_shape)


def _table(model, batch_size):
    """The rows, and the lines of totals, as texts."""
    total = count_parameters(model)
    rows, memory = [], [0]
    for name, layer, input_shape in zip(model.names, model.layers, model.shapes, strict=False):
        rows += _rows(name, layer, input_shape, batch_size, model.dtype.itemsize, 0, memory)
    totals = [
        f"Input: {model.input_shape}, {model.dtype}",
        f"Parameters: {total:,} ({_bytes(total * model.dtype.itemsize)})",
        f"Multiply-adds an image, forward: {model.multiply_adds(model.input_shape):,}",
        f"Most memory that a convolution writes besides its output, at batch {batch_size} on the backend "
        f"{operations.current.name}: {_bytes(max(memory))}",
    ]
    frozen = sum(p.value.size for p in model.parameters().values() if not p.trainable)
    if frozen:
        totals.insert(2, f"Frozen: {frozen:,} of them")
    if model.classes is not None:
        totals.insert(1, f"Classes: {len(model.classes)} ({quoted(', '.join(model.classes), 70)[1:-1]})")
    return rows, totals


def _rows(name, layer, input_shape, batch_size, itemsize, depth, memory):
    """A layer's row, and indented below it those of the layers inside."""
    count = sum(parameter.value.size for parameter in layer.parameters().values())
    written = 0
    if isinstance(layer, (Conv2D, Conv2DTranspose)):
        images, filters = input_shape, layer.filters
        if isinstance(layer, Conv2DTranspose):  # the columns are those of the convolution that it is the adjoint of
            images, filters = layer.output_shape(input_shape), input_shape[0]
        written = operations.current.convolution_bytes(
            (batch_size, *images), filters, layer.window, layer.groups, itemsize
        )
        memory.append(written)
    shape = f"({', '.join(map(str, layer.built_output_shape(input_shape)))})"
    label = f"{'  ' * depth}{name} ({type(layer).__name__})"
    rows = [(label, shape, f"{count:,}", f"{layer.multiply_adds(input_shape):,}", _bytes(written))]
    for inner_name, inner in _directly_inside(layer):
        if inner.built_input_shape is not None:
            rows += _rows(inner_name, inner, inner.built_input_shape, batch_size, itemsize, depth + 1, memory)
    return rows


def _directly_inside(layer):
    """(name, layer) of the layers that a layer holds itself, not in another layer."""
    inside = layer.layers_inside()
    deeper = {id(inner) for child in inside.values() for inner in child.layers_inside().values()}
    return [(name, child) for name, child in inside.items() if id(child) not in deeper]


def _bytes(count):
    """A size in memory as text."""
    if count == 0:
        return "-"
    power = min(3, int(math.log(count, 1024)))
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
