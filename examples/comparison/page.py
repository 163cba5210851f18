"""The report: what is printed at the end, and the same as a page with its pictures."""

import platform
from importlib.metadata import PackageNotFoundError, version

from comparison import tables
from comparison.experiments import EXPERIMENTS

INTRODUCTION = """\
The lab's fourth task: *compare the best accuracies of labs 1 to 3; how do you explain the differences?* Here are
seven networks trained on the same split with the same budget, and a small experiment for each explanation. Every
sentence with a number in it was written by the program that measured it."""


def sections(plan, results):
    """The `Section` of every experiment that was done: `{name: section}`."""
    return {name: EXPERIMENTS[name].read(plan, results) for name in plan.experiments}


def as_text(plan, results, what):
    """The whole report for a terminal."""
    lines = [f"THE COMPARISON, on {what}", ""]
    lines += [tables.as_text(tables.HEADER, tables.comparison(plan, results)), ""]
    lines += [f"- {sentence}" for sentence in tables.sentences(plan, results)]
    found = sections(plan, results)
    lines += ["", f"IN SHORT, on {what}", "", f"- {tables.gist(plan, results)}"]
    lines += [f"- {section.gist}" for section in found.values()]
    for section in found.values():
        lines += ["", f"{section.title.upper()}, on {what}", "", tables.as_text(section.header, section.rows), ""]
        lines += [f"- {sentence}" for sentence in section.sentences]
    return "\n".join(lines) + "\n"


def as_markdown(plan, results, what, about, command, pictures):
    """The whole report as a page.

    Args:
        plan, results: what was done.
        what: the data in words.
        about: sentences on the run: the data, the split, the budget, the machine.
        command: that makes the page.
        pictures: `{name: file name}`, relative to the page.
    """
    kind = what.split(",")[0]
    lines = [f"# The comparison, on {kind}", "", INTRODUCTION, ""]
    lines += [f"All figures on this page are of **{what}**. The page is made by", "", f"    {command}", ""]
    lines += [*(f"- {sentence}" for sentence in about), "", "## In short", ""]
    found = sections(plan, results)
    lines += [f"- {sentence}" for sentence in (tables.gist(plan, results), *(s.gist for s in found.values()))]
    lines += ["", "## The table", ""]
    lines += [tables.as_markdown(tables.HEADER, tables.comparison(plan, results)), ""]
    lines += [
        "*Multiply-adds* are of one image on its way forward. The *95 % interval* (Wilson's) is what the number of "
        "test images leaves open. *lab* is the accuracy that the lab had on notMNIST_large, of whose labels about "
        "6.5 % are wrong (about 0.5 % in notMNIST_small): compare the order of the models, not the digits.",
        "",
    ]
    lines += [f"- {sentence}" for sentence in tables.sentences(plan, results)]
    lines += _picture("accuracy", pictures) + _picture("curves", pictures)
    for name, section in found.items():
        lines += ["", f"## {section.title}", "", section.question, ""]
        lines += [tables.as_markdown(section.header, section.rows), ""]
        lines += [f"- {sentence}" for sentence in section.sentences]
        lines += _picture(name, pictures)
    return "\n".join(lines) + "\n"


def about(plan, source, settings):
    """Sentences on the conditions of a run."""
    budget = f"{plan.minutes:g} minutes" if plan.minutes else _count(plan.epochs, "epoch")
    split = "the lab's: ordered by class, the last tenth" if plan.ordered else "a tenth of every letter"
    part = ""
    if source.kind != "letters":
        part = (
            " notMNIST_small has 18,724 images, notMNIST_large 529,114; another set at PATH gives other figures of "
            "the same kind."
        )
    return [
        f"Images: {len(source.y):,} to train and validate on, {len(source.y_test):,} to test on; fingerprint "
        f"{settings['images']}. Validation: {split}.{part}",
        f"Budget: {budget} for each model of the table, {_count(plan.experiment_epochs, 'epoch')} in the experiments, "
        f"batches of {plan.batch_size}; {_count(plan.seeds, 'seed')} an experiment. Ranges in brackets are the "
        "smallest and the largest of the seeds; ± is the 95 % interval of the mean difference over them (Student's t).",
        f"Software: {', '.join(f'{name} {_version(name)}' for name in ('numpy', 'pillow', 'matplotlib'))}, Python "
        f"{platform.python_version()}. Other versions or fonts draw other letters; seconds depend on the machine.",
    ]


def _count(number, what):
    return f"{number} {what}{'s' * (number != 1)}"


def _picture(name, pictures):
    return ["", f"![{name}]({pictures[name]})"] if name in pictures else []


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "(missing)"
