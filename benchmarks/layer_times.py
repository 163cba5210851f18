"""Where a training step's time goes: by layer, forward and back, the loss and the update.

Each layer's `forward` and way back are wrapped in a clock. Where the cores work on parts of a batch at the
same time, the clocks' times are divided by the number of cores, so that the rows add up to the step's time.
"""

import functools
import threading
import time

from minicnn.threads import current_part, thread_count


class Clock:
    """Adds up the wall-clock time of what it is wrapped around, from any thread."""

    def __init__(self):
        self.seconds = {}
        self.lock = threading.Lock()

    def wrap(self, function, *key):
        @functools.wraps(function)
        def timed(*args, **kwargs):
            started = time.perf_counter()
            result = function(*args, **kwargs)
            seconds = time.perf_counter() - started
            if current_part() is not None:
                seconds /= thread_count()
            with self.lock:
                self.seconds[key] = self.seconds.get(key, 0) + seconds
            return result

        return timed

    def wrap_layer(self, name, layer):
        forward = self.wrap(layer.forward, name, "forward")

        def timed_forward(x, training=False):
            y, backward = forward(x, training)
            return y, self.wrap(backward, name, "back")

        layer.forward = timed_forward


def layer_times(model, step, loss, optimizer, seconds):
    """Time the parts of a step.

    Args:
        model: the network; its layers stay wrapped.
        step: a function of the step's number that does one training step.
        loss, optimizer: as the step uses them; `loss` is given back wrapped.
        seconds: for how long to step.

    Returns:
        {"step": ms, "rows": [[name, forward ms, back ms], ...]}; loss and update have only one time.
    """
    clock = Clock()
    for name, layer in zip(model.names, model.layers, strict=True):
        clock.wrap_layer(name, layer)
    model.prepare = clock.wrap(model.prepare, "batch to the layers' memory order", "forward")
    optimizer.step = clock.wrap(optimizer.step, "update", "back")
    loss.compute = clock.wrap(loss.compute, "loss", "forward")
    step(0)
    clock.seconds.clear()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or steps < 3:
        step(steps)
        steps += 1
    step_ms = (time.perf_counter() - started) / steps * 1000
    names = list(dict.fromkeys(["batch to the layers' memory order", *model.names, "loss", "update"]))
    rows = [
        [name, *(clock.seconds.get((name, phase), 0) / steps * 1000 for phase in ("forward", "back"))] for name in names
    ]
    rows = [row for row in rows if row[1] or row[2]]
    rest = step_ms - sum(forward + back for _, forward, back in rows)
    return {"step": step_ms, "rows": [*rows, ["the rest (joining parts, waiting for cores)", rest, 0.0]]}
