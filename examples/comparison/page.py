"""The report: as text, which is printed at the end, and as a page with pictures."""

import platform
from importlib.metadata import PackageNotFoundError, version

from comparison import tables
from comparison.experiments import EXPERIMENTS

INTRODUCTION = (
    "The lab's fourth task: *compare the best accuracies of labs 1 to 3; how do you explain the differences?* Here "
    "are its networks, trained on the same split with the same budget, and a small experiment for each explanation; "
    "every number was written by the program that measured it."
)


def sections(plan, results):
    """The `Section` of every experiment of the plan: `{name: section}`."""
    return {name: EXPERIMENTS[name].read(plan, results) for name in plan.experiments}


def in_short(plan, results, found):
    """The answer to the lab's question in a few sentences: which model is best, and why."""
    return [tables.summary(plan, results), *(section.summary for section in found.values() if section.summary)]


def as_text(plan, results, what):
    """The complete report for a terminal."""
    found = sections(plan, results)
    lines = [f"THE COMPARISON, on {what}", ""]
    lines += [tables.as_text(tables.HEADER, tables.comparison(plan, results)), ""]
    lines += [tables.NOTE.replace("*", ""), "", *(f"- {sentence}" for sentence in tables.sentences(plan, results))]
    lines += ["", f"IN SHORT, on {what}", "", *(f"- {sentence}" for sentence in in_short(plan, results, found))]
    for section in found.values():
        lines += ["", f"{section.title.upper()}, on {what}", "", tables.as_text(section.header, section.rows)]
        lines += ["" for _ in section.sentences[:1]]
        lines += [f"- {sentence}" for sentence in section.sentences]
    return "\n".join(lines) + "\n"


def as_markdown(plan, results, what, about, command, pictures):
    """The complete report as a page.

    Args:
        plan, results: the plan, and the results of its tasks.
        what: the data in words.
        about: sentences about the run: the data, the split, the budget, the software.
        command: the one that makes the page.
        pictures: `{name: file name}`, relative to the page.
    """
    kind, found = what.split(",")[0], sections(plan, results)
    lines = [f"# The comparison, on {kind}", "", INTRODUCTION, "", "## In short", ""]
    lines += [*(f"- {sentence}" for sentence in in_short(plan, results, found)), ""]
    lines += [f"All figures on this page are of **{what}**. The page is made by", "", f"    {command}", ""]
    lines += [" ".join(about), "", "## The table", ""]
    lines += [tables.as_markdown(tables.HEADER, tables.comparison(plan, results)), "", tables.NOTE, ""]
    lines += [f"- {sentence}" for sentence in tables.sentences(plan, results)]
    lines += _pictures(pictures, "accuracy", "curves")
    for name, section in found.items():
        lines += ["", f"## {section.title}", "", section.question, ""]
        lines += [tables.as_markdown(section.header, section.rows)]
        lines += ["" for _ in section.sentences[:1]]
        lines += [f"- {sentence}" for sentence in section.sentences]
        lines += _pictures(pictures, name)
    return "\n".join(lines) + "\n"


def about(plan, source, settings):
    """Sentences about the conditions of a run."""
    budget = f"{plan.minutes:g} minutes" if plan.minutes else _count(plan.epochs, "epoch")
    split = "the lab's: ordered by class, the last tenth" if plan.ordered else "a tenth of every letter"
    sizes = " notMNIST_small has 18,724 images, notMNIST_large 529,114." if source.kind == "notMNIST" else ""
    return [
        f"Images: {len(source.y):,} to train and validate on, {len(source.y_test):,} to test on; fingerprint "
        f"{settings['images']}. Validation: {split}.{sizes}",
        f"Budget: {budget} for each model of the table, {_count(plan.experiment_epochs, 'epoch')} in the experiments, "
        f"batches of {plan.batch_size}; {_count(plan.seeds, 'seed')} an experiment. Ranges in brackets are the "
        "smallest and the largest of the seeds; ± is the 95 % interval of a mean difference over them (Student's t), "
        "each by itself.",
        f"Software: {', '.join(f'{name} {_version(name)}' for name in ('numpy', 'pillow', 'matplotlib'))}, Python "
        f"{platform.python_version()}. Other versions or fonts draw other letters; seconds depend on the machine.",
    ]


def _count(number, what):
    return f"{number} {what}{'s' * (number != 1)}"


def _pictures(pictures, *names):
    shown = [f"![{name}]({pictures[name]})" for name in names if name in pictures]
    return ["", *shown] if shown else []


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "(missing)"
