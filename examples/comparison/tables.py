"""The table of the comparison, and any other, as text, Markdown and CSV."""

import csv
import io
import itertools

import numpy as np

from comparison.models import MODELS
from comparison.statistics import difference, holm, percent, sign_test, t_test, wilson

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
    """The rows of the comparison as texts, with the columns of `HEADER`, in the order of the models."""
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
                "-" if MODELS[model].lab is None else f"{MODELS[model].lab:g} %",
            )
        )
    return rows


def interval(result):
    """The 95 % interval of a result's test accuracy."""
    return wilson(round(result["test_accuracy"] * result["test_images"]), result["test_images"])


def comparison_csv(plan, results, what):
    """The same as CSV with plain numbers: a line for each model, and the data in every line."""
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
                "" if MODELS[model].lab is None else MODELS[model].lab / 100,
            ]
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


NOTE = (
    "The *95 % interval* (Wilson's) is what the number of test images leaves open. *lab* is the accuracy that the lab "
    "had on notMNIST_large, of whose labels about 6.5 % are wrong (about 0.5 % in notMNIST_small): compare the order "
    "of the models, not the digits. *Multiply-adds* are of one image on its way forward."
)


def sentences(plan, results):
    """What the table does not show: which models differ by more than chance, and which would continue to learn."""
    found = {model: results[plan.table_trial(model).name] for model in plan.models}
    order, lines = _ranked(found), []
    if one := _of_one_seed(plan, results, found):
        counts = [
            f"{better} {only_better:,}, {worse} {only_worse:,} ({_verdict(p)})"
            for (better, worse), (only_better, only_worse, p) in one.items()
        ]
        lines.append(
            f"Each with the next, between these two trained networks (one seed): how many of the "
            f"{found[order[0]]['test_images']:,} test images only the one and only the other had right (sign test, "
            f"Holm's p for {_pairs(one)}): {'; '.join(counts)}."
        )
    if several := _of_several_seeds(plan, results):
        leads = [
            f"{better} before {worse} by {change} points ({_verdict(p)})"
            for (better, worse), (change, p) in several.items()
        ]
        lines.append(
            f"Over {plan.seeds} seeds, each trained for {plan.experiment_epochs} epochs (t test, Holm's p for "
            f"{_pairs(several)}): {'; '.join(leads)}."
        )
    rises = {}
    for model in order:
        course = found[model]["history"].get("val_accuracy", [])
        if len(course) > 1:
            rises[model] = 100 * (course[-1] - course[-2])
    if rises:
        lines.append(
            "Who would go on learning: in the last epoch the validation accuracy changed by "
            + ", ".join(f"{rise:+.1f} points ({model})" for model, rise in sorted(rises.items(), key=lambda x: -x[1]))
            + "."
        )
    return lines


def summary(plan, results):
    """Which model is best, by how much and of what size, in one sentence."""
    found = {model: results[plan.table_trial(model).name] for model in plan.models}
    best, *others = _ranked(found)
    low, high = interval(found[best])
    text = (
        f"Best on test: {best} with {percent(found[best]['test_accuracy'])} (one seed; {found[best]['test_images']:,} "
        f"test images leave {100 * low:.1f} to {100 * high:.1f} % open) and {found[best]['parameters']:,} parameters"
    )
    if others:
        second, last = others[0], others[-1]
        largest = max(others, key=lambda model: found[model]["parameters"])
        text += f"; {second} follows with {percent(found[second]['test_accuracy'])}"
        if (best, second) in (tests := _of_one_seed(plan, results, found)):
            text += f" (between these two trained networks Holm's {_verdict(tests[best, second][2])})"
        elif (best, second) in (tests := _of_several_seeds(plan, results)):
            change, p = tests[best, second]
            text += f" (over {plan.seeds} seeds {change} points, Holm's {_verdict(p)})"
        if last != second:
            text += f", {last} is last with {percent(found[last]['test_accuracy'])}"
        if largest not in (second, last) and found[largest]["parameters"] > found[best]["parameters"]:
            text += (
                f"; the largest, {largest}, has {percent(found[largest]['test_accuracy'])} with "
                f"{found[largest]['parameters']:,} parameters"
            )
    return text + "."


def _of_one_seed(plan, results, found):
    """Each model compared with the next: `{(better, worse): (only better right, only worse right, Holm's p)}`.

    Two reference models are not compared here, but with several seeds, which show more than one.
    """
    seeded = {*plan.seeded(results)}
    pairs = [pair for pair in itertools.pairwise(_ranked(found)) if not {*pair} <= seeded]
    tests = [sign_test(found[better]["right"], found[worse]["right"]) for better, worse in pairs]
    chances = holm([p for _, _, p in tests])
    return {pair: (*test[:2], p) for pair, test, p in zip(pairs, tests, chances, strict=True)}


def _of_several_seeds(plan, results):
    """Each reference model compared with each: `{(better, worse): (difference, Holm's p)}`."""
    values = {model: plan.over_seeds(results, model) for model in plan.seeded(results)}
    pairs = list(itertools.combinations(sorted(values, key=lambda model: -np.mean(values[model])), 2))
    chances = holm([t_test(values[better], values[worse]) for better, worse in pairs])
    return {
        (better, worse): (difference(values[better], values[worse]), p)
        for (better, worse), p in zip(pairs, chances, strict=True)
    }


def _ranked(found):
    return sorted(found, key=lambda model: -found[model]["test_accuracy"])


def _verdict(p):
    """A p, which is corrected for the number of pairs, in words."""
    return f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}, {'they differ' if p < 0.05 else 'not told apart'}"


def _pairs(pairs):
    return f"{len(pairs)} pair{'s' * (len(pairs) != 1)}"


def as_text(header, rows):
    """A table as text: columns aligned, numbers on the right."""
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
    """A table in Markdown, numbers aligned on the right."""
    right = [column > 0 and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    lines = [header, ["---:" if to_right else "---" for to_right in right], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _is_number(text):
    return not text or text[0] in "0123456789+-−" or text == "diverged"
