"""NumPy's memory for arrays, with an allocation that fails when a test says so.

NumPy takes the memory of arrays from a table of four functions, which can be replaced (NEP 49). The table belongs to
the context, as `np.errstate` does, so threads that run in a copy of the context use it, too.
"""

import contextlib
import ctypes
import itertools

import numpy as np

_NAME = b"mem_handler"
_SET_HANDLER, _DEFAULT_HANDLER = 304, 306  # in NumPy's table of C functions, whose order is fixed
# NumPy's own functions release the GIL, so they are called with it.
_MALLOC = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_REALLOC = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Handler(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", _MALLOC),
        ("calloc", _CALLOC),
        ("realloc", _REALLOC),
        ("free", ctypes.c_void_p),
    ]


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

_table = ctypes.cast(_get_pointer(np._core.multiarray._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
_set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(_table[_SET_HANDLER])
_default = ctypes.cast(ctypes.c_void_p(_table[_DEFAULT_HANDLER]), ctypes.POINTER(ctypes.py_object))[0]
_real = ctypes.cast(_get_pointer(_default, _NAME), ctypes.POINTER(_Handler))[0]

_fails = None  # the counter of the block that runs now


def _unless_it_fails(kind, function):
    return kind(lambda *arguments: None if _fails is not None and _fails() else function(*arguments))


# Freed by NumPy's own function; kept for ever, because arrays that outlive the block are freed through it.
_handler = _Handler(
    b"failing",
    1,
    _real.context,
    _unless_it_fails(_MALLOC, _real.malloc),
    _unless_it_fails(_CALLOC, _real.calloc),
    _unless_it_fails(_REALLOC, _real.realloc),
    _real.free,
)
_capsule = _new_capsule(ctypes.addressof(_handler), _NAME, None)


class Counter:
    """Counts allocations, of all threads, and lets one of them fail.

    Attributes:
        fail_at: the allocation that fails, counted from 1; None for none.
        failed: whether it has failed.
    """

    def __init__(self, fail_at=None):
        self.fail_at, self.failed, self._numbers = fail_at, False, itertools.count(1)
        self.count = 0

    def __call__(self):
        self.count = next(self._numbers)
        if self.count == self.fail_at:
            self.failed = True
        return self.count == self.fail_at


@contextlib.contextmanager
def failing(fail_at=None):
    """A block in which one allocation of an array's memory fails, as on a machine whose memory is used up."""
    global _fails
    counter = Counter(fail_at)
    before = _set_handler(_capsule)
    _fails = counter
    try:
        yield counter
    finally:
        _fails = None
        _set_handler(before)
