"""minicnn compared with its own plain backend, PyTorch, Keras, JAX, textbook NumPy and the machine's limit, on the CPU.

    python benchmarks/cpu.py

Every contender runs in a process of its own with the same number of threads. They take turns in rounds: a machine that
gets slower or faster does so for all contenders, and what counts is the ratio within a round. README.md in this folder
explains the options and what is measured.
"""

# ruff: noqa: E402, the path comes before the imports

import argparse
import contextlib
import json
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # so that this checkout is imported, and no file of this folder instead of a library

from benchmarks import growth, report
from benchmarks.contenders.case import BEYOND, CONV64, LAYERS, NETWORKS, Case
from benchmarks.machine import import_times, machine
from benchmarks.turns import Patience, Worker

OURS = "ours"
CONTENDERS = (OURS, "plain", "floor", "pytorch", "pytorch_channels_last", "jax", "keras", "textbook")
GROUPS = {"lab": ("lenet5", "conv_pool", "two_conv"), "beyond": ("small_resnet", *BEYOND)}
NETS = (*GROUPS["lab"], *GROUPS["beyond"])
#: Who computes what only some do.
ONLY = {net: (OURS, "plain", "floor", "pytorch", "pytorch_channels_last") for net in GROUPS["beyond"]}
ONLY[CONV64] += ("jax",)
WITH_FIT = (OURS, "plain", "pytorch", "pytorch_channels_last", "jax", "keras")
SLOW = 4.0  # seconds; a contender whose turn takes longer leaves out the next round, except ours and PyTorch
LOSS_STEPS = 3
LOSS_TOLERANCES = (2e-5, 2e-4, 2e-4)  # float32 gives about 1e-7; Adam divides by gradients of which some are near zero
#: With batch normalization the third losses of PyTorch's two memory orders differ by 1e-4, too.
LOSS_TOLERANCES_OF = {"small_resnet": (2e-5, 2e-4, 5e-4)}


def options(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=(*GROUPS, *NETS),
        default=(*GROUPS["lab"], "small_resnet", CONV64),
        metavar="NET",
        help=f"networks, layers alone, or a group: {', '.join((*GROUPS, *NETS))}",
    )
    parser.add_argument("--batches", nargs="+", type=int, help="default: 32, 128, 512, or those of a network beyond")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="besides ours")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=12, help="at most; at least 3")
    parser.add_argument("--seconds", type=float, default=10, help="of rounds, for each quantity, net and batch")
    parser.add_argument("--turn", type=float, default=0.25, help="seconds of steps in a turn; one step at least")
    parser.add_argument(
        "--patience", type=float, help="seconds in total to wait until other processes are idle; 120, or 20 if quick"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, batch 32, no epochs; only plain, floor and PyTorch"
    )
    parser.add_argument("--images", type=int, help="in an epoch of fit; default: 512 to 8192, fewer for a slow net")
    parser.add_argument("--no-epochs", action="store_true", help="leave out the epochs of fit")
    parser.add_argument(
        "--profile", action="store_true", help="only the time of our step by layer, forward and backward"
    )
    parser.add_argument(
        "--growth", action="store_true", help="only our time and memory as the batch, the image and the data set grow"
    )
    parser.add_argument(
        "--python", nargs="*", default=(), metavar="NAME=PATH", help="another interpreter for a contender"
    )
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs", help="folder of the JSON and Markdown")
    chosen = parser.parse_args(arguments)
    chosen.nets = tuple(dict.fromkeys(net for name in chosen.nets for net in GROUPS.get(name, (name,))))
    if chosen.quick:
        if chosen.batches is None:
            chosen.batches = (32,)
        if chosen.contenders == CONTENDERS:
            chosen.contenders = (OURS, "plain", "floor", "pytorch", "pytorch_channels_last")
        chosen.seconds, chosen.rounds, chosen.no_epochs = min(chosen.seconds, 3), min(chosen.rounds, 4), True
    if chosen.patience is None:
        chosen.patience = 20 if chosen.quick else 120
    chosen.patience = Patience(chosen.patience)
    chosen.contenders = tuple(dict.fromkeys((OURS, *chosen.contenders)))
    chosen.python = dict(item.split("=", 1) for item in chosen.python)
    return chosen


def usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def main(arguments=None):
    chosen = options(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": machine(chosen.threads),
        "settings": {name: str(value) for name, value in vars(chosen).items()},
        "versions": {},
        "missing": {},
    }
    started = time.perf_counter()
    if chosen.profile:
        results["profile"] = [profile(net, batch, chosen) for net, batch in cases(chosen) if net not in LAYERS]
        name = "cpu-profile"
    elif chosen.growth:
        results["growth"] = growth.measure(chosen.threads, chosen.quick, say)
        name = "cpu-growth"
    else:
        results["cases"] = []
        for net, batch in cases(chosen):
            results["cases"].append(compare(net, batch, chosen, results))
            (chosen.out / "benchmark-cpu.json").write_text(json.dumps(results, indent=1))  # a run that is cut keeps it
        if "lenet5" in chosen.nets:
            results["fit_overhead"] = fit_overhead(chosen)
        say("import minicnn compared with import numpy")
        results["import"] = import_times(chosen.rounds)
        name = "cpu"
    results["seconds"] = round(time.perf_counter() - started, 1)
    results["goals"] = report.goals(results)
    text = report.markdown(results)
    print(text)
    for suffix, content in ((".json", json.dumps(results, indent=1)), (".md", text)):
        path = chosen.out / f"benchmark-{name}{suffix}"
        path.write_text(content)
        say(f"written: {path}")
    return results


def cases(chosen):
    """Every net at every batch that was chosen, or at its own ones."""
    own = {net: batches for net, (_, batches, _) in (NETWORKS | LAYERS).items()}
    return [(net, batch) for net in chosen.nets for batch in chosen.batches or own.get(net, (32, 128, 512))]


def compare(net, batch, chosen, results):
    """All contenders at one net and batch.

    Returns:
        {"net", "batch", "contenders": {name: {"note", "agrees", "peak", "step": [...], "infer": [...], ...}}};
        each time is [seconds, fraction of the processor that other processes used], one for each round.
    """
    say(f"{net}, batch {batch}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        Case(net, batch, pathlib.Path(folder), chosen.threads).write_data(chosen.images)
        names = [name for name in chosen.contenders if name not in results["missing"]]
        workers = {  # all load their libraries at the same time
            name: stack.enter_context(Worker(name, chosen.threads, chosen.python.get(name, sys.executable)))
            for name in names
            if name in ONLY.get(net, CONTENDERS)
        }
        for name, worker in list(workers.items()):
            if missing := worker.answer().get("missing"):
                if name == OURS:
                    raise RuntimeError(f"minicnn needs the package {missing}")
                del workers[name]
                results["missing"][name] = f"no package {missing}"
                say(f"  {name} is left out: no package {missing}")
        measured = {}
        for name, worker in workers.items():  # ours first: it makes the weights
            answer = worker.ask("start", net=net, batch=batch, folder=folder)
            results["versions"] |= answer["versions"]
            measured[name] = {"note": answer["note"]}
        for name, worker in workers.items():
            if name != "floor":
                measured[name]["losses"] = worker.ask("losses", steps=LOSS_STEPS if batch <= 128 else 2)["losses"]
                measured[name]["agrees"] = same(measured[name]["losses"], measured[OURS]["losses"], net)
        take_turns("step", workers, measured, chosen, seconds=chosen.turn)
        for name, worker in workers.items():
            measured[name]["peak"] = worker.ask("peak")["bytes"]
        take_turns("infer", workers, measured, chosen, seconds=chosen.turn)
        if not chosen.no_epochs and net not in BEYOND:
            with_fit = {name: worker for name, worker in workers.items() if name in WITH_FIT}
            take_turns("epoch", with_fit, measured, chosen)
    say(
        f"  {time.perf_counter() - started:.0f} s: "
        + "  ".join(
            f"{name} {1000 * statistics.median(report.times(its['step'])):.1f} ms" for name, its in measured.items()
        )
    )
    return {"net": net, "batch": batch, "contenders": measured}


def same(losses, ours, net):
    """Whether two contenders' losses agree in each step, that is, whether they compute the same."""
    return all(
        math.isclose(theirs, own, rel_tol=tolerance, abs_tol=1e-5)
        for *step, tolerance in zip(losses, ours, LOSS_TOLERANCES_OF.get(net, LOSS_TOLERANCES), strict=False)
        for theirs, own in zip(*step, strict=True)
    )


def take_turns(what, workers, measured, chosen, **arguments):
    """Rounds in which each contender has a turn, in alternating order, until the time is over."""
    started = time.perf_counter()
    for name in workers:
        measured[name][what] = []
    for index in range(max(3, chosen.rounds)):
        if index >= 3 and time.perf_counter() - started > chosen.seconds:
            break
        for name in list(workers)[:: -1 if index % 2 else 1]:
            times = measured[name][what]
            if times and times[-1] and times[-1][0] > SLOW and not name.startswith((OURS, "pytorch")):
                times.append(None)
                continue
            answer = workers[name].turn(what, chosen.patience, **arguments)
            times.append([answer["seconds"], round(answer["disturbed"], 3)])


def fit_overhead(chosen, net="lenet5", batch=32):
    """The times of an epoch of fit and of its steps alone, one answer for each round."""
    say("an epoch of fit compared with its steps alone")
    with alone(net, batch, chosen) as worker:
        worker.ask("call", method="fit_overhead")  # warm
        return [
            worker.turn("call", chosen.patience, method="fit_overhead")
            for _ in range(3 if chosen.quick else max(3, chosen.rounds))
        ]


def profile(net, batch, chosen):
    """The time of our step by layer, forward and backward."""
    say(f"profile of {net}, batch {batch}")
    with alone(net, batch, chosen) as worker:
        return {
            "net": net,
            "batch": batch,
            **worker.turn("call", chosen.patience, method="layer_times", arguments=[chosen.seconds / 4]),
        }


@contextlib.contextmanager
def alone(net, batch, chosen):
    """Our worker without any other contender."""
    with tempfile.TemporaryDirectory() as folder, Worker(OURS, chosen.threads) as worker:
        Case(net, batch, pathlib.Path(folder), chosen.threads).write_data(chosen.images)
        worker.answer()
        worker.ask("start", net=net, batch=batch, folder=folder)
        yield worker


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
