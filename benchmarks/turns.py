"""Contenders in processes of their own, which take turns: while one computes, the others wait for input.

The machine may be shared. So every turn is watched: how much of the processor did others use meanwhile? A turn
that was disturbed is taken again, a few times at most, and the results say how many remained disturbed.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
DISTURBED = 0.08  # of all cores' time used by others
PAUSE, LONGER_PAUSE = (
    0.03,
    0.4,
)  # seconds before a turn: the last one's threads stop spinning, others may end their work


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
        """The answer to one question; raises RuntimeError when the process dies of it."""
        self.process.stdin.write(json.dumps({"ask": question, **arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer(question)

    def answer(self, question="load"):
        """The next answer; the first one comes unasked, when the library is loaded."""
        answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended at {question!r} (status {status}):\n{self.errors.read()[-3000:]}")
        return json.loads(answer)

    def turn(self, question, retries, **arguments):
        """Ask, and watch the machine meanwhile; the least disturbed answer, with the "disturbed" share."""
        best = None
        for attempt in range(1 + retries):
            time.sleep(LONGER_PAUSE if attempt else PAUSE)
            before = self._others_seconds()
            started = time.perf_counter()
            answer = self.ask(question, **arguments)
            wall = time.perf_counter() - started
            others = self._others_seconds() - before - 0.02  # the clocks tick every 0.01 s
            others = max(0.0, others) / (wall * (os.cpu_count() or 1))
            answer["disturbed"] = others
            if best is None or others < best["disturbed"]:
                best = answer
            if others < DISTURBED or wall > 5:
                break
        return best

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

    def _others_seconds(self):
        """Seconds of processor time that everybody but this worker has used since the machine started (Linux)."""
        try:
            fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            mine = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        user, nice, system, _, _, irq, softirq, steal = map(int, fields)
        busy = user + nice + system + irq + softirq + steal - int(mine[11]) - int(mine[12])
        return busy / os.sysconf("SC_CLK_TCK")
