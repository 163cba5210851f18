"""Files in the format safetensors: a list of names, dtypes, shapes and positions, and after it the numbers.

The package `safetensors` reads and writes them, and checks the list against the
size of the file. The files keep no order.
"""

import contextlib
import functools
import json
import typing

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, MissingPackageError
from minicnn.exchange.torch_file import from_bfloat16
from minicnn.storage.files import atomic_write, open_file, path_text, reading

#: The dtypes of weights, by their names in the file.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Tensor(typing.NamedTuple):
    """The shape of an array in the file, and the name of its dtype."""

    shape: tuple
    dtype: str


class SafetensorsFile:
    """The arrays of a `.safetensors` file, open for reading; use it in a `with` block.

    Args:
        path: the file.

    Attributes:
        tensors: `{name: Tensor}`.
        classes: the names of the classes that `write_safetensors` kept, as JSON, or None.

    Raises:
        FileError: the file cannot be read, is cut or altered. No array is read before.
        MissingPackageError: the package safetensors is not installed.
    """

    def __init__(self, path):
        self.path = path_text(path)
        open_file(path).close()  # which refuses a folder or a pipe
        with self._reading():
            self._file = import_safetensors().safe_open(self.path, "numpy").__enter__()
        try:
            with self._reading():
                slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118, not a dict
                self.tensors = {name: _tensor(found) for name, found in slices.items()}
                self.classes = (self._file.metadata() or {}).get("classes")
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.__exit__(*error)

    def read(self, name):
        """One array as a NumPy array; bfloat16, which NumPy does not have, as float32."""
        tensor = self.tensors[name]
        if tensor.dtype == "bfloat16":
            return from_bfloat16(np.frombuffer(self._bytes[name], "<u2")).reshape(tensor.shape)
        with self._reading():
            return self._file.get_tensor(name)

    @functools.cached_property
    def _bytes(self):
        """The bytes of all arrays."""
        with self._reading(), open_file(self.path) as file:
            return {name: found["data"] for name, found in import_safetensors().deserialize(file.read())}

    @contextlib.contextmanager
    def _reading(self):
        error_kind = import_safetensors().SafetensorError
        with reading(self.path, "a complete .safetensors file"):
            try:
                yield
            except error_kind as error:
                raise FileError(
                    f"{quoted(self.path, 300)} is not a complete .safetensors file: {quoted(error, 200)}"
                ) from error


def write_safetensors(path, arrays, classes=None):
    """Write arrays to a `.safetensors` file, atomically.

    Args:
        path: the file.
        arrays: `{name: NumPy array}`.
        classes: the names of the classes, or None; they are kept in the file's metadata, as JSON.

    Raises:
        FileError: the file cannot be written.
        MissingPackageError: the package safetensors is not installed.
    """
    import_safetensors()
    from safetensors.numpy import save

    # The package writes the numbers as they lie in memory, and does not look at the strides.
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    metadata = {"format": "pt"} | ({} if classes is None else {"classes": json.dumps(classes, ensure_ascii=False)})
    data = save(arrays, metadata)
    with atomic_write(path) as file:
        file.write(data)


def import_safetensors():
    """The package safetensors.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import safetensors
    except ImportError as error:
        raise MissingPackageError(
            ".safetensors files need safetensors: pip install 'minicnn-numpy[safetensors]'"
        ) from error
    return safetensors


def _tensor(found):
    return Tensor(tuple(found.get_shape()), DTYPES.get(found.get_dtype(), found.get_dtype()))
