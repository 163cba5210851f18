"""Models in files: the tree of layers as plain values, and its parameters and states as arrays.

A file names classes and never contains code. The library's own classes are
known by identity; a class of the user's own is used only where the caller of
`load` names it, whatever it is called.
"""

import contextlib
import functools
import math

import numpy as np

from minicnn import console
from minicnn.core import operations
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.initializers import name_of, named
from minicnn.core.layer import Layer, states_kept, walk
from minicnn.core.parameter import Parameter, State
from minicnn.storage.arrays import ArrayFile, write_arrays


def save(path, model, library):
    """Write a model to one file, atomically.

    Args:
        path: the file.
        model: a built Sequential.
        library: `{name: class}` of the layers that `load` knows.

    Raises:
        FileError: the file cannot be written.
        InputError: a layer has an argument that a file cannot keep.
    """
    arrays, states = states_of(model)
    arrays |= {name: operations.current.to_numpy(p.value) for name, p in model.parameters().items()}
    description = {**describe(model, library), "states": states, "tied": _tied(model)}
    if model.classes is not None:
        description["classes"] = model.classes
    write_arrays(path, "model", description, arrays)


def load(path, make, library, custom_layers):
    """Read a model that `save` wrote.

    Args:
        path: the file.
        make: a function of the layers, the seed and the dtype that makes the Sequential.
        library: `{name: class}` of the library's layers.
        custom_layers: the classes of layers of the user's own: a class, a list of classes, or `{name: class}`.

    Raises:
        FileError: the file cannot be read, or does not make a network.
        InputError: `custom_layers` holds something that is not a class of layers.
    """
    custom = _custom(custom_layers)
    with ArrayFile(path, "model") as file:
        try:
            model = _make(file, make, library, custom)
        except Exception as error:  # whatever values of another kind lead to
            raise _error(path, "its description does not make a network", error) from error
        expected = {name: (tuple(p.value.shape), p.value.dtype) for name, p in model.parameters().items()}
        own = tuple(kind for kind in custom.values() if kind not in library.values())
        try:
            values = file.description["states"]
            make_late_states(model, {name: file.header(name) for name in file.names() - expected.keys()}, values, own)
            arrays, _ = states_of(model)
            file.check(expected | {name: (array.shape, array.dtype) for name, array in arrays.items()})
            for name, parameter in model.parameters().items():
                parameter.value[...] = operations.current.array(file.read(name))
            restore_states(model, {name: file.read(name) for name in arrays}, values)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _error(path, "its states do not fit the network", error) from error
    return model


def describe(model, library, functions_by_name=False):
    """A Sequential without its arrays, as plain values (JSON).

    Args:
        model: the Sequential.
        library: `{name: class}` of the layers that need not be named to `load`.
        functions_by_name: whether a function of the user's own among the arguments is described by its name, for a
            comparison; else it is refused, or left out with a warning where it is an initializer.
    """
    classes = {kind: name for name, kind in library.items()}

    def encode(value, owner, argument):
        if isinstance(value, Layer):
            return {"layer": encode_layer(value)}
        if isinstance(value, (list, tuple)):
            items = [encode(item, owner, argument) for item in value]
            return {"list": items} if isinstance(value, list) else items
        if isinstance(value, dict):
            return {"dict": {str(key): encode(item, owner, argument) for key, item in value.items()}}
        if callable(value):
            return encode_function(value, owner, argument)
        if value is None or isinstance(value, (str, int, float, bool, np.generic)):
            return value
        raise InputError(
            f"{owner!r} cannot be kept in a file: its argument {argument} is {type(value).__name__}, and a file keeps "
            "numbers, texts, lists, tuples, dicts and layers"
        )

    def encode_function(value, owner, argument):
        if name_of(value) is not None:
            return {"initializer": name_of(value)}
        if functions_by_name:
            return {"function": getattr(value, "__qualname__", type(value).__name__)}
        if argument.endswith("_initializer"):  # its work is done: the weights are kept
            console.warn(
                f"{owner!r}: the function {argument} is not kept in the file; the loaded layer has its default, and "
                "the saved weights"
            )
            return None
        raise InputError(f"{owner!r} cannot be kept in a file: its argument {argument} is a function")

    def encode_layer(layer):
        arguments = {name: encode(value, layer, name) for name, value in layer.config().items()}
        arguments = {
            name: value
            for name, value in arguments.items()
            if not (value is None and name.endswith("_initializer"))  # left out above
        }
        kind = type(layer)
        described = {"library": classes[kind]} if kind in classes else {"custom": kind.__name__}
        return described | {"arguments": arguments} | ({} if layer.trainable else {"frozen": True})

    return {
        "input_shape": model.input_shape,
        "seed": model.seed,
        "dtype": str(model.dtype),
        "layers": [encode_layer(layer) for layer in model.layers],
    }


def states_of(model):
    """The states of a layer's tree: (arrays by name, plain values by name); of a random generator its state."""
    arrays, values = {}, {}
    for name, state in model.states().items():
        if isinstance(state, np.random.Generator):
            values[name] = _plain(state.bit_generator.state)
        elif getattr(state.value, "shape", None) is None:
            values[name] = state.value
        else:
            arrays[name] = operations.current.to_numpy(state.value)
    return arrays, values


def restore_states(model, arrays, values):
    """Set what `states_of` returned.

    Raises:
        ValueError: other names, or a value of another kind.
    """
    states = model.states()
    if not isinstance(values, dict):
        raise ValueError(f"its states are {quoted(values, 60)}")
    if states.keys() != arrays.keys() | values.keys():
        raise ValueError("it has other states or random generators")
    for name, state in states.items():
        if name in arrays:
            state.value = operations.current.array(arrays[name])
        elif isinstance(state, np.random.Generator):
            state.bit_generator.state = values[name]
        elif type(values[name]) is not type(state.value) and state.value is not None:
            raise ValueError(f"the state {name} is {quoted(values[name], 60)}")
        else:
            state.value = values[name]


def make_late_states(model, arrays, values, kinds=Layer):
    """Make the states that a layer makes only when it is used, so that `restore_states` finds them in a new network.

    Args:
        model: the network.
        arrays: `{name: (shape, dtype)}` of the arrays in the file that may be such states.
        values: the plain values by name.
        kinds: the classes of the layers that may have such states.
    """
    holders = {
        name: holder for start, layer in walk(model, kinds) for name, holder in walk(layer, (Layer, dict, list), start)
    }
    for name in sorted((arrays.keys() | values.keys()) - model.states().keys(), key=lambda name: (len(name), name)):
        start, _, key = name.rpartition(".")
        holder = holders.get(start)
        if isinstance(values.get(name), dict):
            state = np.random.default_rng()
        else:
            state = State(np.zeros(*arrays[name]) if name in arrays else None)
        if isinstance(holder, Layer) and getattr(holder, key, None) is None:
            setattr(holder, key, state)
        elif isinstance(holder, dict):
            holder.setdefault(key, state)
        elif isinstance(holder, list) and key == str(len(holder)):
            holder.append(state)


@contextlib.contextmanager
def states_restored(model):
    """A block that may change the model's states, such as Dropout's step: at its end they are as before.

    Raises:
        InputError: a layer has states at the end of the block that it did not have before.
    """
    before = model.states().keys()
    with states_kept(model):
        yield
    if changed := sorted(before ^ model.states().keys()):
        raise InputError(
            f"forward made or removed the state {quoted(changed[0])}: make it in __init__ or build, or train first"
        )


def _custom(custom_layers):
    """The user's classes by name."""
    if isinstance(custom_layers, dict):
        custom = dict(custom_layers)
    else:
        classes = [custom_layers] if isinstance(custom_layers, type) else list(custom_layers)
        custom = {getattr(kind, "__name__", repr(kind)): kind for kind in classes}
    for name, kind in custom.items():
        if not (isinstance(kind, type) and issubclass(kind, Layer)):
            raise InputError(
                f"load needs custom_layers as classes derived from minicnn.Layer, got {quoted(kind)} for {quoted(name)}"
            )
    return custom


def _make(file, make, library, custom):
    """The model of a file's description, built, with its tied parameters, before its arrays are read."""
    description = file.description

    def decode(value):
        if isinstance(value, list):
            return tuple(map(decode, value))
        if isinstance(value, dict):
            ((kind, content),) = value.items()
            if kind == "layer":
                return decode_layer(content)
            if kind == "list":
                return [decode(item) for item in content]
            if kind == "dict":
                return {key: decode(item) for key, item in content.items()}
            if kind == "initializer":
                return named(content)
            raise InputError(f"unknown kind of value {quoted(kind, 40)}")
        return value

    def decode_layer(entry):
        kind = library.get(entry["library"]) if "library" in entry else custom.get(entry["custom"])
        if kind is None:
            name = entry.get("library", entry.get("custom"))
            raise InputError(f"unknown layer {quoted(name, 60)}: give its class in load(path, custom_layers=[...])")
        layer = kind(**{name: decode(value) for name, value in entry["arguments"].items()})
        if entry.get("frozen"):
            layer.trainable = False
        return layer

    layers = [decode_layer(entry) for entry in description["layers"]]
    model = make(layers, seed=description["seed"], dtype=description["dtype"])
    shape = tuple(check_integer(n, "input_shape", "Sequential") for n in description["input_shape"])
    with _zeros_first(model, file.size):
        model.build(shape)
    model.classes = description.get("classes")  # older files have none
    for name, first in description["tied"].items():
        _tie(model, name, model.parameters()[first])
    return model


@contextlib.contextmanager
def _zeros_first(model, limit):
    """A block in which layers make their parameters of zeros, which cost no time and, until they are used, no memory.

    Their values come from the file, so that one with more bytes than the file is refused with the numbers.
    """

    def zeros_for(name, initializer):
        @functools.wraps(initializer, updated=())
        def zeros(shape, rng, dtype="float32"):
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if size > limit:
                raise InputError(f"{name} has the shape {quoted(shape)}, {size:,} bytes, and the file has {limit:,}")
            return np.zeros(shape, dtype)

        return zeros

    before = []
    for name, layer in walk(model, Layer):
        for attribute, initializer in list(vars(layer).items()):
            if attribute.endswith("_initializer") and callable(initializer):
                before.append((layer, attribute, initializer))
                parameter = f"{name}.{attribute.removesuffix('_initializer')}"
                setattr(layer, attribute, zeros_for(parameter, initializer))
    try:
        yield
    finally:
        for layer, attribute, initializer in before:
            setattr(layer, attribute, initializer)


def _error(path, why, error):
    return FileError(f"{quoted(path, 300)} cannot be used: {why} ({quoted(error, 500)})")


def _places(item, name="", seen=None):
    """Every place where a Parameter is kept: (name, holder, key, parameter); a tied parameter has several."""
    seen = set() if seen is None else seen
    if id(item) in seen:
        return
    seen.add(id(item))
    if isinstance(item, Layer):
        members = item.members()
    elif isinstance(item, dict):
        members = item.items()
    elif isinstance(item, (list, tuple)):
        members = enumerate(item)
    else:
        return
    for key, value in list(members):
        inner = f"{name}.{key}" if name else str(key)
        if isinstance(value, Parameter):
            yield inner, item, key, value
        elif isinstance(value, (Layer, list, tuple, dict)):
            yield from _places(value, inner, seen)


def _tied(model):
    """`{name: first name}` of the places that hold a parameter which an earlier place holds, too."""
    first, tied = {}, {}
    for name, _, _, parameter in _places(model):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return tied


def _tie(model, name, parameter):
    """Put a parameter into a second place."""
    for found, holder, key, _ in list(_places(model)):
        if found == name and isinstance(holder, Layer):
            setattr(holder, key, parameter)
        elif found == name and not isinstance(holder, tuple):
            holder[key] = parameter


def _plain(state):
    """A random generator's state for JSON."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state
