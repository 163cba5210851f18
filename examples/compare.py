"""The lab's fourth task: all its networks side by side, and measured explanations of the differences.

In a few minutes, on synthetic letters:   python examples/compare.py --quick
On notMNIST:                              python examples/compare.py --data notMNIST_small.tar.gz
With the images split as in the lab:      python examples/compare.py --quick --ordered

On the processes of mpiexec:              mpiexec -n 4 python -m mpi4py examples/compare.py --quick --mpi

Stop it with Ctrl-C at any time: the same command resumes it. With `--mpi` each process computes some of the trainings.
The modules are in `comparison/`.
"""

import argparse
import contextlib
import math
import pathlib
import shlex
import sys

from common import command, on_all, parse
from comparison import data, page, pictures, tables
from comparison.experiments import EXPERIMENTS, tasks
from comparison.models import MODELS
from comparison.plan import REFERENCE_MODELS, Plan
from comparison.progress import Progress
from comparison.store import Store, run_all

import minicnn as mc
from minicnn.console import show, show_error
from minicnn.core.checks import quoted
from minicnn.markup import visible
from minicnn.storage.files import atomic_write

FULL = {"epochs": 10, "experiment_epochs": 10, "samples": None}
QUICK = {"epochs": 3, "experiment_epochs": 6, "samples": 3000}
DIVERGENCE_STEPS = 100


def main(arguments=None):
    """Run the comparison that the command line describes; returns the exit code."""
    parser = _parser()
    chosen = parse(parser, arguments=arguments)
    return command(lambda: compare(chosen, _command(parser, chosen)), chosen.ranks)


def compare(chosen, words):
    """Read the data, make the plan, do the work, write the report, with `words` as its command; the exit code."""
    with chosen.ranks:
        mc.use(chosen.backend)
    budget = QUICK if chosen.quick else FULL
    out = pathlib.Path(chosen.out or f"runs/compare-{pathlib.Path(chosen.data).name.split('.')[0]}")
    if chosen.ordered and not chosen.out:
        out = out.with_name(f"{out.name}-ordered")
    samples = chosen.samples or budget["samples"]
    source = on_all(chosen.ranks, lambda: data.read(chosen.data, samples, seed=chosen.seed))
    plan = Plan(
        models=chosen.models,
        experiments=chosen.experiments,
        epochs=chosen.epochs or budget["epochs"],
        minutes=chosen.minutes,
        experiment_epochs=chosen.experiment_epochs or budget["experiment_epochs"],
        reference_models=chosen.witnesses,
        seeds=chosen.seeds,
        ordered=chosen.ordered,
        batch_size=chosen.batch_size,
        divergence_steps=DIVERGENCE_STEPS,
        train=len(data.split(source)[0]),
    )
    settings = {
        "data": source.kind if source.kind == "notMNIST" else source.what,  # a renamed file is the same data
        "images": source.fingerprint(),
        "batch_size": plan.batch_size,
        "backend": chosen.backend,
    }
    show(f"data: {source.what}; {len(source.y):,} images to train and validate on, {len(source.y_test):,} to test")
    try:
        on_all(chosen.ranks, lambda: _make_folder(out))
        results = run_all(tasks(plan, source, settings), Store(out, chosen.again), Progress(), chosen.ranks)
    except KeyboardInterrupt:
        if chosen.ranks.is_first:
            show_error(f"\nthe finished results are kept in {out}, and the same command resumes from there")
        raise
    if chosen.ranks.is_first:
        _report(plan, source, settings, results, out, chosen.docs, words)
    return 0


def _report(plan, source, settings, results, out, docs, command):
    """Write the report with its tables and pictures, and print it."""
    text = page.as_text(plan, results, source.what)
    rows = tables.comparison(plan, results)
    files = {
        "report.txt": text,
        "table.txt": tables.as_text(tables.HEADER, rows) + f"\n\non {source.what}\n",
        "table.md": tables.as_markdown(tables.HEADER, rows) + f"\n\non {source.what}\n",
        "table.csv": tables.comparison_csv(plan, results, source.what),
    }
    for name, content in files.items():
        _write(out / name, content)
    show(f"\n{text}")
    made = pictures.draw_all(plan, results, source.what.split(",")[0], out)
    if not made:
        show("no pictures: matplotlib is not installed (pip install matplotlib, the extra `plots`)")
    show(f"report, tables and {len(made)} pictures in {out}")
    if docs is None:
        return
    name = f"comparison-{source.kind.lower()}" + "-ordered" * plan.ordered
    folder = _make_folder(docs)
    names = {}
    for picture, path in made.items():
        names[picture] = f"{name}-{picture}.png"
        _write(folder / names[picture], path.read_bytes())
    about = page.about(plan, source, settings)
    for other in sorted(folder.glob("comparison-*.md")):
        if other.stem != name:
            about.append(f"See also [{other.stem}]({other.name}).")
    _write(folder / f"{name}.md", page.as_markdown(plan, results, source.what, about, command, names))
    show(f"page in {folder / name}.md")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="letters", metavar="letters|PATH", help="synthetic letters, or notMNIST's files")
    add(
        "--quick",
        action="store_true",
        help=f"a few minutes on two cores: {_in_words(QUICK)}; otherwise {_in_words(FULL)}",
    )
    add("--samples", type=_count, help="how many images to train and validate on")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=_count, help="the budget of each model in the table")
    budget.add_argument("--minutes", type=_minutes, help="the budget of each model in the table, as time instead")
    add("--experiment-epochs", type=_count, help="the budget of each training in the experiments")
    add("--seeds", type=_count, default=3, help="how many seeds an experiment uses (default: 3)")
    add("--models", type=_some_of(MODELS), default=tuple(MODELS), help="models of the table, separated by commas")
    add(
        "--experiments",
        type=_some_of(EXPERIMENTS),
        default=tuple(EXPERIMENTS),
        help="experiments, separated by commas, or none",
    )
    add(
        "--witnesses",
        type=_some_of(MODELS),
        default=REFERENCE_MODELS,
        help="reference models: the experiments train them",
    )
    add("--ordered", action="store_true", help="split as in the lab: ordered by class, the last tenth to validate on")
    add("--batch-size", type=_count, default=32, help="images per step (default: 32)")
    add("--seed", type=int, default=0, help="of the letters and of the choice of the test images (default: 0)")
    add("--backend", choices=mc.backends.NAMES, default="numpy", help="what computes (default: numpy)")
    add("--out", metavar="FOLDER", help="of the results, tables and pictures (default: runs/compare-<data>)")
    add("--again", action="store_true", help="compute results again that have other settings")
    add("--docs", metavar="FOLDER", help="also write the report there, as a page with pictures")
    return parser


def _command(parser, chosen):
    """The command that repeats this run, without the paths of this machine."""
    words = ["python examples/compare.py"]
    for name, value in vars(chosen).items():
        if value == parser.get_default(name) or name in ("out", "again", "mpi", "ranks"):
            continue
        if name == "data":
            value = "PATH"
        elif name == "docs" and pathlib.Path(value).is_absolute():
            value = "FOLDER"
        text = ",".join(value) or "none" if isinstance(value, tuple) else value
        words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(text))}"))
    return visible(" ".join(words).replace("\n", "\\n"))  # in one line


def _make_folder(folder):
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise mc.FileError(f"the folder {quoted(folder)} cannot be made: {error.strerror}") from error
    return folder


def _write(path, content):
    with atomic_write(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _in_words(budget):
    samples = "all" if budget["samples"] is None else f"{budget['samples']:,}"
    return f"{samples} images, {budget['epochs']} epochs, {budget['experiment_epochs']} in the experiments"


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs an integer of at least 1, got {quoted(text)}")
    return int(text)


def _minutes(text):
    value = math.nan
    with contextlib.suppress(ValueError):
        value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"needs a number above 0, got {quoted(text)}")
    return value


def _some_of(known):
    """A function that reads known names separated by commas; "none" for none of them."""

    def read(text):
        names = () if text == "none" else tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {quoted(', '.join(unknown))}; use {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
