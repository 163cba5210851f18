"""minicnn and PyTorch on the same GPU: python benchmarks/gpu.py

The three networks of the lab, a training step at batch 32, 128, 512 and 4096, each library in turns in one process.
minicnn runs as `fit` does, as one recorded CUDA graph (`ours`), and kernel by kernel; PyTorch eager, compiled
(`torch.compile`), and as one captured CUDA graph. With the times, two limits of the device are printed, which are
measured here: the step's multiply-adds at the rate of a large matrix product, and the memory traffic of the weights
(read forward, backward and by the update, and written; with Adam its two means, too) at the rate of a large copy.
"""

import argparse
import functools
import statistics
import sys
import time

import numpy as np

import minicnn as mc
from minicnn.backends.cupy.recording import RecordedStep

NETWORKS = ("lenet5", "conv_pool", "two_conv")
BATCHES = (32, 128, 512, 4096)
GOALS = {"lenet5": (0.5, 8), "conv_pool": (1.0, 10), "two_conv": (1.0, 30)}  # of PyTorch eager; us an image, batch 32


def ours(name, x, labels, recorded):
    """A training step of minicnn, as a function without arguments; recorded, or kernel by kernel."""
    model, loss_function = getattr(mc.networks, name)(), mc.SoftmaxCrossEntropy()
    optimizer = mc.Adam() if name == "lenet5" else mc.SGD(0.01)
    x, labels, parameters = mc.to_device(x), mc.to_device(labels), model.parameters()
    if recorded:
        recorded_step = RecordedStep(mc.backends.current(), model, loss_function, optimizer)
        return functools.partial(recorded_step, x, labels)

    def step():
        logits, backward = model.forward(x, training=True)
        _, dlogits = loss_function.compute(logits, labels)
        backward(dlogits, input_gradient=False)
        optimizer.step(parameters)

    return step


def pytorch(name, x, labels, how):
    """A training step of PyTorch: "eager", "compiled" or "graph"."""
    import torch
    from torch import nn

    layers = []
    for layer in getattr(mc.networks, name)(input_shape=None).layers[:-1]:
        layers.append(
            {
                "Conv2D": lambda item: nn.LazyConv2d(
                    item.filters, item.kernel_size, padding="same" if item.padding == "same" else 0
                ),
                "Dense": lambda item: nn.LazyLinear(item.units),
                "ReLU": lambda item: nn.ReLU(),
                "Tanh": lambda item: nn.Tanh(),
                "MaxPool2D": lambda item: nn.MaxPool2d(2),
                "AvgPool2D": lambda item: nn.AvgPool2d(2),
                "Flatten": lambda item: nn.Flatten(),
            }[type(layer).__name__](layer)
        )
    model = nn.Sequential(*layers).cuda()
    x, labels = torch.tensor(x).cuda(), torch.tensor(labels).cuda()
    model(x)  # the lazy layers are built for its shape
    graph = how == "graph"
    if name == "lenet5":
        optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=graph)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    loss_function = nn.CrossEntropyLoss()
    network = torch.compile(model) if how == "compiled" else model

    def step():
        optimizer.zero_grad(set_to_none=not graph)
        loss_function(network(x), labels).backward()
        optimizer.step()

    if not graph:
        return step
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    return captured.replay


def timed(step, synchronize, seconds):
    """Milliseconds a step, over steps that fill so many seconds."""
    step()
    synchronize()
    count, started = 0, time.perf_counter()
    while not count or time.perf_counter() - started < seconds:
        for _ in range(5):
            step()
        synchronize()
        count += 5
    return 1000 * (time.perf_counter() - started) / count


def limits(cupy):
    """Multiply-adds and bytes a second of this device: a product of 8192 x 8192, a copy of 1 GiB."""
    a = cupy.ones((8192, 8192), dtype="float32")
    b = cupy.empty((2**28,), dtype="float32")
    c = cupy.empty_like(b)
    product = timed(lambda: a @ a, cupy.cuda.Device().synchronize, 0.5)
    copy = timed(lambda: cupy.copyto(c, b), cupy.cuda.Device().synchronize, 0.5)
    return 8192**3 / product * 1000, 2 * b.nbytes / copy * 1000


def main():
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender")
    parser.add_argument("--seconds", type=float, default=0.3, help="of steps in a turn")
    arguments = parser.parse_args()
    try:
        mc.use("cupy")
    except mc.BackendError as error:
        print(f"this benchmark needs a GPU: {error}", file=sys.stderr)
        return 1
    cupy = mc.backends.current().xp
    try:
        import torch
    except ImportError:
        torch = None
        print("PyTorch is not installed: left out")
    if torch is not None and not torch.cuda.is_available():
        torch = None
        print("this PyTorch cannot use the GPU: left out")
    rate, bandwidth = limits(cupy)
    print(f"{cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}: ", end="")
    print(f"{rate / 1e12:.1f} T multiply-adds/s in float32, {bandwidth / 1e9:.0f} GB/s")
    print(f"{'network':10} {'batch':>5}  {'contender':10} {'ms a step':>10} {'us an image':>12}  of PyTorch eager")
    rng = np.random.default_rng(0)
    for name in NETWORKS:
        for batch in BATCHES:
            x, labels = rng.random((batch, 1, 28, 28), dtype="float32"), rng.integers(0, 10, batch)
            ready = cupy.cuda.Device().synchronize
            steps = {"ours": (ours(name, x, labels, True), ready), "by kernels": (ours(name, x, labels, False), ready)}
            steps["ours"][0]()  # the first one runs kernel by kernel, the second is recorded
            for how in ("eager", "compiled", "graph") if torch else ():
                try:
                    step = pytorch(name, x, labels, how)
                    timed(step, torch.cuda.synchronize, 0)  # compiles what is compiled, or fails to
                    steps[how] = (step, torch.cuda.synchronize)
                except Exception as error:  # of many kinds, as the compilers behind it are
                    print(f"{name} {batch} {how}: left out, {type(error).__name__}: {str(error).splitlines()[0]}")
            times = {contender: [] for contender in steps}
            for _ in range(arguments.rounds):
                for contender, (step, synchronize) in steps.items():
                    times[contender].append(timed(step, synchronize, arguments.seconds))
            for contender, found in times.items():
                ratio = ""
                if "eager" in times:
                    ratios = [a / b for a, b in zip(found, times["eager"], strict=True)]
                    ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} {max(ratios):.2f}]"
                middle = statistics.median(found)
                print(f"{name:10} {batch:5}  {contender:10} {middle:10.3f} {1000 * middle / batch:12.2f}  {ratio}")
            model = getattr(mc.networks, name)()
            work = 3 * batch * model.multiply_adds(model.input_shape) / rate  # forward, and two products backward
            moved = model.count_parameters() * 4 * (8 if name == "lenet5" else 4) / bandwidth
            fraction = 1000 * max(work, moved) / statistics.median(times["ours"])
            print(
                f"{name:10} {batch:5}  limits: arithmetic {1000 * work:.3f} ms, weights {1000 * moved:.3f} ms; "
                f"the larger is {fraction:.0%} of our step"
            )
            if batch == 32:
                most, microseconds = GOALS[name]
                image = 1000 * statistics.median(times["ours"]) / batch
                reached = "reached" if image <= microseconds else "missed"
                print(f"{name:10} {batch:5}  goal: at most {microseconds} us an image: {reached}", end="")
                if "eager" in times:
                    middle = statistics.median(a / b for a, b in zip(times["ours"], times["eager"], strict=True))
                    print(f"; {most} of PyTorch eager: {'reached' if middle <= most else 'missed'}", end="")
                print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
