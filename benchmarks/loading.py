"""The time to read an archive of PNGs: minicnn reads the complete archive, Pillow only decodes the PNGs on all cores.

    python benchmarks/loading.py

minicnn decompresses the archive, checks the name of every file, decodes it, and collects the images in one array.
Pillow only decodes files that are already in memory, with one process per core. Each measurement runs in a new
process, and the two alternate.
"""

# ruff: noqa: E402, the path comes before the imports

import argparse
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # so that the code of this checkout is measured

from benchmarks.contenders.worker import forget_peak, peak_memory
from benchmarks.machine import machine
from benchmarks.report import spread

MIB = 2**20
CHUNK_SIZE = 1000  # files that a process of Pillow decodes at a time


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--archive", help="a notMNIST archive whose PNGs are used (default: synthetic letters)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = chosen.images // 4, chosen.images
        archives = [pathlib.Path(folder) / f"{size}.tar.gz" for size in sizes]
        for size, path in zip(sizes, archives, strict=True):
            write_archive(path, size, chosen.archive)
        rounds = [[child(kind, archives[1]) for kind in ("read", "pillow")] for _ in range(chosen.rounds)]
        small = child("read", archives[0])
        starts = [child("start", archives[1], str(pathlib.Path(folder) / "cache")) for _ in range(3)]
    times = [[seconds / chosen.images * 1e6 for seconds, _ in pair] for pair in rounds]
    print(f"{chosen.images:,} PNGs of {chosen.archive or 'synthetic letters'}; {machine(os.cpu_count())}")
    print(f"minicnn, archive to array:      {spread([ours for ours, _ in times], '{:.1f}')} us per image")
    print(f"Pillow, decoding on all cores:  {spread([pillow for _, pillow in times], '{:.1f}')} us per image")
    print(f"minicnn / Pillow:               {spread([ours / pillow for ours, pillow in times], '{:.2f}')}")
    extra = [small[1], rounds[0][0][1]]
    print(
        f"memory beyond the result:       {extra[0] / MIB:.0f} MiB for 1/4 of the images, {extra[1] / MIB:.0f} for all"
    )
    print(
        f"load_notmnist, first start:     {starts[0][0]:.2f} s; later starts: {starts[1][0]:.2f}, {starts[2][0]:.2f} s"
    )


def write_archive(path, count, source):
    """Write an archive of `count` PNGs in the layout of notMNIST."""
    from PIL import Image

    from minicnn.datasets import LETTERS, load_letters

    if source is None:
        (images, labels), _ = load_letters(train=10_000)
        files = []
        for image, label in zip(images, labels, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            files.append((LETTERS[label], file.getvalue()))
    else:
        with tarfile.open(source) as archive:
            members = [member for member in archive if member.isfile() and member.size]
            files = [(member.name.split("/")[-2], archive.extractfile(member).read()) for member in members]
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for number, (letter, data) in enumerate(itertools.islice(itertools.cycle(files), count)):
            member = tarfile.TarInfo(f"notMNIST_large/{letter}/{number:032}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def child(kind, *arguments):
    """[seconds, bytes of memory beyond the result] of one of the measurements below, in a new process."""
    command = [sys.executable, "-m", "benchmarks.loading", kind, *map(str, arguments)]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def read(path):
    from minicnn.datasets import read_notmnist

    forget_peak()
    before, started = peak_memory(), time.perf_counter()
    data = read_notmnist(path)
    seconds = time.perf_counter() - started
    result = data.images.nbytes + data.labels.nbytes + sum(map(sys.getsizeof, data.names))
    return seconds, peak_memory() - before - result


def pillow(path):
    with tarfile.open(path) as archive:
        files = [archive.extractfile(member).read() for member in archive]
    chunks = [files[start : start + CHUNK_SIZE] for start in range(0, len(files), CHUNK_SIZE)]
    with ProcessPoolExecutor() as processes:
        list(processes.map(decode, chunks[: os.cpu_count()]))  # so that all processes have started
        started = time.perf_counter()
        pixels = bytearray()
        for chunk in processes.map(decode, chunks):
            pixels += chunk
        return time.perf_counter() - started, 0


def decode(files):
    from PIL import Image

    return b"".join(Image.open(io.BytesIO(data)).tobytes() for data in files)


def start(path, cache):
    from minicnn.datasets import load_notmnist

    os.environ["MINICNN_HOME"] = str(cache)
    started = time.perf_counter()
    load_notmnist(path)
    return time.perf_counter() - started, 0


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("read", "pillow", "start"):
        print(
            json.dumps({"read": read, "pillow": pillow, "start": start}[sys.argv[1]](*map(pathlib.Path, sys.argv[2:])))
        )
    else:
        main()
