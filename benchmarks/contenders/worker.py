"""The process of one contender: reads what to do from its input, answers on its output, and sleeps in between.

Run as `python -m benchmarks.contenders.worker pytorch 2`, the number being the threads it may use. It first says
whether its library could be loaded; then each line in is a JSON object with an "ask", and each line out the answer.
A contender is a module here with `make(case)`; what that returns has

    step(i)         one training step on batch i: forward, loss, backward, optimizer; returns the loss
    infer(i)        the probabilities of batch i
    epoch()         one epoch over all images as the library's users write it; contenders without `fit` have none
    note            what else a reader should know, or ""
    versions        {"library": "version"}
"""

import contextlib
import importlib
import json
import os
import pathlib
import resource
import sys
import time

import numpy as np

from benchmarks.contenders.case import Case


def serve(name, threads):
    """Load the library, then answer questions until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes where the errors go
    if hasattr(os, "sched_setaffinity"):  # some libraries count the cores that they may use and ask nobody
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        module = importlib.import_module(f"benchmarks.contenders.{name}")
        answer = {}
    except ModuleNotFoundError as error:
        answer = {"missing": error.name}
    print(json.dumps(answer), file=answers, flush=True)
    contender = None
    for line in sys.stdin:
        question = json.loads(line)
        ask = question.pop("ask")
        if ask == "start":
            contender = module.make(Case(question["net"], question["batch"], pathlib.Path(question["folder"]), threads))
            forget_peak()
            answer = {"note": contender.note, "versions": contender.versions}
        else:
            answer = globals()[f"answer_{ask}"](contender, **question)
        print(json.dumps(answer), file=answers, flush=True)


def answer_losses(contender, steps):
    """The losses of the first steps, or whatever numbers a step gives."""
    return {"losses": [np.ravel(contender.step(i)).tolist() for i in range(steps)]}


def answer_step(contender, seconds):
    return {"seconds": median_time(contender.step, seconds)}


def answer_infer(contender, seconds):
    return {"seconds": median_time(contender.infer, seconds)}


def answer_epoch(contender):
    started = time.perf_counter()
    contender.epoch()
    return {"seconds": time.perf_counter() - started}


def answer_peak(contender):
    return {"bytes": peak_memory()}


def answer_call(contender, method, arguments=()):
    """Anything else that only one contender can do."""
    return getattr(contender, method)(*arguments)


def median_time(function, seconds):
    """The median time of a call, of as many as fit into the seconds, after one that does not count."""
    started = time.perf_counter()
    function(0)
    first = time.perf_counter() - started
    if first > seconds:
        return first  # too slow to be done twice, and so slow that a cold start does not matter
    times = []
    while sum(times) < seconds:
        before = time.perf_counter()
        function(len(times) + 1)
        times.append(time.perf_counter() - before)
    return float(np.median(times))


def forget_peak():
    """Let the peak of memory count from now on (Linux only): moving the weights over is no training."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory():
    """The most memory this process has held, in bytes; on Linux since `forget_peak`."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
