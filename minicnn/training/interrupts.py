"""Ctrl-C that does not break a batch in two.

The first Ctrl-C (SIGINT), or a request to end (SIGTERM), is only recorded: the
loop checks for it after each batch and ends in good order. The second one
has its usual effect, immediately.
"""

import contextlib
import os
import signal
import threading


class Interrupts:
    """A block in which the first SIGINT or SIGTERM is recorded instead of handled.

    Signals reach Python's main thread only; in any other thread the block changes nothing. A signal that the
    process ignores stays ignored.

    Attributes:
        requested: the signal (`signal.Signals`) once one has come, None before.
        is_quiet: True where another process says that it has come.

    >>> with Interrupts() as interrupts:
    ...     interrupts.requested is None
    True
    """

    def __init__(self):
        self.requested = None
        self.is_quiet = False
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):  # None: a handler that Python does not know
                    self._before[number] = handler
                    signal.signal(number, self._record)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _record(self, number, frame):
        if self.requested is not None:
            self.__exit__()
            signal.raise_signal(number)
            return
        self.requested = signal.Signals(number)
        if self.is_quiet:
            return
        with contextlib.suppress(OSError):  # not by print: the signal may have come in the middle of one
            os.write(2, b"\nfinishing this batch; once more stops immediately\n")
