"""Keras's files: a network with its layers, or its weights, from there and for there.

Reading needs neither Keras nor an HDF5 library, and nothing in a file is run:
a layer with code in it is refused by its name.
"""

import contextlib
import json
import shutil
import tempfile
import zipfile

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError, MissingPackageError
from minicnn.core.parameter import Parameter
from minicnn.core.types import Path
from minicnn.exchange.classes import set_classes
from minicnn.exchange.keras_files import READ_SIZE, WEIGHTS, opened
from minicnn.exchange.keras_match import copied, matched
from minicnn.exchange.keras_network import Reader
from minicnn.exchange.keras_save import by_groups, description, steps_of
from minicnn.inspect.summary import check_built
from minicnn.model import Sequential
from minicnn.storage.files import atomic_write


def load_keras(path: Path) -> Sequential:
    """Read a network from a file of Keras, with its layers and its weights.

    Sequential models, and functional ones that are rows of layers in which what splits joins again by Add or
    Concatenate: these become `Residual` and `Branches`. Models inside of models become their layers. An activation
    given to a layer becomes a layer behind it, and frozen layers are frozen here.

    Images are (N, C, H, W) here and (N, H, W, C) in Keras: `x.transpose(0, 3, 1, 2)`, or `x[:, None]` for images
    (N, H, W), which Keras takes, too. uint8 images are divided by 255 here. So a first `Rescaling(1/255)` is left out;
    another one for pixels from 0 to 255 becomes one for numbers from 0 to 1, as a frozen `BatchNorm`.

    Args:
        path: a `.keras` or `.h5` file that `model.save` of Keras wrote.

    Returns:
        a `Sequential` on the backend in use, with the names of the classes where `save_keras` wrote the file.

    Raises:
        FileError: the file cannot be read, is cut or altered, or has a layer that this library does not have; the
            message names it and says what would have to change. Nothing in the file is run.

    >>> import tempfile
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/letters.keras"
    >>> save_keras(mc.networks.lenet5(), path)
    >>> load_keras(path).layers[:2]
    [Conv2D(6, 5, padding='same'), Tanh()]
    """
    with opened(path) as (description, store, classes):
        if description is None:
            raise FileError("it holds weights and no layers: build the network, then load_weights(model, path)")
        model = _network(description, store)
    set_classes(model, classes, path)
    return model


def save_keras(model: Sequential, path: Path) -> None:
    """Write a network to a `.keras` file, which `keras.models.load_model` opens as a Sequential or functional model.

    Images are (N, H, W, C) there: `x.transpose(0, 2, 3, 1)`. uint8 images are divided by 255 here and not in Keras. A
    padding in pixels becomes a ZeroPadding2D, and what each layer is called is its class and number. The names of the
    classes are kept for `load_keras`; Keras does not look at them.

    Args:
        model: a built `Sequential`.
        path: the file, whose name must end in `.keras` for Keras to open it.

    Raises:
        InputError: the model is not built, or has a layer or an option that Keras does not have; the message names it.
        FileError: the file cannot be written.
        MissingPackageError: the package h5py is not installed.

    >>> import tempfile
    >>> import minicnn as mc
    >>> save_keras(mc.networks.lenet5(), tempfile.mkdtemp() + "/letters.keras")
    """
    check_built(model)
    steps = steps_of(model)
    metadata = {"keras_version": "3.0.0"} | ({} if model.classes is None else {"classes": model.classes})
    texts = {"metadata.json": metadata, "config.json": description(steps)}
    with _weights_file(steps) as weights, atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in texts.items():
            archive.writestr(name, json.dumps(content))
        with archive.open(WEIGHTS, "w", force_zip64=True) as member:
            shutil.copyfileobj(weights, member, READ_SIZE)


def save_weights(model, path):
    """Write the weights of a network to a `.weights.h5` file, which `load_weights` of the same model in Keras reads.

    Keras finds layers by their class and their number among those of the class. So the model there must have the
    layers of `save_keras`; whether an activation is a layer or an argument does not matter.

    Args:
        model: a built `Sequential`.
        path: the file, whose name must end in `.weights.h5` for Keras to open it.

    Raises:
        InputError, FileError, MissingPackageError: those of `save_keras`.

    >>> import tempfile
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/letters.weights.h5"
    >>> save_weights(mc.networks.lenet5(), path)
    >>> load_weights(mc.networks.lenet5(), path)
    """
    check_built(model)
    with _weights_file(steps_of(model)) as weights, atomic_write(path) as file:
        shutil.copyfileobj(weights, file, READ_SIZE)


@contextlib.contextmanager
def _weights_file(steps):
    """A block with a temporary file of the arrays, as Keras writes it, at its start."""
    try:
        import h5py
    except ImportError as error:
        raise MissingPackageError("files for Keras need h5py: pip install 'minicnn-numpy[keras]'") from error
    with tempfile.TemporaryFile() as scratch:
        with h5py.File(scratch, "w") as file:
            for name, step in by_groups(steps).items():
                group = file.create_group(f"layers/{name}/vars")
                for index, value in enumerate(step.keras_values()):
                    group.create_dataset(str(index), data=value)
            file.create_group("vars")
        scratch.seek(0)
        yield scratch


def load_weights(model, path):
    """Fill a network with the weights in a `.keras`, `.weights.h5` or `.h5` file of Keras.

    The file is that of a model with the same layers. Layers are found by their class, and those of a class in order.
    The network is changed only after all of the file was found to fit.

    Args:
        model: a built `Sequential`.
        path: the file.

    Raises:
        InputError: the model is not built, or has other layers or shapes than the file; the message says which.
        FileError: the file cannot be read, or is cut or altered.

    >>> import tempfile
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/letters.keras"
    >>> save_keras(mc.networks.lenet5(seed=1), path)
    >>> load_weights(mc.networks.lenet5(seed=2), path)
    """
    check_built(model)
    with opened(path) as (described, store, _):
        if described is None:
            pairs = matched(model, store.layers(), quoted(path, 300))
        else:
            pairs = copied(model, _network(described, store), quoted(path, 300))
    for kept, value in pairs:
        value = operations.current.array(np.ascontiguousarray(value, model.dtype))
        if isinstance(kept, Parameter):
            kept.value[...] = value
            kept.clear_gradient()
        else:
            kept.value = value


def _network(described, store):
    """The network that a file describes, with its arrays."""
    try:
        network = Reader(described, store)
        return Sequential(network.layers, network.input_shape, dtype=network.dtype)
    except InputError as error:
        raise FileError(str(error)) from error
