"""The weights of a network that has the same layers in another library: from its file, and into a file for it.

A file of weights is a list of arrays with names, and every library and every
author has other names: "0.weight", "features.0.weight", "layer1.0.conv1.weight".
What the two sides have in common is the order of the layers and the shapes of
their arrays. So the arrays are gathered by layer, and the layers whose arrays
have the same names and shapes are taken in order, there and here. Whoever knows
better gives the names.
"""

import collections
import itertools
import re
import typing
import zipfile

import numpy as np

from minicnn import console
from minicnn.core import operations, sequential
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.layer import Layer
from minicnn.core.layers import PReLU
from minicnn.core.layers.normalization import Normalization
from minicnn.core.parameter import Parameter, State
from minicnn.core.types import Path
from minicnn.exchange.classes import set_classes
from minicnn.exchange.safetensors_file import SafetensorsFile, write_safetensors
from minicnn.exchange.torch_file import TorchFile
from minicnn.inspect.summary import check_built
from minicnn.storage.arrays import BoundedReads
from minicnn.storage.files import open_file, path_text, reading

#: What PyTorch calls the arrays of layers, where it has another name.
PYTORCH = {
    Normalization: {"scale": "weight", "shift": "bias", "running_variance": "running_var"},
    PReLU: {"slope": "weight"},
}

_COUNTER = "num_batches_tracked"  # the steps of PyTorch's BatchNorm, which are not needed here
_LONGEST_NAME = 1000  # characters
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class Array(typing.NamedTuple):
    """An array of the network here: its name, and the Parameter or State that keeps it."""

    name: str
    kept: Parameter | State

    @property
    def shape(self):
        """The array's shape."""
        return tuple(self.kept.value.shape)


def load_weights(
    model: sequential.Sequential, path: Path, *, names: dict[str, str | None] | None = None
) -> dict[str, str | None] | None:
    """Fill a network with the weights in a file of PyTorch, of safetensors or of Keras.

    The file is that of a network with the same layers. Which of its arrays belongs to which array here is decided so:

    1. As `names` says.
    2. Of the rest by their names, if these are the ones that `save_weights` would write.
    3. Else by order. Arrays are gathered by layer, such as "features.0.weight" with "features.0.bias", and the layers
       whose arrays have the same names and shapes are taken in order, there and here. Numbers in names are compared
       by their values, so that 3 comes before 11. Where names differ in words, a file of `torch.save` has the order
       in which the network was defined. A `.safetensors` file does not keep it: there the alphabet decides, and a
       warning says so.

    A file of `torch.save` is read without PyTorch and without pickle. Weights of another floating point dtype are
    converted to the model's. The model is changed only after all of the file was found to fit.

    Args:
        model: a built `Sequential`.
        path: a `.safetensors` file; a file of `torch.save` with a state_dict, alone or as one value of a dict; or a
            `.keras`, `.weights.h5` or `.h5` file of Keras, whose layers are found by class and order.
        names: `{name in the file: name here}`, such as `{"fc.weight": "dense_1.weight"}`, or None as the name here of
            an array that is not wanted; for all arrays or for some. The names here are those of `model.parameters()`
            and `model.states()`. Not for files of Keras.

    Returns:
        such a dict of all arrays that were read: print it to see what went where. `save_weights` takes it, too. None
        for a file of Keras.

    Raises:
        InputError: the model is not built; the network in the file has other layers or shapes, and the message says
            which; `names` that are not those of the file and of the model.
        FileError: the file cannot be read, is cut or altered, or is not one of weights. Nothing in it is executed.
        MissingPackageError: the file needs the package safetensors, which is not installed.

    >>> import tempfile
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/net.safetensors"
    >>> save_weights(mc.networks.lenet5(seed=1), path)
    >>> names = load_weights(mc.networks.lenet5(seed=2), path)
    >>> names["3.weight"]
    'conv2d_2.weight'
    """
    arrays = _arrays_of(model, "load_weights")
    names = _checked_names(names)
    kind = _kind(path)
    if kind == "keras":
        return _keras(names, "load_weights")(model, path)
    with (TorchFile if kind == "torch" else SafetensorsFile)(path) as file:
        pairs = _pairs(file, arrays, names, keeps_order=kind == "torch")
        values = {name: _value(file, name, array) for name, array in pairs.items()}
        classes = None if kind == "torch" else file.classes
    _check_tied(pairs, values)
    for name, array in pairs.items():
        value = operations.current.array(values[name])
        if isinstance(array.kept, Parameter):
            array.kept.value[...] = value
            array.kept.clear_gradient()
        else:
            array.kept.value = value
    if classes is not None:
        set_classes(model, classes, path)
    return {name: array.name for name, array in pairs.items()}


def save_weights(model: sequential.Sequential, path: Path, *, names: dict[str, str | None] | None = None) -> None:
    """Write the weights of a network to a file that PyTorch or Keras reads into the same network.

    In PyTorch:

        from safetensors.torch import load_file
        network.load_state_dict(load_file("net.safetensors"))

    The names are those of a `torch.nn.Sequential` with one module for each layer here, such as "0.weight"; in a
    `Residual` "2.layers.0.weight" and "2.shortcut.0.weight", in a `Branches` "2.branches.1.0.weight".

    Args:
        model: a built `Sequential`.
        path: where the file will be: `.safetensors`, or `.weights.h5` for Keras.
        names: `{name in the file: name here}` of all arrays, where the network there has other names: what
            `load_weights` returned for a file of that network. Not for files of Keras.

    Raises:
        InputError: the model is not built; a path with another suffix; `names` that are not those of the model, or
            not all of them.
        FileError: the file cannot be written; an older file at `path` is unharmed.
        MissingPackageError: the package safetensors or h5py is needed, and not installed.

    >>> import tempfile, safetensors.numpy
    >>> from minicnn import BatchNorm, Conv2D, ReLU, Sequential
    >>> model = Sequential([Conv2D(4, 3), ReLU(), BatchNorm()], input_shape=(1, 8, 8))
    >>> path = tempfile.mkdtemp() + "/net.safetensors"
    >>> save_weights(model, path)
    >>> for name, array in sorted(safetensors.numpy.load_file(path).items()):
    ...     print(name, array.shape)
    0.bias (4,)
    0.weight (4, 1, 3, 3)
    2.bias (4,)
    2.running_mean (4,)
    2.running_var (4,)
    2.weight (4,)
    """
    arrays = _arrays_of(model, "save_weights")
    names = _checked_names(names)
    path = path_text(path)
    if path.lower().endswith(".h5"):
        return _keras(names, "save_weights")(model, path)
    if not path.lower().endswith(".safetensors"):
        raise InputError(
            "save_weights writes .safetensors files, which PyTorch reads, and .weights.h5 files for Keras; got "
            f"{quoted(path, 300)}"
        )
    if names:
        here = {array.name: array for array in arrays.values()}
        wanted = [name for name in names.values() if name is not None]
        if unknown := sorted(set(wanted) - here.keys()):
            found = f"and the model has no such array: it has {_some(here)}"
            raise InputError(f"names has {quoted(unknown[0])}, {found}")
        if missing := sorted(here.keys() - set(wanted)):
            raise InputError(f"names needs a name for every array of the model, and {quoted(missing[0])} has none")
        arrays = {name: here[name_here] for name, name_here in names.items() if name_here is not None}
    values = {name: operations.current.to_numpy(array.kept.value) for name, array in arrays.items()}
    write_safetensors(path, values, model.classes)


# The arrays of the network here


def _arrays_of(model, function):
    """`{name in the file: Array}` of all that the model keeps, under the names that `save_weights` writes."""
    if not isinstance(model, sequential.Sequential):
        raise InputError(f"{function} needs a Sequential, got {quoted(model)}: put the layer into mc.Sequential([...])")
    check_built(model)
    return {there: Array(here, kept) for here, there, kept in _walk(model, "", "", set())}


def _walk(item, here, there, seen):
    """(name here, name in the file, Parameter or State) of every array; a tied one once for each layer that has it."""
    if isinstance(item, (Parameter, State)):
        if getattr(item.value, "shape", None) is not None:
            yield here, there, item
        return
    if id(item) in seen:
        return
    seen.add(id(item))
    if isinstance(item, sequential.Sequential):
        for index, (name, layer) in enumerate(zip(item.names, item.layers, strict=True)):
            yield from _walk(layer, _joined(here, name), _joined(there, index), seen)
    if isinstance(item, Layer):
        members = vars(item).items()
    else:
        members = item.items() if isinstance(item, dict) else enumerate(item)
    renamed = next((names for kind, names in PYTORCH.items() if isinstance(item, kind)), {})
    for key, value in list(members):
        if isinstance(value, (Layer, Parameter, State, list, tuple, dict)):
            yield from _walk(value, _joined(here, key), _joined(there, renamed.get(key, key)), seen)


def _joined(name, key):
    return f"{name}.{key}" if name else str(key)


# Which array of the file belongs to which one here


def _pairs(file, arrays, names, keeps_order):
    """`{name in the file: Array}` of every array here, by the three rules of `load_weights`."""
    here = {array.name: array for array in arrays.values()}
    pairs = {}
    for name, name_here in names.items():
        if name not in file.tensors:
            raise InputError(
                f"names has {quoted(name)}, and the file has no such array: it has {_some(map(quoted, file.tensors))}"
            )
        if name_here is not None:
            if name_here not in here:
                raise InputError(
                    f"names has {quoted(name_here)}, and the model has no such array: it has {_some(here)}"
                )
            pairs[name] = here.pop(name_here)
    if longest := [name for name in file.tensors if len(name) > _LONGEST_NAME]:
        raise FileError(f"{quoted(file.path, 300)} has the name {quoted(longest[0])} of {len(longest[0])} characters")
    rest = [name for name in file.tensors if name not in names and name.rpartition(".")[2] != _COUNTER]
    arrays = {there: array for there, array in arrays.items() if array.name in here}
    if set(rest) == arrays.keys():
        pairs |= arrays
    else:
        pairs |= _by_order({name: file.tensors[name].shape for name in rest}, arrays, keeps_order)
    for name, array in pairs.items():
        if file.tensors[name].shape != array.shape:
            raise InputError(
                f"{quoted(name)} in the file has the shape {_plain(file.tensors[name].shape)}, and {array.name} of the "
                f"model has {array.shape}: build the model with the same numbers of filters, units and classes"
            )
    return pairs


def _by_order(shapes, arrays, keeps_order):
    """Pairs of the layers whose arrays have the same names and shapes, in order."""
    there, here = _layers(shapes), _layers({name: array.shape for name, array in arrays.items()})
    kinds_there, kinds_here = _kinds(there), _kinds(here)
    kinds = [*kinds_here, *sorted(kinds_there.keys() - kinds_here.keys(), key=lambda kind: min(kinds_there[kind]))]
    if different := [kind for kind in kinds if len(kinds_here.get(kind, ())) != len(kinds_there.get(kind, ()))]:
        raise _difference(different, kinds_here, kinds_there, arrays)
    key, pairs, guessed = _order(there, keeps_order), {}, []
    for kind, layers in kinds_there.items():
        layers.sort(key=key)
        for layer, layer_here in zip(layers, kinds_here[kind], strict=True):
            pairs |= {_joined(layer, leaf): arrays[_joined(layer_here, leaf)] for leaf, _ in kind}
        if not keeps_order:
            guessed += [pair for pair in itertools.pairwise(layers) if _differ_in_words(*pair)]
    if guessed:
        listed = ", ".join(f"{quoted(first)} comes before {quoted(second)}" for first, second in guessed[:3])
        console.warn(
            f"the file does not keep the order of its layers, and by the alphabet alone {listed}. Print what "
            "load_weights returns; if it is wrong, correct it and give it as names="
        )
    return pairs


def _layers(shapes):
    """`{layer: {array: shape}}` of `{layer.array: shape}`."""
    layers = collections.defaultdict(dict)
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        layers[layer][leaf] = shape
    return layers


def _kinds(layers):
    """The layers by the names and shapes of their arrays: `{((array, shape), ...): [layer, ...]}`."""
    kinds = collections.defaultdict(list)
    for layer, arrays in layers.items():
        kinds[tuple(sorted(arrays.items()))].append(layer)
    return kinds


def _order(layers, keeps_order):
    """A key that sorts the layers of a file.

    In each component of a name, "layer2" in "layer2.0.conv1", numbers count by value. Before them, its words count by
    their first position in the file, or by the alphabet where that says nothing.
    """
    parents, positions, keys = {}, {}, {}
    for layer in layers:
        keys[layer], parent = [], None
        for component in layer.split("."):
            words, numbers = _parts(component)
            position = positions.setdefault((parent, words), len(positions)) if keeps_order else words
            keys[layer].append((position, numbers))
            parent = parents.setdefault((parent, component), len(parents))
    return keys.get


def _parts(component):
    """The words and the numbers of a component: ("conv", "") and (11,) of "conv11"."""
    parts = re.split("([0-9]{1,18})", component)
    return tuple(parts[::2]), tuple(map(int, parts[1::2]))


def _differ_in_words(first, second):
    """Whether only the alphabet tells the order of two names: "bn2" and "downsample", but not "conv3" and "conv11"."""
    for a, b in itertools.zip_longest(first.split("."), second.split(".")):
        if a != b:
            return None in (a, b) or _parts(a)[0] != _parts(b)[0]
    return False


def _difference(kinds, kinds_here, kinds_there, arrays):
    """The error for layers that only one side has, or one side more often."""
    found = []
    for kind in kinds[:3]:
        of_kind = " and ".join(f"{_plain(leaf)} {_plain(shape)}" for leaf, shape in kind[:4])
        here = [arrays[_joined(layer, kind[0][0])].name.rpartition(".")[0] for layer in kinds_here.get(kind, ())]
        there = [quoted(layer, 60) for layer in sorted(kinds_there.get(kind, ()))]
        found.append(f"with {of_kind} the model has {_some(here)}, the file {_some(there)}")
    return InputError(
        f"the layers of the file are not those of the model: {'; '.join(found)}. Build the model with the same layers, "
        "filters, units and classes; the last layers can be replaced afterwards. Or give names="
    )


def _plain(value):
    """A name or a shape from a file, without quotes."""
    return quoted(value, 60)[1:-1]


def _some(names):
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more or "none"


def _checked_names(names):
    """`names` as a dict of texts, no name here in it twice."""
    names = {} if names is None else names
    if not isinstance(names, dict) or not all(
        isinstance(key, str) and (value is None or isinstance(value, str)) for key, value in names.items()
    ):
        raise InputError(f"names needs a dict {{name in the file: name here, or None}}, got {quoted(names)}")
    count = collections.Counter(value for value in names.values() if value is not None)
    if twice := [name for name, times in count.items() if times > 1]:
        raise InputError(f"names has {quoted(twice[0])} twice")
    return names


# The numbers


def _value(file, name, array):
    """An array of the file in the dtype of the model."""
    found = file.tensors[name].dtype
    if found not in _FLOATS:
        raise InputError(
            f"{quoted(name)} in the file is {quoted(found, 40)}, and weights here are floating point numbers: "
            "convert a quantized network to float32 first"
        )
    value = file.read(name)
    with np.errstate(over="ignore"):
        converted = value.astype(array.kept.value.dtype)
    if np.isinf(converted).sum() > np.isinf(value).sum():
        raise InputError(
            f"{quoted(name)} in the file has numbers that {converted.dtype} cannot hold: make the model with "
            'dtype="float64"'
        )
    return converted


def _check_tied(pairs, values):
    """Refuse different values for one array that stands in two layers."""
    first = {}
    for name, array in pairs.items():
        other = first.setdefault(id(array.kept), name)
        if not np.array_equal(values[name], values[other], equal_nan=True):
            raise InputError(
                f"{quoted(other)} and {quoted(name)} differ in the file, and are one array in the model ({array.name})"
            )


# The files


def _kind(path):
    """ "torch", "safetensors" or "keras", by the first bytes of a file."""
    with open_file(path) as file, reading(path, "a complete archive"):
        head = file.read(16)
        if head.startswith(b"PK\3\4"):
            members = zipfile.ZipFile(BoundedReads(file)).namelist()
            if "model.weights.h5" in members:
                return "keras"
            if not any(member.endswith(".npy") for member in members):
                return "torch"
    if head.startswith(b"\x89HDF"):
        return "keras"
    if head[8:9] == b"{":
        return "safetensors"
    fix = "load_weights reads .safetensors, files of torch.save, and Keras's .keras and .h5"
    if head.startswith(b"PK\3\4"):
        fix = "it is an .npz file; minicnn.load reads those that Sequential.save wrote"
    elif head[:1] == b"\x80":
        fix = (
            "it is a bare pickle, which could run any code, as PyTorch before 1.6 wrote them. Load it in PyTorch, and "
            "write it again with torch.save(network.state_dict(), path)"
        )
    raise FileError(f"{quoted(path, 300)} is not a file of weights that can be read: {fix}")


def _keras(names, function):
    """The function of this name for Keras's files, which have no names to give."""
    if names:
        raise InputError(f"{function} takes names for .safetensors and files of torch.save, not for files of Keras")
    from minicnn.exchange import keras

    return getattr(keras, function)
