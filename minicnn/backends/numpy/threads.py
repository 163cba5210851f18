"""Work divided among the processor's cores, and memory that is reused.

NumPy computes on one core, and only its matrix products (BLAS) use all. But
NumPy lets other Python threads run while it computes, so two chunks of a
batch, or two halves of a large product, can be computed at the same time. Each
thread then calls BLAS on one core, which for these shapes is faster than
BLAS's own threads.

Which core computes a chunk never changes a result: the same settings give the
same bits every time.
"""

import contextlib
import contextvars
import ctypes
import functools
import itertools
import os
import queue
import sys
import threading

from minicnn.core.errors import InputError

_current = threading.local()  # .chunk: the index of the chunk that this thread computes, while it computes one


def thread_count():
    """How many threads compute: `MINICNN_THREADS`, or the cores this process may use."""
    return _thread_count(os.environ.get("MINICNN_THREADS"))


@functools.cache
def _thread_count(setting):
    if not setting:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not setting.isdigit() or int(setting) < 1:
        raise InputError(f"MINICNN_THREADS needs an integer of at least 1, got {setting!r}")
    return int(setting)


def chunk_slices(length, size):
    """Cut `range(length)` into slices of about the same length, none longer than `size`.

    >>> chunk_slices(100, size=40)
    [slice(0, 33, None), slice(33, 66, None), slice(66, 100, None)]
    """
    count = max(1, -(-length // size))
    edges = [length * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def per_core_slices(length):
    """Cut `range(length)` into one slice for each core.

    >>> len(per_core_slices(1000)) == thread_count()
    True
    """
    return chunk_slices(length, -(-length // thread_count()))


def parallel_map(function, arguments):
    """`[function(argument) for argument in arguments]`; every core takes the next argument when it is free.

    What is computed for an argument does not depend on the thread that takes it. An error in one of them is
    raised here once all have ended. Inside such a function, `parallel_map` is an ordinary loop.

    >>> parallel_map(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    arguments = list(arguments)
    if len(arguments) < 2 or current_chunk() is not None:
        return [function(argument) for argument in arguments]
    chunks = iter(list(enumerate(arguments)))
    results, deferred, errors = [None] * len(arguments), [[] for _ in arguments], []

    def work():
        for chunk, argument in chunks:  # one iterator for all threads: each chunk is taken once
            _current.chunk, _current.deferred = chunk, deferred[chunk]
            try:
                results[chunk] = function(argument)
            except BaseException as error:  # raised again in the calling thread
                errors.append(error)
            finally:
                _current.chunk = _current.deferred = None

    helpers = min(thread_count(), len(arguments)) - 1
    ended = queue.SimpleQueue()
    with single_threaded_blas():
        for _ in range(helpers):
            task = functools.partial(contextvars.copy_context().run, work)  # np.errstate holds there, too
            _tasks().put((task, ended))
        work()
        for _ in range(helpers):
            ended.get()
    if errors:
        raise errors[0]
    for items in deferred:
        for target, item in items:
            target.append(item)
    return results


def append_in_order(target, item):
    """`target.append(item)`; inside `parallel_map` it is done at the end, in the order of the chunks.

    So the order of the items, and the bits of their sum, do not depend on which chunk is computed first.
    """
    deferred = getattr(_current, "deferred", None)
    if deferred is None:
        target.append(item)
    else:
        deferred.append((target, item))


class single_threaded_blas(contextlib.ContextDecorator):  # noqa: N801, used like a function
    """A block in which BLAS does not use threads of its own, because `parallel_map` does.

    BLAS's own threads, once used, go on spinning for some milliseconds and take the cores from ours: with them
    a step of conv_pool at batch 32 took 65 ms instead of 43. And they wait for each other at every product, which
    on a machine with other work to do takes long: a step of LeNet-5 at batch 32 beside two busy processes took
    64 ms with them and 3 ms without. The setting is that of the process, so the outermost block restores it.
    """

    _lock = threading.Lock()
    _depth = 0
    _before = ()

    def __enter__(self):
        cls = single_threaded_blas
        with cls._lock:
            cls._depth += 1
            if cls._depth == 1:
                cls._before = [(library, library.get_num_threads()) for library in _blas()]
                for library, _ in cls._before:
                    library.set_num_threads(1)

    def __exit__(self, *_):
        cls = single_threaded_blas
        with cls._lock:
            cls._depth -= 1
            if cls._depth == 0:
                for library, count in cls._before:
                    library.set_num_threads(count)


def current_chunk():
    """The index of the chunk that this thread computes, from 0; None outside `parallel_map`."""
    return getattr(_current, "chunk", None)


@functools.cache
def _tasks():
    """The queue from which the worker threads take their work; a simple one, because latency counts."""
    tasks = queue.SimpleQueue()

    def serve():
        while True:
            work, ended = tasks.get()
            work()
            del work  # so that its arrays are free before the next task
            ended.put(True)

    for number in range(1, thread_count()):
        threading.Thread(target=serve, name=f"minicnn-{number}", daemon=True).start()
    return tasks


@functools.cache
def _blas():
    """The BLAS libraries of this process, through which their number of threads is set."""
    import threadpoolctl  # here, so that `import minicnn` needs NumPy alone

    return threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers


def blas_libraries():
    """The BLAS libraries of this process, loaded, for functions that NumPy does not offer."""
    return [ctypes.CDLL(controller.filepath) for controller in _blas()]


@functools.cache
def blas_multiplies_small():
    """Whether this BLAS has its own kernels for small matrices: OpenBLAS has, on processors with AVX-512.

    BLAS copies both matrices into another layout before it multiplies. For a thin matrix, or
    one of few rows, that takes as long as a third of the product. Up to a million multiply-adds OpenBLAS skips
    the copy, so it pays to cut products into blocks of that size.

    Source: OpenBLAS, pull request 3335, 2021.
    """
    return any(
        getattr(library, "architecture", None) in ("SkylakeX", "Cooperlake", "SapphireRapids") for library in _blas()
    )


@functools.cache
def tune_malloc():
    """Let the C library keep freed memory for the next array instead of returning it to the system.

    A training step frees and allocates the same large arrays again and again, and the system clears every page
    that it provides. Reused memory needs no clearing: a step of LeNet-5 takes half the time (5.4 ms to 3.0 ms at
    batch 32). Only glibc (Linux) has the setting; elsewhere nothing happens. It holds for the whole process;
    `MINICNN_KEEP_MEMORY=0` leaves the C library as it is.
    """
    if not sys.platform.startswith("linux") or os.environ.get("MINICNN_KEEP_MEMORY") == "0":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # the names of <malloc.h>
        mallopt(mmap_max, 0)  # large arrays come from the heap, too,
        mallopt(trim_threshold, 2**31 - 1)  # which does not shrink,
        mallopt(arena_max, 1)  # and there is one for all threads
