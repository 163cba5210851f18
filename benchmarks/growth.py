"""How minicnn's time and memory grow with the batch, the image and the data set; each point in a new process."""

import json
import os
import subprocess
import sys
import time

from benchmarks.contenders.worker import forget_peak, peak_memory
from benchmarks.machine import ROOT

NETS = ("lenet5", "conv_pool", "two_conv")
BATCHES = (1, 8, 32, 128, 512, 1024, 2048, 4096)
SIDES = (28, 56, 112, 224)
SETS = (8_000, 32_000, 128_000, 500_000)
MIB = 2**20


def measure(threads, quick, say):
    """[(title, header, rows)] of all tables.

    Args:
        threads: how many minicnn may use.
        quick: whether to measure fewer points.
        say: called with a line about each point.
    """
    nets = NETS[:1] if quick else NETS
    batches = BATCHES[:5] if quick else BATCHES
    sides, sets = (SIDES[:2], SETS[:2]) if quick else (SIDES, SETS)

    def point(*arguments):
        say(" ".join(map(str, arguments)))
        count = str(threads)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "MINICNN_BACKEND": "numpy",
            "MINICNN_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
        }
        command = [sys.executable, "-m", "benchmarks.growth", *map(str, arguments)]
        return json.loads(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout)

    tables = []
    for net in nets:
        rows = [[f"{batch:,}", *point("batch", net, batch)] for batch in batches]
        tables.append((f"{net}: training as the batch grows", ["batch", "ms per image", "peak, MiB"], rows))
    header = ["image", "ms per image", "peak, MiB", "x, y, dx and dy", "the rest"]
    for channels in (3, 64):
        rows = [[f"{side} x {side}", *point("image", channels, side)] for side in sides]
        title = f"one convolution {channels} to 64 channels, 3x3, batch 32, forward and backward, as the image grows"
        tables.append((title, header, rows))
    header = ["images", "evaluate", "predict", "epoch of fit", "evaluate, us per image", "predict", "epoch of fit"]
    rows = [[f"{count:,}", *point("set", count)] for count in sets]
    title = "lenet5: memory besides the data set as it grows, MiB (predict returns 40 bytes per image)"
    tables.append((title, header, rows))
    return tables


def batch_point(net, batch):
    """Milliseconds per image and the peak memory of a training step."""
    import numpy as np

    import minicnn as mc

    rng = np.random.default_rng(0)
    x, labels = rng.random((batch, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, batch)
    model = getattr(mc.networks, net)()
    optimizer = mc.Adam() if net == "lenet5" else mc.SGD(0.01)
    loss_function = mc.SoftmaxCrossEntropy()

    def step():
        logits, backward = model.forward(x, training=True)
        _, dlogits = loss_function(logits, labels)
        backward(dlogits, input_gradient=False)
        optimizer.step(model.parameters())

    return [f"{1000 * best_time(step) / batch:.3f}", f"{peak_memory() / MIB:.0f}"]


def image_point(channels, side, batch=32):
    """Milliseconds per image and the peak memory of one convolution."""
    import numpy as np

    import minicnn as mc

    x = np.random.default_rng(0).random((batch, channels, side, side), dtype=np.float32)
    dy = np.ones((batch, 64, side, side), np.float32)
    model = mc.Sequential([mc.Conv2D(64, 3, padding="same")], input_shape=x.shape[1:])

    def step():
        y, backward = model.forward(x, training=True)
        backward(dy)
        for parameter in model.parameters().values():
            parameter.clear_gradient()
        del y

    milliseconds = 1000 * best_time(step) / batch
    arrays = 2 * (x.nbytes + dy.nbytes)
    sizes = [peak_memory(), arrays, peak_memory() - arrays]
    return [f"{milliseconds:.2f}", *(f"{size / MIB:.0f}" for size in sizes)]


def set_point(count):
    """The memory that evaluate, predict and an epoch of fit need besides the images, and their time per image."""
    import numpy as np

    import minicnn as mc

    rng = np.random.default_rng(0)
    x, labels = rng.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8), rng.integers(0, 10, count)
    model = mc.networks.lenet5()
    uses = {
        "evaluate": lambda: model.evaluate(x, labels),
        "predict": lambda: model.predict(x),
        "fit": lambda: model.fit(x, labels, epochs=1, batch_size=128, verbose=False),
    }
    memory, times = [], []
    for use in uses.values():
        forget_peak()
        started = time.perf_counter()
        use()
        times.append(f"{(time.perf_counter() - started) / count * 1e6:.0f}")
        memory.append(f"{(peak_memory() - x.nbytes - labels.nbytes) / MIB:.0f}")
    return [*memory, *times]


def best_time(step):
    """The shortest time of a few steps, in seconds: here nothing is compared with another library."""
    times = []
    while len(times) < 3 or (sum(times) < 2 and len(times) < 50):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    point = {"batch": batch_point, "image": image_point, "set": set_point}[kind]
    print(json.dumps(point(*(int(item) if item.isdigit() else item for item in arguments))))
