"""A network from a file of any kind, and into one: the ending of the file's name says which kind it is."""

import pathlib

from minicnn import exchange, model
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.types import Path, Shape
from minicnn.storage.files import path_text

#: Endings of files of Keras that hold a network with its layers.
KERAS = (".keras", ".h5", ".hdf5")

#: The function of `minicnn.exchange` that writes a network with its layers, by the ending.
WRITERS = {".onnx": "save_onnx", ".keras": "save_keras"}

#: Endings of files that hold weights and no layers.
WEIGHTS = (".safetensors", ".weights.h5", ".pt", ".pth")
WRITTEN_WEIGHTS = (".safetensors", ".weights.h5")


def load(path: Path, *, input_shape: Shape | None = None) -> model.Sequential:
    """Read a network from a file of this library (`.npz`), of ONNX (`.onnx`) or of Keras (`.keras`, `.h5`).

    A name with another ending is read as a file of this library.

    Args:
        path: the file.
        input_shape: (C, H, W) or (D,), for a file of ONNX that leaves the size of its input open.

    Returns:
        a `Sequential` on the backend in use.

    Raises:
        InputError: an input_shape for a file of another kind.
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
    if ending == ".onnx":
        return exchange.load_onnx(path, input_shape=input_shape)
    if input_shape is not None:
        raise InputError(f"{quoted(path, 300)} says the size of its input itself: only an .onnx file may leave it open")
    return exchange.load_keras(path) if ending in KERAS else model.load(path)


def save(network: model.Sequential, path: Path) -> None:
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
