"""Work shared out among the processor's cores, and memory that is kept.

NumPy computes on one core, and only its matrix products (BLAS) use all. But
NumPy lets other Python threads run while it computes, so two halves of a
batch, or two halves of a large product, can be worked on at once. Each thread
then has BLAS to itself with one core, which for these shapes is faster than
BLAS's own sharing.

Who gets which part depends on nothing but the number of threads: the same
settings give the same bits every time.
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

from minicnn.errors import InputError

_inside = threading.local()  # .part: which share of the work this thread has, while it has one


def thread_count():
    """How many threads share the work: `MINICNN_THREADS`, or the cores this process may use."""
    return _thread_count(os.environ.get("MINICNN_THREADS"))


@functools.cache
def _thread_count(setting):
    if setting is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not setting.isdigit() or int(setting) < 1:
        raise InputError(f"MINICNN_THREADS needs a whole number of at least 1, got {setting!r}")
    return int(setting)


def parts(length, size):
    """Cut `range(length)` into slices of about the same length, none longer than `size`.

    >>> parts(100, size=40)
    [slice(0, 33, None), slice(33, 66, None), slice(66, 100, None)]
    """
    count = max(1, -(-length // size))
    edges = [length * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def shares(length):
    """Cut `range(length)` into one slice a core.

    >>> len(shares(1000)) == thread_count()
    True
    """
    return parts(length, -(-length // thread_count()))


def in_parallel(function, arguments):
    """`[function(argument) for argument in arguments]`; every core takes the next argument when it is free.

    What is computed for an argument does not depend on the thread that takes it. An error in one of them is
    raised here once all have ended. Inside such a function, `in_parallel` is an ordinary loop.

    >>> in_parallel(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    arguments = list(arguments)
    if len(arguments) < 2 or current_part() is not None:
        return [function(argument) for argument in arguments]
    shares = iter(list(enumerate(arguments)))
    results, errors = [None] * len(arguments), []

    def work():
        for part, argument in shares:  # one iterator for all threads: each share is taken once
            _inside.part = part
            try:
                results[part] = function(argument)
            except BaseException as error:  # raised again in the thread that asked
                errors.append(error)
            finally:
                _inside.part = None

    helpers = min(thread_count(), len(arguments)) - 1
    ended = queue.SimpleQueue()
    with one_core_blas():
        for _ in range(helpers):
            _tasks().put(
                (functools.partial(contextvars.copy_context().run, work), ended)
            )  # np.errstate holds there, too
        work()
        for _ in range(helpers):
            ended.get()
    if errors:
        raise errors[0]
    return results


class one_core_blas(contextlib.ContextDecorator):  # noqa: N801, used like a function
    """A block in which BLAS does not share its products out, because `in_parallel` does.

    BLAS's own threads, once used, go on spinning for some milliseconds and take the cores from ours: with them
    a step of conv_pool at batch 32 took 65 ms instead of 43. And they wait for each other at every product, which
    on a machine with other work to do takes long: a step of LeNet-5 at batch 32 beside two busy processes took
    64 ms with them and 3 ms without. The setting is the whole process's, so the outermost block that is left puts
    it back.
    """

    _lock = threading.Lock()
    _depth = 0
    _before = ()

    def __enter__(self):
        cls = one_core_blas
        with cls._lock:
            cls._depth += 1
            if cls._depth == 1:
                cls._before = [(library, library.get_num_threads()) for library in _blas()]
                for library, _ in cls._before:
                    library.set_num_threads(1)

    def __exit__(self, *_):
        cls = one_core_blas
        with cls._lock:
            cls._depth -= 1
            if cls._depth == 0:
                for library, count in cls._before:
                    library.set_num_threads(count)


def current_part():
    """Which share of the work this thread is doing, from 0; None outside `in_parallel`."""
    return getattr(_inside, "part", None)


@functools.cache
def _tasks():
    """The queue that the worker threads take their work from; a simple one, because hand-over time counts."""
    tasks = queue.SimpleQueue()

    def serve():
        while True:
            work, ended = tasks.get()
            work()
            del work  # the arrays it holds must not wait for the next task
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
    """The BLAS libraries of this process, loaded, for functions of theirs that NumPy does not offer."""
    return [ctypes.CDLL(controller.filepath) for controller in _blas()]


@functools.cache
def blas_multiplies_small():
    """Whether this BLAS has a way of its own to multiply small matrices: OpenBLAS has, on processors with AVX-512.

    BLAS copies both matrices into the order in which it will read them before it multiplies. For a thin matrix, or
    one of few rows, that takes as long as a third of the product. Up to a million multiply-adds OpenBLAS leaves it
    out, so there it pays to cut products into blocks of that size.

    Source: OpenBLAS, pull request 3335, 2021.
    """
    return any(
        getattr(library, "architecture", None) in ("SkylakeX", "Cooperlake", "SapphireRapids") for library in _blas()
    )


@functools.cache
def keep_memory():
    """Ask the C library to keep freed memory for the next array instead of returning it to the system.

    A training step frees and asks for the same large arrays again and again, and the system clears every page
    it hands out. Kept memory needs no clearing: a step of LeNet-5 takes half the time (5.4 ms to 3.0 ms at
    batch 32). Only glibc (Linux) knows the setting; elsewhere nothing happens. It holds for the whole process;
    `MINICNN_KEEP_MEMORY=0` leaves the C library as it is.
    """
    if not sys.platform.startswith("linux") or os.environ.get("MINICNN_KEEP_MEMORY") == "0":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # the names of <malloc.h>
        mallopt(mmap_max, 0)  # large arrays come from the heap, too,
        mallopt(trim_threshold, 2**31 - 1)  # which does not shrink,
        mallopt(arena_max, 1)  # and is one for all threads
