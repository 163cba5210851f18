"""The process of one contender: reads questions from its input, writes answers to its output, and waits in between.

Run as `python -m benchmarks.contenders.worker pytorch 2`; the number is how many threads it may use. It first reports
whether its library could be loaded. Then each line of the input is a JSON object with an "ask", and each line of the
output is the answer. A contender is a module in this folder with a function `make(case)`, which returns an object with

    step(i)         one training step on batch i: forward, loss, backward, optimizer; returns the loss
    infer(i)        the probabilities of batch i
    epoch()         one epoch over all images as the library's users write it; some contenders have none
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
    os.dup2(2, 1)  # what a library prints goes to the error output
    if hasattr(os, "sched_setaffinity"):  # some libraries do not ask how many threads they may use, and count the cores
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
    """The losses of the first steps, or the other numbers that a step returns."""
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
    """The result of any other method of the contender."""
    return getattr(contender, method)(*arguments)


def median_time(function, seconds):
    """The median time of as many calls as fit into the seconds, after a first call that does not count."""
    started = time.perf_counter()
    function(0)
    first = time.perf_counter() - started
    if first > seconds:
        return first  # too slow to be called twice, and so slow that a cold start does not matter
    times = []
    while sum(times) < seconds:
        before = time.perf_counter()
        function(len(times) + 1)
        times.append(time.perf_counter() - before)
    return float(np.median(times))


def forget_peak():
    """Measure the peak memory from now on (Linux only), so that loading the weights does not count."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory():
    """The most memory that this process has used, in bytes; on Linux since `forget_peak`."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
