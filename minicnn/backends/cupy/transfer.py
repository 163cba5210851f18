"""From main memory to the GPU: the indices of an epoch at once, and batches while the GPU computes."""

import itertools

import numpy as np


def indices_on_device(xp, rows):
    """The indices of an epoch's batches on the device, moved there by one copy.

    Args:
        xp: the array module.
        rows: a list with the rows of each batch, slices or NumPy arrays of indices.

    Returns:
        `{id of an array: (the array, the same on the device)}`.
    """
    arrays = [item for item in rows if isinstance(item, np.ndarray)]
    if not arrays:
        return {}
    on_device = xp.asarray(np.concatenate(arrays))
    ends = list(itertools.accumulate(map(len, arrays)))
    starts = [0, *ends[:-1]]
    return {id(item): (item, on_device[start:end]) for item, start, end in zip(arrays, starts, ends, strict=True)}


def prefetch(xp, batches):
    """Yield batches on the device. The next one is copied there while the computation with this one is under way.

    The copies run in a stream of their own, from pinned memory, into two buffers that take turns.

    Args:
        xp: the array module.
        batches: an iterator of NumPy arrays, the first one the largest; arrays on the device are yielded as they are.

    Yields:
        a batch. Its memory is overwritten when the next but one is requested.
    """
    first = next(batches, None)
    if first is None:
        return
    if isinstance(first, xp.ndarray):
        yield first
        yield from batches
        return
    computing, copying = xp.cuda.get_current_stream(), xp.cuda.Stream(non_blocking=True)
    current, following = (_Buffer(xp, first, copying, free=computing.record()) for _ in range(2))
    try:
        current.load(first)
        while current.length:
            following.load(next(batches, None))
            computing.wait_event(current.arrived)
            yield current.device[: current.length]
            current.free = computing.record()
            current, following = following, current
    finally:
        copying.synchronize()  # before the memory is used for something else


class _Buffer:
    """Memory for a batch on both sides of a copy.

    Args:
        xp: the array module.
        batch: the largest that there will be, a NumPy array.
        stream: of the copies.
        free: the event after which the memory on the device is no longer in use.
    """

    def __init__(self, xp, batch, stream, free):
        self.stream, self.free, self.arrived, self.length = stream, free, None, 0
        memory = xp.cuda.alloc_pinned_memory(batch.nbytes)
        self.host = np.frombuffer(memory, batch.dtype, batch.size).reshape(batch.shape)
        self.device = xp.empty(batch.shape, dtype=batch.dtype)

    def load(self, batch):
        """Start the copy of a batch, or of none. Only the copy before it from the same memory is waited for."""
        self.length = 0 if batch is None else len(batch)
        if not self.length:
            return
        if self.arrived is not None:
            self.arrived.synchronize()
        self.host[: self.length] = batch
        self.stream.wait_event(self.free)
        self.device[: self.length].set(self.host[: self.length], stream=self.stream)
        self.arrived = self.stream.record()
