"""Files of Keras: the description of a network, and a store from which the arrays of a layer are read.

.keras       a zip of a description (JSON) and of the weights (HDF5)
.h5          one HDF5 file with both, as older versions write it
.weights.h5  the weights alone, in groups that are named by the layers' classes and numbers
"""

import contextlib
import io
import json
import re
import zipfile

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError
from minicnn.exchange import hdf5
from minicnn.exchange.keras_match import Found
from minicnn.exchange.keras_network import MODELS
from minicnn.storage.arrays import BoundedReads
from minicnn.storage.files import open_file, reading

WEIGHTS = "model.weights.h5"
READ_SIZE = 2**20  # bytes read at a time

_DESCRIPTION_LIMIT = 2**24  # bytes; a network of 1,000 layers has some two million


@contextlib.contextmanager
def opened(path):
    """A block with (description or None, store, names of the classes or None) of a file of Keras."""
    with open_file(path) as file, reading(path, "a file of Keras, or is cut or altered"), _named(path):
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(8)
        if start[:4] == b"PK\3\4":
            archive = _Archive(file)
            description = json.loads(archive.read("config.json", _DESCRIPTION_LIMIT))
            weights = archive.part(WEIGHTS)
            classes = json.loads(archive.read("metadata.json", _DESCRIPTION_LIMIT)).get("classes")
            yield _checked(description), _Store(hdf5.Hdf5(weights, weights.size).root), classes
        elif start == hdf5.SIGNATURE:
            root = hdf5.Hdf5(file, size).root
            text = root.attribute("model_config")
            if text is not None:
                yield _checked(json.loads(text)), _LegacyStore(root["model_weights"]), None
            elif root.attribute("layer_names") is not None:
                yield None, _LegacyStore(root), None
            else:
                yield None, _Store(root), None
        else:
            raise FileError("it is neither a .keras nor an .h5 file")


@contextlib.contextmanager
def _named(path):
    """A block whose errors name the file."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{quoted(path, 300)} cannot be loaded: {error}") from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise FileError(
            f"{quoted(path, 300)} cannot be loaded: its description does not make a network ({quoted(error, 200)})"
        ) from error


def _checked(description):
    if not isinstance(description, dict) or description.get("class_name") not in MODELS:
        kind = description.get("class_name") if isinstance(description, dict) else description
        raise FileError(
            f"it is a {quoted(kind, 60)}, whose layers only its own code knows: build it in Keras from layers, as a "
            "Sequential or functional model"
        )
    return description


class _Archive:
    """A zip file whose members are not compressed, as Keras writes it."""

    def __init__(self, file):
        self._file = file
        self._zip = zipfile.ZipFile(BoundedReads(file))
        members = self._zip.infolist()
        self._members = {info.filename: info for info in members}
        if len(self._members) < len(members):
            raise FileError("it holds two files of one name")

    def read(self, name, limit):
        """A small member."""
        if self._member(name).file_size > limit:
            raise FileError(f"its {name} has more than the {limit:,} bytes that are read")
        return self._zip.read(self._member(name))

    def part(self, name):
        """A member as a file, after its checksum was compared."""
        info = self._member(name)
        with self._zip.open(info) as member:
            while member.read(READ_SIZE):  # at the end zipfile compares the checksum
                pass
        self._file.seek(info.header_offset + 26)
        lengths = self._file.read(4)
        start = info.header_offset + 30 + sum(np.frombuffer(lengths, "<u2").tolist())
        return _Part(self._file, start, info.file_size)

    def _member(self, name):
        if name not in self._members:
            raise FileError(f"it has no {name}")
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise FileError(f"its {name} is compressed, which Keras does not do: save it again in Keras")
        return info


class _Part:
    """Some bytes of a file, as a file."""

    def __init__(self, file, start, size):
        self._file, self._start, self.size = file, start, size

    def seek(self, position):
        """Go to a position of the part."""
        self._file.seek(self._start + position)

    def read(self, count):
        """Bytes from there."""
        return self._file.read(count)


class _Store:
    """The arrays of a `.keras` or `.weights.h5` file: layers by class and number, their arrays by number."""

    def __init__(self, root):
        self.root = root

    def arrays(self, path, top, name, names):
        """The Datasets of a layer, of which there must be as many as names."""
        if "layers" not in self.root:
            path = path.replace("layers", "_layer_checkpoint_dependencies", 1)  # TensorFlow 2.12
        try:
            group = self.root[f"{path}/vars"]
        except KeyError:
            group = ()
        if len(list(group)) != len(names):
            raise FileError(f"it needs {', '.join(names)}, and the file has {len(list(group))} arrays for it")
        return _numbered(group)

    def layers(self):
        """Every layer that has arrays, as Found; those of a class in their order."""
        found = {}

        def visit(group, path, depth):
            if depth > 20:
                raise FileError("its groups are nested without end")
            for name in group:
                item, here = group[name], f"{path}/{name}"
                if "vars" in item and list(item["vars"]):
                    kind, number = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", name, re.DOTALL).groups()
                    found.setdefault(kind, []).append(
                        (path, int(number or 0), Found(kind, here, _numbered(item["vars"])))
                    )
                if "layers" in item:
                    visit(item["layers"], f"{here}/layers", depth + 1)

        top = "layers" if "layers" in self.root else "_layer_checkpoint_dependencies"
        if top not in self.root:
            raise FileError("it has no weights of layers")
        visit(self.root[top], top, 0)
        for kind, layers in found.items():
            if len({path for path, _, _ in layers}) > 1:
                raise FileError(
                    f"the order of its layers of the class {quoted(kind, 40)} is not known, because they are in models "
                    "inside of the model: save it with model.save as .keras, and load that"
                )
        return [layer for layers in found.values() for _, _, layer in sorted(layers, key=lambda item: item[1])]


def _numbered(group):
    """The arrays "0", "1", ... of a group."""
    return [group[str(index)] for index in range(len(list(group)))]


class _LegacyStore:
    """The arrays of an `.h5` file: by the names of the layer and of the array."""

    def __init__(self, group):
        self.group = group
        self._found = {}

    def arrays(self, path, top, name, names):
        """The Datasets of a layer."""
        return [self._array(top, name, key) for key in names]

    def layers(self):
        """Every layer that has arrays, in the order of the model, as Found; its class is not in the file."""
        found = []
        for top in _long_list(self.group, "layer_names"):
            group, layers = self.group[top], {}
            for full in _long_list(group, "weight_names"):
                layer, _, key = full.rpartition("/")
                layers.setdefault(layer, {})[key.partition(":")[0]] = group[full]
            found += [Found(None, name, list(arrays.values()), tuple(arrays)) for name, arrays in layers.items()]
        return found

    def _array(self, top, name, key):
        group = self.group[top]
        if top not in self._found:
            self._found[top] = {}
            for full in _long_list(group, "weight_names"):
                layer, _, last = full.rpartition("/")
                self._found[top].setdefault((layer.rpartition("/")[2], last.partition(":")[0]), []).append(full)
        # the name of a layer may have / in it, too
        found = self._found[top].get((name.rpartition("/")[2], key), [])
        found = [full for full in found if f"/{full}".rpartition("/")[0].endswith(f"/{name}")]
        if not found and key.startswith("depthwise_"):
            return self._array(top, name, key.removeprefix("depthwise_"))  # as Keras 3 calls it
        if len(found) != 1:
            raise FileError(f"the file has {len(found)} arrays for its {key}, and one is needed")
        return group[found[0]]


def _long_list(group, name):
    """An attribute that is a list of texts; long ones are divided among several."""
    found = group.attribute(name)
    if found is not None:
        return found
    parts, number = [], 0
    while (part := group.attribute(f"{name}{number}")) is not None:
        parts, number = parts + part, number + 1
    return parts
