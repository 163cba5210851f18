"""HDF5 files, read as far as Keras writes them, in Python alone.

An HDF5 file is a tree: groups hold groups and datasets by name, and each of
them may have attributes. It is stored as blocks that point to each other by
their positions in the file.

The usual reader is a C library. Of 4,000 small files of Keras in which a few
bytes were changed, it crashed on one and never came back from eight, and so
would the program that opened them. This reader knows the kinds of blocks that
Keras's files consist of and refuses all others, such as links, compressed data
and data in other files. Every position and length is compared with the file's
size, and the bytes that may be read in all are limited, so that a file whose
blocks point in a circle ends with an error.

Source: The HDF Group, "HDF5 file format specification version 3.0".
"""

import math
import struct
from typing import NamedTuple

import numpy as np

from minicnn.core.checks import quoted

SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Bytes of names, attributes and the tree that are read of one file; a network of 1,000 layers has some three million.
LIMIT = 2**26

_LONGEST_NAME = 1000  # bytes
_BLOCK_COST = 64  # that a block counts for at least, so that their number is limited, too
_UNDEFINED = 2**64 - 1  # the position of what is not there

# kinds of messages in an object's header
_DATASPACE, _DATATYPE, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOLS = 1, 3, 7, 8, 11, 12, 16, 17
_NEW_GROUP = (2, 6)  # of a group of a newer kind

#: (size, exponent position and size, mantissa position and size, exponent bias) of IEEE numbers.
_FLOATS = {(2, 10, 5, 0, 10, 15): "f2", (4, 23, 8, 0, 23, 127): "f4", (8, 52, 11, 0, 52, 1023): "f8"}


class Type(NamedTuple):
    """What the elements of an array are: floating point numbers, texts, or something that is not read.

    `dtype` is NumPy's, or None; `text` is "fixed", "variable" or None; `size` is in bytes.
    """

    size: int
    dtype: np.dtype | None = None
    text: str | None = None


class Dataset(NamedTuple):
    """An array in the file: its shape and dtype, and a function that reads it."""

    shape: tuple
    dtype: np.dtype
    read: object


class Group:
    """A folder of the tree: names lead to groups and datasets, and attributes are texts or lists of texts.

    Args:
        file: the `Hdf5` that it is in.
        position: of its header.
    """

    def __init__(self, file, position):
        self._file = file
        self._messages = file.messages(position)
        self._positions = file.members(self._messages)

    def __iter__(self):
        return iter(self._positions)

    def __contains__(self, name):
        return name in self._positions

    def __getitem__(self, name):
        """The Group or the Dataset of a name, or of names with / between them; KeyError where there is none."""
        first, _, rest = name.partition("/")
        item = self._file.item(self._positions[first])
        if not rest:
            return item
        if not isinstance(item, Group):
            raise KeyError(name)
        return item[rest]

    def attribute(self, name):
        """A text, or a list of texts; None where there is no such attribute."""
        for kind, data in self._messages:
            if kind == _ATTRIBUTE:
                found, value = self._file.attribute(data, name)
                if found:
                    return value
        return None


class Hdf5:
    """An HDF5 file open for reading.

    Args:
        file: a binary file object that can seek.
        size: its bytes.

    Attributes:
        root: the Group that all others are in.

    Raises:
        ValueError: it is not an HDF5 file, or not one as Keras writes them; also when something of it is read.
    """

    def __init__(self, file, size):
        self._file, self._size = file, size
        self._left = min(LIMIT, 64 * size)
        self._data_left = size  # each array of a true file is there once
        self._heaps = {}
        start = self._read(0, 24)
        if start[:8] != SIGNATURE:
            raise ValueError("it does not begin as HDF5 files do")
        if start[8] > 1 or start[13:15] != b"\x08\x08":
            raise ValueError("it is laid out in a newer way than Keras does: open it in Keras, and save it again")
        position = 24 + 4 * start[8]
        base, _, end, _ = struct.unpack("<4Q", self._read(position, 32))
        if base or end != size:
            raise ValueError(f"it has {size:,} bytes and should have {end:,}: it is cut or altered")
        self.root = Group(self, struct.unpack("<8xQ", self._read(position + 32, 16))[0])

    def item(self, position):
        """The Group or the Dataset whose header is at a position."""
        messages = self.messages(position)
        kinds = [kind for kind, _ in messages]
        return Group(self, position) if _LAYOUT not in kinds else self._dataset(messages)

    def messages(self, position):
        """The header of a group or a dataset: [(kind, bytes)]."""
        version, count, length = struct.unpack("<BxH4xI4x", self._read(position, 16))
        if version != 1:
            raise ValueError("it has a header of a newer kind than Keras writes")
        chunks, found = [(position + 16, length)], []
        for start, length in chunks:  # grows while it is read
            data, at = self._read(start, length), 0
            while at + 8 <= length and len(found) < count:
                kind, size, flags = struct.unpack_from("<HHB", data, at)
                message = data[at + 8 : at + 8 + size]
                at += 8 + size
                if kind in _NEW_GROUP:
                    raise ValueError(
                        "it has links, or names with letters beyond ASCII, which HDF5 keeps in another way: save it in "
                        "Keras as .keras, where the layers' names do not matter"
                    )
                if flags & 2:
                    raise ValueError("it has shared parts, which Keras does not write")
                if kind == _CONTINUATION:
                    chunks.append(struct.unpack_from("<QQ", message))
                found.append((kind, message))
        return found

    def members(self, messages):
        """The names in a group: {name: position of the header}."""
        found = {}
        for tree, heap in (struct.unpack_from("<QQ", data) for kind, data in messages if kind == _SYMBOLS):
            names = self._heap(heap)
            for name, position in self._symbols(tree, names, depth=0):
                if name in found:
                    raise ValueError(f"it has two things of the name {quoted(name, 60)}")
                found[name] = position
        return found

    def attribute(self, message, wanted):
        """(True, its value) if a message is the attribute of the name that is wanted; else (False, None)."""
        version, flags, *sizes = struct.unpack_from("<BBHHH", message)
        if version not in (1, 2, 3):
            raise ValueError("it has an attribute of an unknown kind")
        at, parts = 8 + (version == 3), []
        for size in sizes:  # the name, the type, the shape
            parts.append(message[at : at + size])
            at += -(-size // 8) * 8 if version == 1 else size
        if parts[0].rstrip(b"\0").decode() != wanted:
            return False, None
        if version > 1 and flags & 3:
            raise ValueError(f"its attribute {wanted} has a shared type")
        kind, shape = _type(parts[1]), _shape(parts[2])
        count = math.prod(shape)
        if count == 0:
            return True, []
        if kind.text is None or count * kind.size > len(message) - at:
            raise ValueError(f"its attribute {wanted} is not a text")
        items = [message[at + i * kind.size : at + (i + 1) * kind.size] for i in range(count)]
        if kind.text == "variable":
            items = [self._global(*struct.unpack("<IQI", item)) for item in items]
        texts = [item.rstrip(b"\0").decode() for item in items]
        return True, texts if shape else texts[0]

    def _read(self, position, count):
        """Some bytes of the tree."""
        self._left -= max(count, _BLOCK_COST)
        if self._left < 0:
            raise ValueError("its tree has no end, or is larger than that of any network")
        return self._bytes(position, count)

    def _bytes(self, position, count):
        if position + count > self._size:
            raise ValueError(f"it points to the byte {position + count:,} and has {self._size:,}: it is cut or altered")
        self._file.seek(position)
        data = self._file.read(count)
        if len(data) < count:
            raise ValueError("it ends early")
        return data

    def _heap(self, position):
        """The names of a group's members, one after the other, each ended by a zero."""
        signature, length, start = struct.unpack("<8sQ8xQ", self._read(position, 32))
        if signature != b"HEAP\0\0\0\0":
            raise ValueError("a list of names does not begin as it should")
        return self._read(start, length)

    def _symbols(self, position, names, depth):
        """(name, position of the header) of each member, from a tree whose leaves list them."""
        if depth > 8:
            raise ValueError("its tree has no end")
        signature, kind, count = struct.unpack("<4sBxH16x", self._read(position, 24))
        if signature == b"TREE" and kind == 0:
            children = struct.unpack(f"<{2 * count}Q", self._read(position + 32, 16 * count))[::2] if count else ()
            for child in children:
                yield from self._symbols(child, names, depth + 1)
        elif signature == b"SNOD":
            count = int.from_bytes(self._read(position + 6, 2), "little")
            for name, header, link in struct.iter_unpack("<QQI20x", self._read(position + 8, 40 * count)):
                if link > 1:
                    raise ValueError("it has links, which Keras does not write")
                end = names.find(b"\0", name, name + _LONGEST_NAME)
                if end < 0:
                    raise ValueError("a name has no end")
                yield names[name:end].decode(), header
        else:
            raise ValueError("a group does not begin as it should")

    def _global(self, length, position, index):
        """A text that is kept in a heap of its own."""
        if not length:
            return b""
        if position not in self._heaps:
            signature, size = struct.unpack("<8sQ", self._read(position, 16))
            if signature != b"GCOL\1\0\0\0":
                raise ValueError("a heap of texts does not begin as it should")
            data, at, found = self._read(position, size), 16, {}
            while at + 16 <= size:
                key, count = struct.unpack_from("<H6xQ", data, at)
                if key == 0:
                    break  # the rest is free
                found[key] = data[at + 16 : at + 16 + count]
                at += 16 + -(-count // 8) * 8
            self._heaps[position] = found
        text = self._heaps[position].get(index, b"")
        if len(text) < length:
            raise ValueError("a text is missing")
        return text[:length]

    def _dataset(self, messages):
        """The Dataset of a header; refused where its data are not plain numbers in one piece of this file."""
        parts = dict(messages)
        if _FILTERS in parts or _EXTERNAL in parts:
            raise ValueError("it has arrays that are compressed or in other files, which Keras does not write")
        if _DATATYPE not in parts or _DATASPACE not in parts:
            raise ValueError("an array has no type or no shape")
        kind, shape, layout = _type(parts[_DATATYPE]), _shape(parts[_DATASPACE]), parts[_LAYOUT]
        version, storage = struct.unpack_from("<BB", layout)
        if version != 3 or storage > 1:
            raise ValueError("it has arrays in chunks or of other files, which Keras does not write")
        size = math.prod(shape) * kind.size

        def read():
            if kind.dtype is None:
                raise ValueError("an array does not hold floating point numbers of 16, 32 or 64 bits")
            self._data_left -= size
            if self._data_left < 0:
                raise ValueError("its arrays are together larger than the file")
            if storage == 0:  # in the header itself
                data = layout[4 : 4 + int.from_bytes(layout[2:4], "little")]
            else:
                position, length = struct.unpack_from("<QQ", layout, 2)
                is_there = length == size and position != _UNDEFINED
                data = self._bytes(position, size) if is_there and size else b""
            if len(data) != size:
                raise ValueError(f"an array of the shape {quoted(shape, 60)} has not its {size:,} bytes")
            return np.frombuffer(data, kind.dtype).reshape(shape)

        return Dataset(shape, kind.dtype, read)


def _type(data):
    """The Type that a message describes."""
    first, bits, size = struct.unpack_from("<BB2xI", data)
    kind = first & 15
    if kind == 1:
        if bits & 65 == 64 or (name := _FLOATS.get((size, *struct.unpack_from("<4xBBBBI", data, 8)))) is None:
            return Type(size)
        return Type(size, np.dtype((">" if bits & 1 else "<") + name))
    if kind == 3 and size:
        return Type(size, text="fixed")
    if kind == 9 and bits & 15 == 1 and size == 16:
        return Type(size, text="variable")
    return Type(size)


def _shape(data):
    """The shape that a message describes."""
    version, rank, kind = struct.unpack_from("<BBxB", data)
    if version not in (1, 2) or rank > 32:
        raise ValueError("an array has a shape of an unknown kind")
    if version == 2 and kind == 2:
        return (0,)
    return struct.unpack_from(f"<{rank}Q", data, 8 if version == 1 else 4)
