"""Where the time of a training step goes: by layer, forward and backward; the loss and the update.

A clock is wrapped around the `forward` of each layer and around the backward pass that it returns. Where the cores
compute chunks of a batch at the same time, the measured times are divided by the number of cores, so that the rows add
up to the time of the step.
"""

import functools
import threading
import time

from minicnn.backends.numpy.threads import current_chunk, thread_count

PREPARE = "batch to the layers' memory layout"


class Clock:
    """Adds up the wall-clock time of the functions that it wraps, in any thread.

    Attributes:
        seconds: `{key: seconds}`, the key as given to `wrap`.
    """

    def __init__(self):
        self.seconds = {}
        self.lock = threading.Lock()

    def wrap(self, function, *key):
        """The same function, with its time added up under the key."""

        @functools.wraps(function)
        def timed(*args, **kwargs):
            started = time.perf_counter()
            result = function(*args, **kwargs)
            seconds = time.perf_counter() - started
            if current_chunk() is not None:
                seconds /= thread_count()
            with self.lock:
                self.seconds[key] = self.seconds.get(key, 0) + seconds
            return result

        return timed

    def wrap_layer(self, name, layer):
        """Wrap the forward and the backward pass of a layer object."""
        forward = self.wrap(layer.forward, name, "forward")

        def timed_forward(x, training=False):
            y, backward = forward(x, training)
            return y, self.wrap(backward, name, "backward")

        layer.forward = timed_forward


def layer_times(model, step, loss, optimizer, seconds):
    """Time each part of a training step.

    Args:
        model: the network; its layers stay wrapped.
        step: a function of an index that does one training step on that batch.
        loss, optimizer: the objects that `step` uses; they stay wrapped.
        seconds: how long to measure.

    Returns:
        {"step": ms, "rows": [[name, forward ms, backward ms], ...]}; the loss and the update have only one time.
    """
    clock = Clock()
    for name, layer in zip(model.names, model.layers, strict=True):
        clock.wrap_layer(name, layer)
    model.prepare = clock.wrap(model.prepare, PREPARE, "forward")
    optimizer.step = clock.wrap(optimizer.step, "update", "backward")
    loss.compute = clock.wrap(loss.compute, "loss", "forward")
    step(0)
    clock.seconds.clear()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or steps < 3:
        step(steps)
        steps += 1
    step_ms = (time.perf_counter() - started) / steps * 1000
    names = list(dict.fromkeys([PREPARE, *model.names, "loss", "update"]))
    rows = [
        [name, *(clock.seconds.get((name, phase), 0) / steps * 1000 for phase in ("forward", "backward"))]
        for name in names
    ]
    rows = [row for row in rows if row[1] or row[2]]
    rest = step_ms - sum(forward + backward for _, forward, backward in rows)
    return {"step": step_ms, "rows": [*rows, ["the rest (joining chunks, waiting for cores)", rest, 0.0]]}
