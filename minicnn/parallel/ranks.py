"""The ranks of a run, and what they say to each other.

Every rank holds the model and runs the same lines. They differ in the images
that they see, and rank 0 alone writes files, shows the progress and calls the
callbacks; what it decides, it tells the others. Two rules keep them together:

- A sum is added up in the order of the ranks, everywhere. (MPI's own sum, allreduce, has another order in each MPI.)
- A rank never leaves alone. Where all ranks know of an error they all raise it, after the same step. An error that
  one rank has by itself ends the processes of all, because the others wait for it.

Arrays travel as they are in memory, and everything else as JSON: nothing is pickled.
"""

import contextlib
import hashlib
import itertools
import json
import os
import sys
import time
import traceback
import warnings

import numpy as np

from minicnn import console
from minicnn.core import errors
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError, MinicnnError, MissingPackageError

SMALL = 2**14  # bytes up to which a sum takes one message: every rank adds up everything
BLOCK = 2**26  # bytes of a file that are sent at a time
PAUSE = 0.5  # seconds that a rank gives the one before it to report an error that both have


class Ranks:
    """The ranks of a communicator; without one, this process alone. For a `with` block, which no rank leaves alone.

    Args:
        communicator: one of mpi4py, such as `MPI.COMM_WORLD`, or None.

    Attributes:
        size, rank: how many ranks there are, and which one this is.
        counts: how many images of the current batch each rank has.
        signal: the signal that ends the run on all ranks, or None.

    Raises:
        InputError: something that is not a communicator.

    >>> ranks = Ranks()
    >>> ranks.size, ranks.rank, ranks.shard(np.arange(3))
    (1, 0, array([0, 1, 2]))
    """

    def __init__(self, communicator=None):
        self.communicator, self.size, self.rank = communicator, 1, 0
        if communicator is not None:
            if not all(hasattr(communicator, name) for name in ("Get_size", "Allgatherv", "Alltoallv", "Abort")):
                raise InputError(
                    f"fit needs a communicator of mpi4py, such as MPI.COMM_WORLD, got {quoted(communicator)}"
                )
            self.size, self.rank = communicator.Get_size(), communicator.Get_rank()
        self.is_first = self.rank == 0
        self.counts = [0] * self.size
        self.signal = self._interrupts = None
        self._shared_error = None

    def __enter__(self):
        if self.size > 1:
            self._divide_cores()
        return self

    def __exit__(self, kind, error, _):
        if error is None or self.size == 1:
            return
        if self.all_raise(error):
            if not self.is_first:
                _report_on_the_first_rank(error, self.rank)
        else:
            self._abort(error)

    # Pieces of a batch

    def begin_batch(self, N):
        """Before a batch of N images: note how many each rank has."""
        self.counts = [stop - start for start, stop in itertools.pairwise(edges(N, self.size))]

    @property
    def count(self):
        """How many images of the current batch this rank has."""
        return self.counts[self.rank]

    def shard(self, batch):
        """This rank's piece of a batch.

        Where a batch has fewer images than there are ranks, some have none. Such a rank computes with the batch's first
        image, so that it takes part in everything, and its numbers are left out of every sum.
        """
        start, stop = edges(len(batch), self.size)[self.rank :][:2]
        return batch[start:stop] if stop > start else batch[:1]

    # Numbers

    def gather(self, array):
        """The arrays of all ranks, which have one shape: (ranks, *shape)."""
        if self.size == 1:
            return array[None]
        gathered = np.empty((self.size, *array.shape), array.dtype)
        self.communicator.Allgather(np.ascontiguousarray(array), gathered)
        return gathered

    def gather_flat(self, array, lengths):
        """The arrays of all ranks one after the other, in a flat array; `lengths` are their numbers of elements."""
        gathered = np.empty(sum(lengths), array.dtype)
        self.communicator.Allgatherv(np.ascontiguousarray(array).reshape(-1), [gathered, lengths])
        return gathered

    def swap(self, pieces, shapes):
        """Send one array to each rank, and receive one from each: a list of arrays of these shapes."""
        send = np.concatenate([np.ascontiguousarray(piece).reshape(-1) for piece in pieces])
        lengths = [int(np.prod(shape)) for shape in shapes]
        received = np.empty(sum(lengths), send.dtype)
        self.communicator.Alltoallv([send, [piece.size for piece in pieces]], [received, lengths])
        cuts = np.cumsum(lengths)[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(received, cuts), shapes, strict=True)]

    def sum(self, array, contributes=None):
        """The sum over the ranks of arrays of one shape, in their order: on every rank the same bits.

        Each rank adds up one slice of the array for all: it sends and receives twice the array, whatever the number
        of ranks.

        Args:
            array: this rank's array.
            contributes: for each rank whether it is part of the sum; by default those with images of the batch.
        """
        contributes = self.counts if contributes is None else contributes
        if array.nbytes <= SMALL:
            return _sum(self.gather(array), contributes)
        flat, cuts = np.ascontiguousarray(array).reshape(-1), edges(array.size, self.size)
        slices = [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
        own = cuts[self.rank + 1] - cuts[self.rank]
        parts = self.swap([flat[part] for part in slices], [(own,)] * self.size)
        return self.gather_flat(_sum(parts, contributes), list(np.diff(cuts))).reshape(array.shape)

    # Plain values, decisions and errors

    def gather_values(self, value):
        """The plain values (JSON) of all ranks, a list."""
        if self.size == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = self.gather(np.array([text.size]))[:, 0].tolist()
        texts = np.split(self.gather_flat(text, lengths), np.cumsum(lengths)[:-1])
        return [json.loads(part.tobytes()) for part in texts]

    def send(self, value=None):
        """A plain value (JSON) of rank 0, on every rank."""
        if self.size == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8) if self.is_first else None
        length = np.array([text.size if self.is_first else 0])
        self.communicator.Bcast(length)
        text = text.copy() if self.is_first else np.empty(length[0], np.uint8)
        self.communicator.Bcast(text)
        return json.loads(text.tobytes())

    def first(self, function):
        """`function()`, which rank 0 alone calls; what it returns, a plain value, or raises, is that of every rank."""
        if self.size == 1:
            return function()
        value = error = None
        if self.is_first:
            try:
                value = function()
            except Exception as raised:
                error = raised
        failure, value = self.send((describe_error(error), value))
        if failure is not None:
            raise self.shared(error or made_error(failure))
        return value

    def together(self, function):
        """`function()` on every rank; where it raises an exception on one of them, all raise one."""
        if self.size == 1:
            return function()
        value = error = None
        try:
            value = function()
        except Exception as raised:
            error = raised
        failures = self.gather_values(describe_error(error))
        for rank, failure in enumerate(failures):
            if failure is not None:
                raise self.shared(error or made_error(failure, f"rank {rank}: "))
        return value

    def check_same(self, value, differences):
        """Refuse to go on where a plain value, such as all settings, is not the same on all ranks; a hash is compared.

        Args:
            value: the value.
            differences: a function of two values, of rank 0 and of another, to texts that say what differs.

        Raises:
            InputError: it is not; on every rank.
        """
        text = json.dumps(value, sort_keys=True).encode()
        if len(set(self.gather_values(hashlib.blake2b(text).hexdigest()))) == 1:
            return
        first, *others = self.gather_values(value)
        found = [f"rank {rank}: {text}" for rank, other in enumerate(others, 1) for text in differences(first, other)]
        raise self.shared(
            InputError(
                f"the ranks were given different data or settings: {'; '.join(found[:8])}. Every rank must call fit "
                "with the same: draw nothing without a seed, and read the same files"
            )
        )

    def all_raise(self, error):
        """Whether an error is one that every rank raises now."""
        return error is self._shared_error

    def shared(self, error):
        """An error that every rank raises now, so that none waits for another."""
        self._shared_error = error
        return error

    def send_file(self, path):
        """Yield, on the ranks but the first, the pieces of a file that rank 0 reads; for rank 0, nothing."""
        size = self.first(lambda: os.stat(path).st_size)
        with open(path, "rb") if self.is_first else contextlib.nullcontext() as file:
            for start in range(0, size, BLOCK):
                length = min(BLOCK, size - start)
                piece = (
                    np.frombuffer(file.read(length), np.uint8).copy() if self.is_first else np.empty(length, np.uint8)
                )
                self.communicator.Bcast(piece)
                if not self.is_first:
                    yield piece

    # Signals

    def watch(self, interrupts):
        """Note the block of `Interrupts` whose signals end the run."""
        self._interrupts = interrupts
        interrupts.is_quiet = not self.is_first

    @property
    def own_signal(self):
        """The number of the signal that this rank has received, 0 for none."""
        requested = self._interrupts.requested if self._interrupts is not None else None
        return 0 if requested is None else int(requested)

    def agree(self, signals=None):
        """Make the first signal that a rank has received that of all; `signals` are the ranks' own, if known."""
        if signals is None:
            signals = self.gather(np.array([self.own_signal]))[:, 0]
        received = [int(number) for number in signals if number]
        if self.signal is None and received:
            self.signal = received[0]
        return self.signal

    def ends(self):
        """Whether a signal ends the run after this batch; on several ranks as the batch's exchange has said."""
        return self.agree() if self.size == 1 else self.signal

    # The machine

    @contextlib.contextmanager
    def warnings_once(self):
        """A block in which rank 0 alone shows the library's warnings."""
        with contextlib.nullcontext() if self.is_first else warnings.catch_warnings():
            if not self.is_first:
                warnings.simplefilter("ignore", UserWarning)
            yield

    def _divide_cores(self):
        """Let the ranks of one machine share its cores, where `MINICNN_THREADS` says nothing: each has as many."""
        import socket  # here, so that `import minicnn` is quick

        cores = (
            sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        )
        machines = {}
        for name, its_cores in self.gather_values([socket.gethostname(), cores]):
            machines.setdefault(name, []).append(its_cores)
        threads = min(len(set().union(*ranks)) // len(ranks) for ranks in machines.values())
        os.environ.setdefault("MINICNN_THREADS", str(max(1, threads)))

    def _abort(self, error):
        """Report an error that this rank alone may have, and end the processes of all ranks."""
        time.sleep(
            min(PAUSE * self.rank, 10 * PAUSE)
        )  # an error that all have is reported by the first, which ends all
        code = 1
        if isinstance(error, SystemExit):
            text = f"sys.exit({quoted(error.code) if error.code is not None else ''})"
            code = error.code if isinstance(error.code, int) and error.code else 1
        elif isinstance(error, KeyboardInterrupt):
            text, code = "stopped immediately", 130
        else:
            text = "".join(traceback.format_exception(error)).rstrip()
        console.show_error(f"{text}\nrank {self.rank} of {self.size} failed in fit: all ranks end")
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        time.sleep(PAUSE / 2)  # what was printed has to reach mpiexec, which ends its own processes at once, too
        self.communicator.Abort(code)
        os._exit(code)  # an MPI may return from Abort, and Python would report the error once more


def edges(length, size):
    """Where `range(length)` is cut into pieces for some ranks, of about the same length.

    >>> edges(10, 4)
    [0, 2, 5, 7, 10]
    """
    return [length * rank // size for rank in range(size + 1)]


def world():
    """mpi4py's `MPI.COMM_WORLD`: all processes that `mpiexec` started.

    Raises:
        MissingPackageError: mpi4py is not installed.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py without an MPI raises the second
        raise MissingPackageError(
            "training on several processes needs mpi4py and an MPI: pip install 'minicnn-numpy[mpi]'"
        ) from error
    return MPI.COMM_WORLD


def _sum(arrays, contributes):
    """The sum of the ranks' arrays in their order, of those that contribute."""
    total = None
    for array, counts in zip(arrays, contributes, strict=True):
        if counts:
            total = array if total is None else total + array
    return total


def describe_error(error):
    """An error as a plain value; None for None."""
    return None if error is None else [type(error).__name__, str(error)]


def made_error(described, where="rank 0: "):
    """The error that another rank described, of the same class where it is one of the library's own."""
    name, text = described
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, MinicnnError):
        return kind(where + text)
    return MinicnnError(f"{where}{name}: {text}")


def _report_on_the_first_rank(error, rank):
    """Where nothing catches an error that all ranks raise, let rank 0 alone show it."""
    before = sys.excepthook

    def hook(kind, raised, trace):
        if raised is error:
            time.sleep(min(PAUSE * rank, 10 * PAUSE))  # rank 0 may end all of them
        else:
            before(kind, raised, trace)

    sys.excepthook = hook
