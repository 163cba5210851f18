"""What a reader reads: the functions that one training step of LeNet-5 enters, in the order in which they are entered.

    python benchmarks/reading.py                    the tour through the backend "plain", and the totals of the others
    python benchmarks/reading.py --backend numpy    the tour through another backend

A function counts with all its lines, those of its inner functions included, but without its docstring, blank lines and
comments; each line counts once. The step is the four lines of the README: forward, loss, backward, optimizer.
"""

import argparse
import ast
import functools
import io
import pathlib
import sys
import threading
import tokenize

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import minicnn as mc  # noqa: E402

PACKAGE = pathlib.Path(mc.__file__).parent
SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def tour(backend, batch=32):
    """The functions that a first training step of LeNet-5 enters.

    Args:
        backend: "plain" or "numpy".
        batch: images of the step.

    Returns:
        a list of (file, function, first line, lines of code): the file as a path below the package, in the order of
        entrance. A function inside another one that is listed has no entry of its own.
    """
    before = mc.backends.current()
    mc.use(backend)
    try:
        model, loss_function, optimizer = mc.networks.lenet5(), mc.SoftmaxCrossEntropy(), mc.Adam()
        x = np.random.default_rng(0).random((batch, 1, 28, 28), dtype=np.float32)
        labels = np.arange(batch) % 10
        mc.core.window.Window.pads.cache_clear()  # filled when the model was built
        mc.core.window.Window.output_shape.cache_clear()

        def step():
            logits, backward = model.forward(x, training=True)
            _, dlogits = loss_function(logits, labels)
            backward(dlogits)
            optimizer.step(model.parameters())

        codes = entered(step)
    finally:
        mc.use(before)
    found = []
    for code in codes:
        path = pathlib.Path(code.co_filename)
        if PACKAGE in path.parents:
            owner = outermost(path, code.co_firstlineno)
            if owner is not None and (path, *owner) not in found:
                found.append((path, *owner))
    return [
        (path.relative_to(PACKAGE).as_posix(), name, start, len(code_lines(path) & set(range(start, stop + 1))))
        for path, name, start, stop in found
    ]


def entered(function):
    """The code objects that are entered while a function runs, in any thread, each once and in order."""
    codes = {}

    def note(frame, event, argument):
        if event == "call":
            codes.setdefault(frame.f_code)

    threading.setprofile(note)  # for threads that start from now on
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(codes)


@functools.cache
def functions(path):
    """All functions of a file that are not inside another function: (qualified name, first line, last line)."""
    found = []

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                start = min([child.lineno, *(item.lineno for item in child.decorator_list)])
                found.append((f"{prefix}{child.name}", start, child.end_lineno))
            elif isinstance(child, ast.ClassDef):
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def outermost(path, line):
    """The outermost function around a line: (qualified name, first line, last line), or None."""
    return next((item for item in functions(path) if item[1] <= line <= item[2]), None)


@functools.cache
def code_lines(path):
    """The numbers of a file's lines that hold code: no docstrings, blank lines or comments."""
    source = path.read_text(encoding="utf-8")
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


def total(found):
    """How many functions, lines and files a tour has."""
    return len(found), sum(item[3] for item in found), len({item[0] for item in found})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["plain", "numpy"], default="plain", help="whose tour is printed")
    chosen = parser.parse_args().backend
    tours = {backend: tour(backend) for backend in ("plain", "numpy")}
    for number, (file, name, start, lines) in enumerate(tours[chosen], start=1):
        print(f"{number:3}  {lines:3} lines  minicnn/{file}:{start}  {name}")
    print()
    for backend, found in tours.items():
        count, lines, files = total(found)
        print(f"{backend:6} one training step of LeNet-5 enters {count} functions, {lines} lines, {files} files")


if __name__ == "__main__":
    main()
