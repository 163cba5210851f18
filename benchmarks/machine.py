"""What the numbers were measured on."""

import datetime
import os
import pathlib
import platform
import subprocess
import sys

import threadpoolctl

ROOT = pathlib.Path(__file__).resolve().parents[1]

IMPORTS = """
import time
started = time.perf_counter()
import numpy
between = time.perf_counter()
import minicnn
print(between - started, time.perf_counter() - between)
"""


def machine(threads):
    """The machine, the commit and the time, as plain values."""
    import numpy  # noqa: F401, loads the BLAS that is described below

    blas = [
        f"{library['internal_api']} {library['version']} ({library.get('architecture', '?')})"
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    ]
    chosen = "".join(f", by {name}={os.environ[name]}" for name in ("OPENBLAS_CORETYPE",) if name in os.environ)
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads used": threads,
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "NumPy's BLAS": ", ".join(blas) + chosen,
        "commit": commit(),
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def processor():
    """The processor's name, and its widest vector instructions."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    flags = about.get("flags", "").split()
    widest = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")
    return f"{about.get('model name', platform.machine())}, {widest}"


def commit():
    """The commit of this checkout, and whether files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        status = [*git, "status", "--porcelain", "--", "minicnn", "benchmarks"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + (" with changes" if changed else "")


def import_times(rounds):
    """Seconds of `import numpy` and, after it, of `import minicnn`, in new processes: a pair for each round.

    The modules are compiled by the first process, as pip compiles those that it installs.
    """
    command = [sys.executable, "-c", IMPORTS]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "check": True}
    outputs = [subprocess.run(command, **options).stdout for _ in range(rounds + 1)]
    return [[float(seconds) for seconds in output.split()] for output in outputs[1:]]
