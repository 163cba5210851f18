"""The next batch is prepared while this one is computed, where that takes more than a look into memory.

Changed images (`minicnn.Augmentation`) are computed, and those of a file are read, in a thread of their own. It
prepares one batch and ends: nothing runs on when the training stops, and a forked child, in which the thread does not
exist, prepares the batch itself.
"""

import contextvars
import functools
import mmap
import threading

import numpy as np


def is_in_memory(x):
    """Whether a data set is an array whose memory is not that of a file.

    >>> is_in_memory(np.zeros(3))
    True
    """
    if not isinstance(x, np.ndarray):
        return False
    while isinstance(x, np.ndarray):
        x = x.base
    return not isinstance(x, mmap.mmap)


def prefetch(function, arguments):
    """Yield `function(argument)` for each argument; the next result is computed while the present one is in use.

    An error is raised when the result is requested. When the iterator is closed, it waits until nothing is computed.

    >>> list(prefetch(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    following = None
    try:
        for index, argument in enumerate(arguments):
            result = function(argument) if following is None else following.result()
            following = _Following(function, arguments[index + 1]) if index + 1 < len(arguments) else None
            yield result
    finally:
        if following is not None:
            following.wait()


class _Following:
    """A result that is computed in a thread."""

    def __init__(self, function, argument):
        self.compute = functools.partial(function, argument)
        self.value = self.error = None
        self.is_done = False
        context = contextvars.copy_context()  # np.errstate holds there, too
        self.thread = threading.Thread(target=context.run, args=(self._run,), name="minicnn-batch", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:  # no more threads are allowed: it is computed when it is requested
            self.thread = None

    def wait(self):
        """Wait until nothing is computed."""
        if self.thread is not None:
            self.thread.join()

    def _run(self):
        try:
            self.value = self.compute()
        except BaseException as error:  # raised again in the calling thread
            self.error = error
        self.is_done = True

    def result(self):
        self.wait()
        if not self.is_done:  # there is no thread, or it did not survive a fork
            return self.compute()
        error, self.error = self.error, None  # no cycle of error, frame and this object
        if error is not None:
            raise error
        return self.value
