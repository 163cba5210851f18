"""Training on several processes: minicnn in one and on those of MPI, PyTorch in one and by its DDP, in turns.

    python benchmarks/parallel.py

For each network: the time of a training step, the processor time of a step (of the process that needs least: the others
wait for it, and a wait of MPI is a loop), the bytes that a process sends in a step, and the peak of its memory. The
batch is that of all processes together. Each process has one thread; "one process" is measured with one thread, and
with as many threads as there are processes, which is what a user of one machine would run. The ranks of MPI exchange
each weight's gradient as `minicnn.parallel.choose` says; two more contenders are made to exchange all in one way.
"""

# ruff: noqa: E402, the path comes before the imports

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # so that this checkout is imported, and no file of this folder instead of a library

from benchmarks import report
from benchmarks.contenders.case import IMAGES, Case
from benchmarks.machine import machine
from benchmarks.turns import ATTEMPTS, CORES, DISTURBED, PAUSE, Patience, processor_seconds

NETS = ("lenet5", "two_conv")
KINDS = ("one", "mpi", "factors", "gradient", "pytorch", "pytorch_channels_last", "ddp")
ON_MPI = KINDS[1:4]
TOLERANCE = 2e-5  # of the mean loss of the first steps, in which float32 gives about 1e-7
TOLERANCE_OF = {"small_resnet": 2e-4}  # with batch normalization PyTorch's two memory orders differ by 3e-5, too
FIRST_STEPS, MIN_STEPS, MOST_STEPS = 3, 4, 64  # of the comparison of losses; of a turn
LOOPBACK = pathlib.Path("/sys/class/net/lo/statistics/tx_bytes")


class Group:
    """The processes of one contender; each is connected by a socket, so that none computes while it waits.

    Args:
        kind: of `benchmarks.contenders.rank`.
        processes: how many.
        threads: of each.
    """

    def __init__(self, kind, processes, threads):
        self.kind, self.processes, self.threads = kind, processes, threads
        self.running, self.stack = [], contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self.stack.close()
            raise

    def _start(self):
        enter = self.stack.enter_context
        self.errors = enter(tempfile.TemporaryFile("w+"))  # noqa: SIM115, closed by the stack
        listener = enter(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(120)
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.contenders.rank", self.kind, str(port)]
        if self.kind in ON_MPI:
            self._run([mpiexec(), "-n", str(self.processes), *command])
        else:
            free = free_port()
            for rank in range(self.processes):
                self._run(
                    command,
                    RANK=str(rank),
                    WORLD_SIZE=str(self.processes),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(free),
                    GLOO_SOCKET_IFNAME="lo",
                )
        self.files = []
        for _ in range(self.processes):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                raise self._error("start") from None
            enter(connection)
            self.files.append(enter(connection.makefile("rw")))
        self._answers("start")  # in the order in which they came: all answers are only summed up or compared

    def _run(self, command, **variables):
        count = str(self.threads)
        names = ("MINICNN_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, count) | variables
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors
        )
        self.running.append(process)
        self.stack.callback(end, process)

    def ask(self, question, **arguments):
        """The answers of all processes to one question; a RuntimeError if one ends instead."""
        for file in self.files:
            file.write(json.dumps({"ask": question, **arguments}) + "\n")
            file.flush()
        return self._answers(question)

    def _answers(self, question):
        lines = [file.readline() for file in self.files]
        if not all(lines):
            raise self._error(question)
        return [json.loads(line) for line in lines]

    def _error(self, question):
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that fails may be writing why
            for process in self.running:
                process.wait(5)
        self.errors.seek(0)
        return RuntimeError(f"{self.kind} ended at {question!r}:\n{self.errors.read()[-3000:]}")

    def turn(self, steps, patience):
        """The least disturbed of some attempts at so many steps: a dict of what is measured, for one step.

        "wall" and "cpu" in seconds, of the processes that need least; "sent" in bytes, None if it is unknown;
        "disturbed": the fraction of the processor that others used.
        """
        turns = []
        for _ in range(ATTEMPTS):
            time.sleep(PAUSE)
            before, started, sent = processor_seconds(), time.perf_counter(), loopback()
            answers = self.ask("run", steps=steps)
            wall = time.perf_counter() - started
            own = sum(answer["total_cpu"] for answer in answers)
            others = processor_seconds() - before - own - 0.02 * self.processes  # the clocks tick every 0.01 s
            bytes_sent = max(answer["sent"] for answer in answers)
            if self.kind == "ddp":  # gloo does not count
                bytes_sent = None if sent is None else (loopback() - sent) / steps / self.processes
            turns.append(
                {
                    "wall": max(answer["seconds"] for answer in answers),
                    "cpu": min(answer["cpu"] for answer in answers),
                    "sent": bytes_sent,
                    "loss": next(answer["loss"] for answer in answers if answer["loss"] is not None),
                    "disturbed": max(0.0, others) / (wall * CORES),
                }
            )
            if turns[-1]["disturbed"] < DISTURBED or patience.left <= 0:
                break
            patience.left -= wall
            patience.wait()
        return min(turns, key=lambda turn: turn["disturbed"])

    def peak(self):
        """The most memory that one of the processes used, in bytes."""
        return max(answer["bytes"] for answer in self.ask("peak"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()


def end(process):
    """Wait for a process whose connection is closed; end one that goes on."""
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def mpiexec():
    """The mpiexec beside this Python, where the wheels of MPI put it, or else that of the system."""
    return shutil.which("mpiexec", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("mpiexec")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def loopback():
    """Bytes that this machine has sent to itself, which is how the processes of gloo talk here; None if unknown."""
    with contextlib.suppress(OSError, ValueError):
        return int(LOOPBACK.read_text())
    return None


def options(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--nets", nargs="+", choices=tuple(IMAGES), default=NETS)
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which contenders (default: all)")
    add("--batch", type=int, default=32, help="images a step, of all processes together (default: 32)")
    add("--ranks", type=int, default=2, help="processes (default: 2)")
    add("--rounds", type=int, default=8, help="at most; at least 3 (default: 8)")
    add("--seconds", type=float, default=30, help="of rounds, for each network (default: 30)")
    add("--turn", type=float, default=0.5, help=f"seconds of steps; at least {MIN_STEPS} steps (default: 0.5)")
    add("--patience", type=float, default=20, help="seconds to wait in all until others are idle (default: 20)")
    add("--out", type=pathlib.Path, default=ROOT / "runs", help="folder of the JSON and Markdown (default: runs)")
    chosen = parser.parse_args(arguments)
    chosen.patience = Patience(chosen.patience)
    return chosen


def contenders(chosen):
    """{name: (kind, processes, threads of each)}; the first is what the others are compared with."""
    ranks = chosen.ranks
    known = {
        "one process, one thread": ("one", 1, 1),
        f"one process, {ranks} threads": ("one", 1, ranks),
        f"{ranks} ranks of MPI": ("mpi", ranks, 1),
        f"{ranks} ranks, thin factors": ("factors", ranks, 1),
        f"{ranks} ranks, whole gradients": ("gradient", ranks, 1),
        f"PyTorch, {ranks} threads": ("pytorch", 1, ranks),
        f"PyTorch, {ranks} threads, channels last": ("pytorch_channels_last", 1, ranks),
        f"{ranks} processes of PyTorch's DDP": ("ddp", ranks, 1),
    }
    return {name: its for name, its in known.items() if its[0] in chosen.kinds}


def missing(kind):
    """Why a kind cannot run here, or None."""
    package = {"one": None}.get(kind, "mpi4py" if kind in ON_MPI else "torch")
    if package is not None and importlib.util.find_spec(package) is None:
        return f"no package {package}"
    return "no mpiexec" if kind in ON_MPI and mpiexec() is None else None


def main(arguments=None):
    chosen = options(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": machine(1),
        "settings": {name: str(value) for name, value in vars(chosen).items()},
        "missing": {name: why for name, (kind, *_) in contenders(chosen).items() if (why := missing(kind))},
        "cases": [],
    }
    started = time.perf_counter()
    for net in chosen.nets:
        results["cases"].append(compare(net, chosen, results["missing"]))
    results["seconds"] = round(time.perf_counter() - started, 1)
    text = markdown(results)
    print(text)
    for suffix, content in ((".json", json.dumps(results, indent=1)), (".md", text)):
        (chosen.out / f"benchmark-parallel{suffix}").write_text(content)
    return results


def compare(net, chosen, left_out):
    """All contenders on one network: {"net", "batch", "contenders": {name: {"turns", "peak", "agrees"}}}."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        groups = {}
        for name, (kind, processes, threads) in contenders(chosen).items():
            if name in left_out:
                continue
            print(f"{net}: {name}", file=sys.stderr, flush=True)
            groups[name] = stack.enter_context(Group(kind, processes, threads))
            if not measured:
                Case(net, chosen.batch, pathlib.Path(folder), 1).write_data(chosen.batch * MOST_STEPS)
            groups[name].ask("start", net=net, batch=chosen.batch, folder=folder, threads=threads)
            measured[name] = {"turns": [], "loss": groups[name].turn(FIRST_STEPS, Patience(0))["loss"]}
        first = next(iter(measured.values()))["loss"]
        steps = {}
        for name, its in measured.items():
            its["agrees"] = abs(its["loss"] - first) <= TOLERANCE_OF.get(net, TOLERANCE) * abs(first)
            once = groups[name].turn(MIN_STEPS, Patience(0))["wall"]
            steps[name] = min(MOST_STEPS, max(MIN_STEPS, round(chosen.turn / once)))
        began = time.perf_counter()
        for index in range(max(3, chosen.rounds)):
            if index >= 3 and time.perf_counter() - began > chosen.seconds:
                break
            for name in list(groups)[:: -1 if index % 2 else 1]:
                measured[name]["turns"].append(groups[name].turn(steps[name], chosen.patience))
        for name, group in groups.items():
            measured[name]["peak"] = group.peak()
    return {"net": net, "batch": chosen.batch, "contenders": measured}


def markdown(results):
    """The tables, and what they were measured on."""
    header = ["", "ms a step", "of the first", "CPU ms a step", "MB sent a step", "peak, MiB"]
    sections = []
    for case in results["cases"]:
        measured = case["contenders"]
        baseline = next(iter(measured.values()))["turns"]
        rows = []
        for name, its in measured.items():
            turns = its["turns"]
            walls, bases = ([[turn["wall"], turn["disturbed"]] for turn in each] for each in (turns, baseline))
            sent = [turn["sent"] for turn in turns if turn["sent"] is not None]
            rows.append(
                [
                    name,
                    report.spread([1000 * seconds for seconds in report.times(walls)], "{:.4g}"),
                    report.spread(report.ratios(walls, bases)[0], "{:.2f}"),
                    f"{1000 * statistics.median(turn['cpu'] for turn in turns):.4g}",
                    f"{statistics.median(sent) / 1e6:.3g}" if sent else "?",
                    f"{its['peak'] / 2**20:.0f}",
                ]
            )
        sections += [f"### {case['net']}, batch {case['batch']}", report.table(header, rows)]
        if wrong := [name for name, its in measured.items() if not its["agrees"]]:
            sections.append(f"NOT THE SAME COMPUTATION: the first losses of {', '.join(wrong)} differ.")
        disturbed = [turn["disturbed"] >= DISTURBED for its in measured.values() for turn in its["turns"]]
        sections.append(f"{len(disturbed)} turns, {sum(disturbed)} of them disturbed by other processes.")
    sections += [f"{name} was left out: {why}." for name, why in results["missing"].items()]
    sections.append("  \n".join(f"{name}: {value}" for name, value in results["machine"].items()))
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main()
