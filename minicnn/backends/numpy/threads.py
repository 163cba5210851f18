"""Work divided among the processor's cores, and memory that is reused.

NumPy computes on one core, and only its matrix products (BLAS) use all. But
NumPy lets other Python threads run while it computes, so two chunks of a
batch, or two halves of a large product, can be computed at the same time. Each
thread then calls BLAS on one core, which for these shapes is faster than
BLAS's own threads.

Which core computes a chunk never changes a result: the same settings give the
same bits every time.

All of this works in any thread of the process, in several at a time, and in a
forked child, which starts threads of its own.
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

from minicnn.core.checks import quoted
from minicnn.core.errors import InputError

_current = threading.local()  # what this thread does:
# .chunk, the index of the chunk that it computes, .deferred, what is appended after all chunks, or None, and .meeting,
# where it meets the other chunks, or None;
# .depth, in how many blocks of `single_threaded_blas` it is, and .before, BLAS's own settings for this thread

#: Whether the backward pass is likely to follow, so that it pays to keep what it needs again: not in inference.
training = contextvars.ContextVar("training", default=True)
KEPT = 2**24  # bytes up to which a layer keeps what is quickly computed again


def is_kept(nbytes):
    """Whether something of this size, which the backward pass could compute again, is kept for it."""
    return training.get() and nbytes <= KEPT


def thread_count():
    """How many threads compute: `MINICNN_THREADS`, or the cores this process may use."""
    return _thread_count(os.environ.get("MINICNN_THREADS"))


@functools.cache
def _thread_count(setting):
    if not setting:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not setting.isdecimal() or int(setting) < 1:
        raise InputError(f"MINICNN_THREADS needs an integer of at least 1, got {quoted(setting)}")
    return int(setting)


def chunk_slices(length, size):
    """Cut `range(length)` into slices of about the same length, none longer than `size`.

    >>> chunk_slices(100, size=40)
    [slice(0, 34, None), slice(34, 67, None), slice(67, 100, None)]
    """
    return even_slices(length, -(-length // size))


def even_slices(length, count):
    """Cut `range(length)` into this many slices, if it is as long, the longer ones first.

    So cores that take them in turns end together: of 4, 4, 3 and 3 each of two has 7.
    """
    count = max(1, min(count, length))
    size, longer = divmod(length, count)
    edges = [index * size + min(index, longer) for index in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def shared_slices(length, size):
    """As `chunk_slices`; where there are more slices than cores, each core has as many.

    >>> len(shared_slices(12 * thread_count() + 1, size=12)) == 2 * thread_count()
    True
    """
    count, cores = -(-length // size), thread_count()
    return even_slices(length, count if count <= cores else -(-count // cores) * cores)


def per_core_slices(length):
    """Cut `range(length)` into one slice for each core.

    >>> len(per_core_slices(1000)) == thread_count()
    True
    """
    return chunk_slices(length, -(-length // thread_count()))


def parallel_map(function, arguments, meeting=None):
    """`[function(argument) for argument in arguments]`; every core takes another argument when it is free.

    Each thread begins with the same argument every time, usually the same chunk of a batch. So what this chunk wrote
    in the layer before is in the cache of the core that reads it. What is computed for an argument does not depend on
    the thread that takes it. An error in one of them is raised here once all have ended. Inside such a function,
    `parallel_map` is an ordinary loop.

    Args:
        function: of one argument.
        arguments: any iterable.
        meeting: a `Meeting` where the functions may exchange values; then each argument has a thread of its own.

    >>> parallel_map(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    arguments = list(arguments)
    if len(arguments) < 2 or current_chunk() is not None:
        return [function(argument) for argument in arguments]
    waiting = dict(enumerate(arguments))
    results, deferred, errors = [None] * len(arguments), [[] for _ in arguments], []

    @single_threaded_blas()
    def work(first):
        for chunk in (first, *range(len(arguments))):
            try:
                argument = waiting.pop(chunk)
            except KeyError:  # another thread has taken it
                continue
            _current.chunk, _current.deferred, _current.meeting = chunk, deferred[chunk], meeting
            try:
                results[chunk] = function(argument)
            except BaseException as error:  # raised again in the calling thread
                errors.append(error)
                if meeting is not None:
                    meeting.abort()
            finally:
                _current.chunk = _current.deferred = _current.meeting = None

    helpers = len(arguments) - 1 if meeting is not None else min(thread_count(), len(arguments)) - 1
    ended = queue.SimpleQueue()
    with single_threaded_blas(), _Helpers.one_meeting if meeting is not None else contextlib.nullcontext():
        begun = 0
        try:
            for first, tasks in enumerate(_queues(helpers), start=1):
                task = functools.partial(contextvars.copy_context().run, work, first)  # np.errstate holds there, too
                tasks.put((task, ended))
                begun += 1
            work(0)
        finally:  # whatever happens, no helper is left at work on these arrays
            errors += filter(None, [ended.get() for _ in range(begun)])
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


class Meeting:
    """Where chunks that are computed at the same time exchange values, such as their parts of a sum.

    Args:
        chunks: how many.

    >>> meeting = Meeting(2)
    >>> parallel_map(lambda value: sum(exchange(value)), [1, 2], meeting)
    [3, 3]
    """

    def __init__(self, chunks):
        self._chunks = chunks
        self._everyone = threading.Barrier(chunks, action=self._clear)
        self._clear()

    def exchange(self, value):
        values = self._values
        values[current_chunk()] = value
        self._everyone.wait()  # the last one clears the list for the next exchange
        return values

    def abort(self):
        """A chunk failed: the others shall not wait for it."""
        self._everyone.abort()

    def _clear(self):
        self._values = [None] * self._chunks


def exchange(value):
    """The values with which all chunks of a batch call this function, in the order of the chunks.

    Each chunk waits for the others. Where the batch is not cut, the list has just this value.
    """
    meeting = getattr(_current, "meeting", None)
    return [value] if meeting is None else meeting.exchange(value)


class single_threaded_blas(contextlib.ContextDecorator):  # noqa: N801, used like a function
    """A block in which BLAS does not use threads of its own, because `parallel_map` does.

    BLAS's own threads, once used, go on spinning for some milliseconds and take the cores from ours: with them
    a step of conv_pool at batch 32 took 65 ms instead of 43. And they wait for each other at every product, which
    on a machine with other work to do takes long: a step of LeNet-5 at batch 32 beside two busy processes took
    64 ms with them and 3 ms without.

    The setting usually is that of the process: the first thread that enters a block makes it, and the last one that
    leaves restores it. A BLAS built on OpenMP has one for each thread, which each thread makes and restores.
    """

    lock = threading.RLock()
    _threads = 0  # that are in a block
    _before = ()  # (library, its number of threads) before the first of them

    def __enter__(self):
        _current.depth = getattr(_current, "depth", 0) + 1
        if _current.depth > 1:
            return
        cls = single_threaded_blas
        with cls.lock:
            cls._threads += 1
            if cls._threads == 1:
                cls._before = _limit_blas(library for library in _blas() if not _is_per_thread(library))
        _current.before = _limit_blas(library for library in _blas() if _is_per_thread(library))

    def __exit__(self, *_):
        _current.depth -= 1
        if _current.depth:
            return
        cls = single_threaded_blas
        with cls.lock:
            cls._threads -= 1
            if cls._threads == 0:
                _restore_blas(cls._before)
                cls._before = ()
        _restore_blas(_current.before)

    @classmethod
    def forget_other_threads(cls):
        """In a forked child: none but this thread can be in a block."""
        cls._threads = min(1, getattr(_current, "depth", 0))
        if not cls._threads:
            _restore_blas(cls._before)
            cls._before = ()


def _is_per_thread(library):
    """Whether each thread of the process has its own setting of this BLAS."""
    return getattr(library, "threading_layer", None) == "openmp"


def _limit_blas(libraries):
    """Set BLAS libraries to one thread, and return what `_restore_blas` needs."""
    before = [(library, library.get_num_threads()) for library in libraries]
    _restore_blas((library, 1) for library, _ in before)
    return before


def _restore_blas(settings):
    """Set the numbers of threads of BLAS libraries.

    From threadpoolctl 3.8 on, the first thread that sets the number of OpenBLAS's threads is the only one that can: the
    calls of all others do nothing, and say nothing. So `fit` outside the main thread took five times the processor
    time. Here all threads agree on the setting, so each takes over the control and gives it up again.
    """
    for library, count in settings:
        clear = getattr(library, "clear_controlling_thread", lambda **_: None)
        clear(force=True)
        library.set_num_threads(count)
        clear()


def current_chunk():
    """The index of the chunk that this thread computes, from 0; None outside `parallel_map`."""
    return getattr(_current, "chunk", None)


class _Helpers:
    """The threads that help `parallel_map`: each takes its work from a queue of its own."""

    queues: list[queue.SimpleQueue] = []  # noqa: RUF012, of the process; simple ones, because latency counts
    starting = threading.Lock()
    one_meeting = threading.RLock()  # chunks of two meetings, waiting for each other, could occupy all helpers

    @classmethod
    def forget(cls):
        """In a forked child: the threads of the parent do not exist there."""
        cls.queues = []
        cls.starting, cls.one_meeting = threading.Lock(), threading.RLock()


def _queues(helpers):
    """The queues of this many helpers."""
    queues = _Helpers.queues
    with _Helpers.starting:
        while len(queues) < helpers:
            queues.append(queue.SimpleQueue())
            name = f"minicnn-{len(queues)}"
            threading.Thread(target=_serve, args=queues[-1:], name=name, daemon=True).start()
    return queues[:helpers]


def _serve(tasks):
    """What a helper does: one task after the other."""
    while True:
        work, ended = tasks.get()
        failure = None
        try:
            work()
        except BaseException as error:  # such as a MemoryError outside the chunks; who waits must not wait for ever
            failure = error
        del work  # so that its arrays are free before the next task
        ended.put(failure)
        del failure


@functools.cache
def _blas():
    """The BLAS libraries of this process, through which their number of threads is set."""
    import threadpoolctl  # here, so that `import minicnn` needs NumPy alone

    return threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers


def _after_fork_in_child():
    """Forget the threads of the parent: in the child only the one that forked exists."""
    _Helpers.forget()
    _current.chunk = _current.deferred = _current.meeting = None  # nobody waits for the end of this chunk
    single_threaded_blas.forget_other_threads()
    single_threaded_blas.lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=single_threaded_blas.lock.acquire,  # so that no other thread holds it in the child
        after_in_parent=single_threaded_blas.lock.release,
        after_in_child=_after_fork_in_child,
    )


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
    batch 32). And each thread has memory of its own, which is in the cache of its core: where the cores share no cache,
    a step of small_resnet takes 26 ms so instead of 30. Only glibc (Linux) has the setting; elsewhere nothing happens.
    It holds for the whole process; `MINICNN_KEEP_MEMORY=0` leaves the C library as it is.
    """
    if not sys.platform.startswith("linux") or os.environ.get("MINICNN_KEEP_MEMORY") == "0":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # the names of <malloc.h>
        mallopt(mmap_max, 0)  # large arrays come from the heap, too,
        mallopt(trim_threshold, 2**31 - 1)  # which does not shrink,
        mallopt(top_pad, 2**26)  # nor do the other threads' heaps, of which each part has this size
