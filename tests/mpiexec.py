"""Starts ranks under mpiexec for a test, with a hard limit of time; and nothing that they started is left.

A rank that waits for ever fails the test, and does not stop it.
"""

import contextlib
import importlib.util
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

MPIEXEC = shutil.which("mpiexec", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("mpiexec")
LIMIT = 120  # seconds until ranks that hang are killed; a case takes about one

#: The marks of tests that need it.
NEEDED = [
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py and an MPI: the extra `mpi`"),
    pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec: the extra `mpi` brings one"),
]


class Ended:
    """How the ranks ended.

    Attributes:
        code: mpiexec's exit code; None where they hung and were killed.
        shown: all that they printed.
        left: the ids of processes that were still there afterwards; they are killed.
    """

    def __init__(self, code, shown, left):
        self.code, self.shown, self.left = code, shown, left


def run(folder, script, *arguments, ranks=2, module=True, at=None):
    """Run a script on some ranks until all have ended.

    Args:
        folder: the current one of the ranks.
        script, arguments: what they run.
        module: whether it runs as `python -m mpi4py script.py`, which the documentation asks for.
        at: (text, signal): mpiexec receives the signal, as from Ctrl-C, when a rank prints a line with the text.
    """
    mark = secrets.token_hex(16)
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-W", "error", *["-m", "mpi4py"] * module, str(script)]
    environment = os.environ | {"MINICNN_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MINICNN_TEST_RUN": mark}
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with _killed_after(process, mark) as hung:
        shown = ""
        for line in process.stdout:
            shown += line
            if at is not None and at[0] in line:
                process.send_signal(at[1])
                at = None
        code = process.wait()
    deadline = time.monotonic() + LIMIT
    while (left := _marked(mark)) and time.monotonic() < deadline:  # mpiexec may end a moment before its children
        time.sleep(0.02)
    _kill(left)
    return Ended(None if hung else code, shown, left)


@contextlib.contextmanager
def _killed_after(process, mark):
    """A block after whose limit the ranks are killed; the list then has an entry."""
    hung = []

    def kill():
        hung.append(True)
        process.kill()
        _kill(_marked(mark))

    timer = threading.Timer(LIMIT, kill)
    timer.start()
    try:
        yield hung
    finally:
        timer.cancel()
        if process.poll() is None:
            kill()
        process.stdout.close()


def _marked(mark):
    """The ids of all processes whose environment has the mark: the ranks have sessions of their own."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def _kill(processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
