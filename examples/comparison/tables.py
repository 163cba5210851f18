"""The table of the comparison, and any other, as text, Markdown and CSV."""

import csv
import io
import itertools

from comparison.models import MODELS
from comparison.statistics import holm, percent, sign_test, wilson

HEADER = (
    "model",
    "training",
    "parameters",
    "multiply-adds",
    "s an epoch",
    "epochs",
    "training set",
    "validation",
    "test",
    "95 % interval",
    "lab, on notMNIST_large",
)


def comparison(plan, results):
    """The rows of the comparison, as texts under `HEADER`, in the order of the models."""
    rows = []
    for model in plan.models:
        result = results[plan.table_trial(model).name]
        seconds = result["seconds_an_epoch"]
        rows.append(
            (
                model,
                MODELS[model].training,
                f"{result['parameters']:,}",
                f"{result['multiply_adds']:,}",
                "-" if seconds is None else f"{seconds:.2f}",
                f"{result['epochs']:.3g}",
                *(percent(result[key]) for key in ("train_accuracy", "val_accuracy")),
                "diverged" if result["diverged"] else percent(result["test_accuracy"]),
                "{:.1f} to {:.1f} %".format(*(100 * end for end in interval(result))),
                f"{MODELS[model].lab:g} %",
            )
        )
    return rows


def interval(result):
    """The 95 % interval of a result's test accuracy."""
    return wilson(round(result["test_accuracy"] * result["test_images"]), result["test_images"])


def comparison_csv(plan, results, what):
    """The same with plain numbers, one line a model, and the data in every line."""
    measured = ("parameters", "multiply_adds", "seconds_an_epoch", "epochs")
    measured += ("train_accuracy", "val_accuracy", "test_accuracy")
    rows = [["data", "model", *measured, "test_low", "test_high", "diverged", "lab_on_notmnist_large"]]
    for model in plan.models:
        result = results[plan.table_trial(model).name]
        rows.append(
            [
                what,
                model,
                *(result[key] for key in measured),
                *interval(result),
                int(bool(result["diverged"])),
                MODELS[model].lab / 100,
            ]
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def sentences(plan, results):
    """What the table says, model against model: who is right where the other is wrong, and what the best costs."""
    found = {model: results[plan.table_trial(model).name] for model in plan.models}
    order = sorted(found, key=lambda model: -found[model]["test_accuracy"])
    said, pairs = [], list(itertools.pairwise(order))
    tests = [sign_test(found[better]["right"], found[worse]["right"]) for better, worse in pairs]
    for (better, worse), (only_better, only_worse, _), p in zip(pairs, tests, holm([t[2] for t in tests]), strict=True):
        verdict = "these two trained networks differ" if p < 0.05 else "not told apart by this test set"
        said.append(
            f"{better} against {worse}: of {found[better]['test_images']:,} test images {only_better:,} were right "
            f"with the first only, {only_worse:,} with the second only "
            f"(sign test, Holm's p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}): {verdict}."
        )
    if {"dense", "dense_falling"} <= {*order}:
        said.append(
            "The same network, another learning rate: "
            + " and ".join(
                f"{percent(found[model]['test_accuracy'])} with {MODELS[model].training} ({model})"
                for model in ("dense", "dense_falling")
            )
            + "."
        )
    rises = {}
    for model in order:
        course = found[model]["history"].get("val_accuracy", [])
        if len(course) > 1:
            rises[model] = 100 * (course[-1] - course[-2])
    if rises:
        said.append(
            "Who would go on learning: in the last epoch the validation accuracy changed by "
            + ", ".join(f"{rise:+.1f} points ({model})" for model, rise in sorted(rises.items(), key=lambda x: -x[1]))
            + "."
        )
    best, largest = order[0], max(found, key=lambda model: found[model]["parameters"])
    if best != largest:
        said.append(
            f"{best}, the best on test here, has {found[best]['parameters']:,} parameters, and {largest}, the largest, "
            f"{found[largest]['parameters']:,}; an epoch took {found[best]['seconds_an_epoch'] or 0:.1f} s and "
            f"{found[largest]['seconds_an_epoch'] or 0:.1f} s."
        )
    return said


def gist(plan, results):
    """Who is first, and whether by more than chance, in one sentence."""
    found = {model: results[plan.table_trial(model).name] for model in plan.models}
    order = sorted(found, key=lambda model: -found[model]["test_accuracy"])
    shown = [f"{model} {percent(found[model]['test_accuracy'])}" for model in order]
    low, high = interval(found[order[0]])
    return (
        f"From the best to the worst on test: {', '.join(shown)}; one seed each, and the test set leaves the best "
        f"one's open from {percent(low)} to {percent(high)}."
    )


def as_text(header, rows):
    """Columns that are aligned, numbers to the right."""
    table = [header, *rows]
    widths = [max(len(str(row[column])) for row in table) for column in range(len(header))]
    right = [column > 0 and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            str(cell).rjust(width) if to_right else str(cell).ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def as_markdown(header, rows):
    """A Markdown table, numbers to the right."""
    right = [column > 0 and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    lines = [header, ["---:" if to_right else "---" for to_right in right], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _is_number(text):
    return not text or text[0] in "0123456789+-−" or text == "diverged"
