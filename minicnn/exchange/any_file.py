"""A network from a file of any kind, and into one: the ending of the file's name says which kind it is."""

import pathlib

from minicnn import exchange, model
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError
from minicnn.storage.files import path_text

#: The function of `minicnn.exchange` that reads or writes a network with its layers, by the ending.
READERS = {".onnx": "load_onnx", ".keras": "load_keras", ".h5": "load_keras", ".hdf5": "load_keras"}
WRITERS = {".onnx": "save_onnx", ".keras": "save_keras"}

#: Endings of files that hold weights and no layers.
WEIGHTS = (".safetensors", ".weights.h5", ".pt", ".pth")
WRITTEN_WEIGHTS = (".safetensors", ".weights.h5")


def load(path):
    """Read a network from a file of this library (`.npz`), of ONNX (`.onnx`) or of Keras (`.keras`, `.h5`).

    A name with another ending is read as a file of this library.

    Args:
        path: the file.

    Returns:
        a `Sequential` on the backend in use.

    Raises:
        FileError: the file is missing or broken, holds what this library does not have, or holds weights alone.
        MissingPackageError: the package for this kind of file is not installed.

    >>> import tempfile
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> mc.networks.logistic_regression().save(path)
    >>> load(path).layers
    [Flatten(), Dense(10), Softmax()]
    """
    path = path_text(path)
    if _ends(path, WEIGHTS) and pathlib.Path(path).is_file():
        raise FileError(
            f"{quoted(path, 300)} holds weights and no layers: build the network, then "
            "mc.exchange.load_weights(model, path); or let PyTorch write the network with torch.onnx.export"
        )
    ending = pathlib.Path(path).suffix.lower()
    return getattr(exchange, READERS[ending])(path) if ending in READERS else model.load(path)


def save(network, path):
    """Write a network to a file of this library (`.npz`), of ONNX (`.onnx`) or of Keras (`.keras`).

    With the endings `.safetensors` and `.weights.h5`, its weights alone.

    Args:
        network: a built `Sequential`.
        path: the file; its ending says the kind.

    Raises:
        InputError: another ending; a model that is not built, or that this kind of file cannot hold.
        FileError: the file cannot be written.
        MissingPackageError: the package for this kind of file is not installed.

    >>> import tempfile
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/model.onnx"
    >>> save(mc.networks.logistic_regression(), path)
    """
    check_ending(path)
    ending = pathlib.Path(path).suffix.lower()
    if _ends(path, WRITTEN_WEIGHTS):
        exchange.save_weights(network, path)
    elif ending in WRITERS:
        getattr(exchange, WRITERS[ending])(network, path)
    else:
        network.save(path)


def check_ending(path):
    """Refuse a name whose ending is not that of a kind of file that `save` writes."""
    endings = (".npz", *WRITERS, *WRITTEN_WEIGHTS)
    if not _ends(path_text(path), endings):
        raise InputError(
            f"{quoted(path, 300)}: the ending of a file to write says its kind: {', '.join(endings[:-1])} or "
            f"{endings[-1]}"
        )


def _ends(path, endings):
    return str(path).lower().endswith(endings)
