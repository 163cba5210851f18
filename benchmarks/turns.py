"""Contenders in processes of their own, which take turns: while one computes, the others wait for input.

Other programs may run on the same machine. So for every turn it is measured how much of the processor other processes
used meanwhile. A turn that they disturbed is repeated when the machine is quiet again, until the patience is used up,
and the report says how many disturbed turns remained.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORES = os.cpu_count() or 1
DISTURBED = 0.08  # fraction of the time of all cores that other processes used
PAUSE = 0.03  # seconds before a turn, in which the threads of the last contender stop spinning
ATTEMPTS = 3


@dataclasses.dataclass
class Patience:
    """Waits until other processes do not use the processor; stops waiting when no seconds are left."""

    left: float

    def wait(self, window=0.3):
        """Return when a window of some seconds was quiet, or no seconds are left."""
        while self.left > 0:
            before = processor_seconds()
            time.sleep(window)
            self.left -= window
            if (processor_seconds() - before) / (window * CORES) < DISTURBED:
                return


def processor_seconds(process=None):
    """Seconds of processor time that all processes but this one used since the machine started (0 if not on Linux)."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        own = []
        if process is not None:
            own = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal - sum(map(int, own))) / os.sysconf("SC_CLK_TCK")


class Worker:
    """The process of one contender.

    Args:
        name: a module of `benchmarks.contenders`.
        threads: how many it may use.
        python: the interpreter to run it with.
    """

    def __init__(self, name, threads, python=sys.executable):
        self.name = name
        self.threads = threads
        count = str(threads)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "MINICNN_THREADS": count,
            "OMP_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "VECLIB_MAXIMUM_THREADS": count,
        }
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by close()
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.contenders.worker", name, count],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, question, **arguments):
        """The answer to one question; a RuntimeError if the process ends instead."""
        self.process.stdin.write(json.dumps({"ask": question, **arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer(question)

    def answer(self, question="load"):
        """The next answer; the first one comes without a question, when the library is loaded."""
        answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended at {question!r} (status {status}):\n{self.errors.read()[-3000:]}")
        return json.loads(answer)

    def turn(self, question, patience, **arguments):
        """The least disturbed answer of some attempts, with "disturbed", the fraction that other processes used."""
        answers = []
        for _ in range(ATTEMPTS):
            time.sleep(PAUSE)
            before = processor_seconds(self.process.pid)
            started = time.perf_counter()
            answer = self.ask(question, **arguments)
            wall = time.perf_counter() - started
            others = processor_seconds(self.process.pid) - before - 0.02  # the clocks tick every 0.01 s
            answers.append(answer | {"disturbed": max(0.0, others) / (wall * CORES)})
            if answers[-1]["disturbed"] < DISTURBED or patience.left <= 0:
                break
            patience.left -= wall
            patience.wait()
        return min(answers, key=lambda answer: answer["disturbed"])

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
