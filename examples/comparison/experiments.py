"""The explanations: which trials each experiment needs, and what their results show.

Each experiment is a function that lists its trials, and one that makes a `Section` of their results: a table, and
sentences with numbers. No conclusion is fixed in the text: whether something is better or worse, and whether the
difference is larger than that between seeds, is computed from the results.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import minicnn as mc
from comparison import divergence, trials
from comparison.models import MODELS, expected_seconds
from comparison.statistics import difference, percent, spread
from comparison.store import Task
from minicnn.training.checkpoint import optimizer_settings

KEPT = (0.0, 0.05, 0.2)  # fractions of the last letter that the lab's split leaves in training


class Section(NamedTuple):
    """The result of an experiment: a table (header, rows of texts), and sentences with what the table does not show.

    The summary is what the experiment adds to the answer to the lab's question, or "".
    """

    title: str
    question: str
    header: tuple
    rows: list
    sentences: list
    summary: str


class Experiment(NamedTuple):
    """An experiment, as two functions.

    Attributes:
        trials: a function of the plan that returns the trials to train.
        read: a function of the plan and the results that returns the `Section`.
    """

    trials: Callable
    read: Callable


def tasks(plan, source, settings):
    """Everything that must be computed, each once, in the order of the plan."""
    wanted = {}
    for model in plan.models:
        trial = plan.table_trial(model)
        wanted[trial.name] = trial
    for name in plan.experiments:
        for trial in EXPERIMENTS[name].trials(plan):
            wanted[trial.name] = trial
    found = [_trial_task(trial, plan, source, settings) for trial in wanted.values()]
    if "divergence" in plan.experiments:
        found += [_divergence_task(seed, plan, source, settings) for seed in range(plan.seeds)]
    return found


def _trial_task(trial, plan, source, settings):
    images = plan.train if trial.images is None else trial.images
    if trial.minutes is not None:
        cost, steps = 60 * trial.minutes, None
    else:
        cost = expected_seconds(
            trial.model, trial.epochs * images, images + 2 * len(source.y_test) + 0.1 * trial.epochs * plan.train
        )
        steps = trial.epochs * math.ceil(images / plan.batch_size)

    def compute(advance):
        return trials.run(trial, source, plan.batch_size, lambda: advance(1 / steps if steps else 0))

    model = MODELS[trial.model]
    training = {
        "network": _layers(model.network),
        "optimizer": optimizer_settings(model.optimizer(1, trial.epochs or trials.EPOCHS_OF_A_SCHEDULE)),
        "others": {name: repr(value) for name, value in model.others().items()},
    }
    return Task(trial.name, settings | training | {"trial": vars(trial)}, cost, compute)


def _divergence_task(seed, plan, source, settings):
    def compute(advance):
        return divergence.sweep(source, seed, plan.divergence_steps, plan.batch_size, advance)

    runs = len(divergence.SCALES) * len(divergence.RATES) + len(divergence.fixes())
    cost = expected_seconds("dense", runs * plan.divergence_steps * plan.batch_size, 0)
    chosen = {
        "network": _layers(mc.networks.dense),
        "steps": plan.divergence_steps,
        "rates": divergence.RATES,
        "fixes": {
            name: {"scale": scale, "optimizer": optimizer_settings(optimizer)}
            for name, (scale, optimizer) in divergence.fixes().items()
        },
    }
    return Task(f"divergence-seed{seed}", settings | chosen, cost, compute)


def _layers(network):
    """The layers of a network as texts, without its weights."""
    return [repr(layer) for layer in network(input_shape=None).layers]


# The experiments: two functions for each.


def _permuted_trials(plan):
    for model in plan.reference_models:
        for seed in range(plan.seeds):
            yield plan.trial(model, seed)
            yield plan.trial(model, seed, permuted=True)


def _permuted(plan, results):
    rows, sentences = [], []
    in_place = {model: plan.over_seeds(results, model) for model in plan.reference_models}
    shuffled = {model: plan.over_seeds(results, model, permuted=True) for model in plan.reference_models}
    for model in plan.reference_models:
        change = difference(shuffled[model], in_place[model])
        verdict = change.sentence("loses", "gains", "not told apart by these seeds")
        rows.append((model, spread(in_place[model]), spread(shuffled[model]), verdict))
    leads = {}
    for model in plan.reference_models:
        if model == "dense" or "dense" not in plan.reference_models:
            continue
        before, after = difference(in_place[model], in_place["dense"]), difference(shuffled[model], shuffled["dense"])
        leads[model] = f"the lead of {model} over dense goes from {before} to {after} points"
    if leads:
        sentences.append(f"With the pixels shuffled {'; '.join(leads.values())}.")
    convolutional = [lead for model, lead in leads.items() if _convolutional(model)]
    return Section(
        "The same images with their pixels shuffled",
        "One fixed permutation moves every pixel of every image to another place. Nothing is lost, only what is a "
        "neighbour of what. Who made use of neighbours?",
        ("model", "in place", "shuffled", "difference in points"),
        rows,
        sentences,
        f"Neighbourhoods ({_seeds(plan)}): when one permutation shuffles every image's pixels, "
        + "; ".join(convolutional or [f"{row[0]} {row[3]}" for row in rows])
        + ".",
    )


def _convolutional(model):
    return any(isinstance(layer, mc.Conv2D) for layer in MODELS[model].network(input_shape=None).layers)


def _seeds(plan):
    return f"{plan.seeds} seeds" if plan.seeds > 1 else "one seed"


def _moved_trials(plan):
    for model in plan.reference_models:
        for seed in range(plan.seeds):
            yield plan.trial(model, seed)


def _moved(plan, results):
    rows, sentences = [], []
    for model in plan.models:
        result = results[plan.table_trial(model).name]
        if result["diverged"] or model in plan.reference_models:
            continue
        plain, moved = result["test_accuracy"], result["moved_accuracy"]
        rows.append((model, "the table, one seed", percent(plain), percent(moved), f"{100 * moved / plain:.0f} %"))
    kept = {}
    for model in plan.reference_models:
        plain = plan.over_seeds(results, model)
        moved = plan.over_seeds(results, model, "moved_accuracy")
        kept[model] = [b / a for a, b in zip(plain, moved, strict=True)]
        rows.append((model, f"the experiments, {_seeds(plan)}", spread(plain), spread(moved), spread(kept[model], 0)))
    order = sorted(kept, key=lambda model: -np.mean(kept[model]))
    pairs = [(better, worse, difference(kept[better], kept[worse])) for better, worse in itertools.pairwise(order)]
    if pairs:
        comparisons = [
            f"{better} against {worse} {change.sentence('keeps less', 'keeps more', 'not told apart by these seeds')}"
            for better, worse, change in pairs
        ]
        sentences.append(f"Of what is kept, {'; '.join(comparisons)}.")
    return Section(
        "The same test images moved by two pixels",
        "Every test image is moved by two pixels, a quarter of them each to the right, left, down and up. The "
        "networks are those trained on images that were not moved.",
        ("model", "network of", "in place", "moved", "kept"),
        rows,
        sentences,
        "",
    )


def _amount_trials(plan):
    for model in plan.reference_models:
        for seed in range(plan.seeds):
            yield plan.trial(model, seed)
            for amount in plan.amounts():
                yield plan.amount_trial(model, seed, amount)


def amount_results(plan, results, model):
    """`{images: [test accuracy of each seed]}` for one model."""
    found = {
        amount: [results[plan.amount_trial(model, seed, amount).name]["test_accuracy"] for seed in range(plan.seeds)]
        for amount in plan.amounts()
    }
    return found | {plan.train: plan.over_seeds(results, model)}


def _amount(plan, results):
    found = {model: amount_results(plan, results, model) for model in plan.reference_models}
    amounts = [*plan.amounts(), plan.train]
    rows = [(model, *(spread(found[model][amount]) for amount in amounts)) for model in plan.reference_models]
    sentences, first = [], []
    for amount in (amounts[0], amounts[-1]):
        if len(plan.reference_models) < 2:
            break
        best, second, *_ = sorted(plan.reference_models, key=lambda model, at=amount: -np.mean(found[model][at]))
        change = difference(found[best][amount], found[second][amount])
        verdict = change.sentence("behind", "ahead", "not told apart by these seeds")
        first.append(f"with {amount:,} images {best}, then {second}: {verdict}")
    if first:
        sentences.append(f"The first two, {'; '.join(first)}.")
    return Section(
        "Accuracy against the number of training images",
        "Each network learns from a part of the training images, in about as many steps each time (few images are "
        "seen more often), so that only the images differ.",
        ("model, by images", *(f"{amount:,}" for amount in amounts)),
        rows,
        sentences,
        f"Amount of data ({_seeds(plan)}): from {amounts[0]:,} to {amounts[-1]:,} training images "
        + ", ".join(
            f"{model} goes from {100 * np.mean(found[model][amounts[0]]):.1f} to "
            f"{percent(np.mean(found[model][amounts[-1]]))} "
            f"({difference(found[model][amounts[-1]], found[model][amounts[0]])} points)"
            for model in plan.reference_models
        )
        + ".",
    )


def _kernel_trials(plan):
    return []


def _kernels(plan, results):
    rows = []
    for model in plan.models:
        kernels = results[plan.table_trial(model).name]["kernels"]
        before, after = np.array(kernels["before"]), np.array(kernels["after"])
        moved = np.linalg.norm(after - before) / np.linalg.norm(before)
        rows.append(
            (
                model,
                " x ".join(map(str, before.shape)),
                f"{100 * moved:.1f} %",
                f"{_roughness(before):.2f}",
                f"{_roughness(after):.2f}",
                f"{_roughness(after - before):.2f}",
            )
        )
    return Section(
        "The first layer's kernels, before and after",
        "What does the first layer look for? The pictures show its weights as they were drawn and as they were "
        "learned. For the numbers: how far they moved, and how rough they are. Roughness is the mean difference of "
        "neighbouring weights, squared, over twice the weights' variance: 1 for pure noise, near 0 for a smooth "
        "picture.",
        ("model", "weights shown", "moved by", "roughness before", "after", "of the change"),
        rows,
        [],
        "",
    )


def _roughness(kernels):
    steps = np.concatenate([np.diff(kernels, axis=axis).ravel() for axis in (1, 2)])
    return float((steps**2).mean() / (2 * kernels.var()))


def _ordered_trials(plan):
    for seed in range(plan.seeds):
        yield plan.trial("lenet5", seed)
        for kept in KEPT:
            yield plan.trial("lenet5", seed, ordered=True, kept=kept)


def _ordered(plan, results):
    variants = [("shuffled, stratified", {})]
    variants += [
        (f"ordered, {100 * kept:g} % of the last letter left" if kept else "ordered", {"ordered": True, "kept": kept})
        for kept in KEPT
    ]
    rows, accuracy = [], {}
    for name, variant in variants:
        last = results[plan.trial("lenet5", 0, **variant).name]["last_class"]
        values = {
            key: plan.over_seeds(results, "lenet5", key, **variant)
            for key in ("train_accuracy", "val_accuracy", "test_accuracy")
        }
        letter = [seed[-1] for seed in plan.over_seeds(results, "lenet5", "class_accuracy", **variant)]
        accuracy[name] = values
        rows.append(
            (name, f"{last['train']:,}", f"{last['validation']:,}", *map(spread, values.values()), spread(letter))
        )
    shuffled, ordered = accuracy["shuffled, stratified"], accuracy["ordered"]
    letter = last["letter"]
    ratio = np.mean(ordered["test_accuracy"]) / np.mean(shuffled["test_accuracy"])
    change = difference(ordered["test_accuracy"], shuffled["test_accuracy"])
    sentences = [
        f"On test the lab's split changes the accuracy by {change} points, {ratio:.2f} of what it should be. The lab "
        "saw 97.9 % on training, 50 % on validation and 88 % on test (notMNIST_large)."
    ]
    return Section(
        "The lab's mistake: the last tenth of ordered images",
        "The lab's images lay ordered by class, and its validation split took the last tenth: nearly all of one "
        "letter, which was then missing from training. Here LeNet-5 learns from both splits, and from ordered ones in "
        "which some of the last letter is put back.",
        (
            "split",
            f"{letter}s to train on",
            f"{letter}s to validate on",
            "training",
            "validation",
            "test",
            f"{letter}s of the test",
        ),
        rows,
        sentences,
        f"The ordered split ({_seeds(plan)}): with the last tenth of ordered images to validate on, lenet5 sees "
        f"{rows[1][1]} {letter}s instead of {rows[0][1]} and has {spread(ordered['train_accuracy'])} on training, "
        f"{spread(ordered['val_accuracy'])} on validation and {spread(ordered['test_accuracy'])} on test, where a "
        f"shuffled, stratified split gives {spread(shuffled['test_accuracy'])} on test.",
    )


def _normalize_trials(plan):
    for model in plan.reference_models:
        for seed in range(plan.seeds):
            yield plan.trial(model, seed)
            yield plan.trial(model, seed, normalized=True)


def _normalize(plan, results):
    rows, sentences = [], []
    for model in plan.reference_models:
        scaled = plan.over_seeds(results, model)
        normalized = plan.over_seeds(results, model, normalized=True)
        change = difference(normalized, scaled)
        verdict = change.sentence("worse", "better", "not told apart by these seeds")
        rows.append((model, spread(scaled), spread(normalized), verdict))
    if "divergence" in plan.experiments:
        best = []
        for scale in ("0 to 1", "normalize(x, axis=1)"):
            runs = {
                rate: [divergence.run_of(sweep, scale, rate) for sweep in sweeps(plan, results)]
                for rate in divergence.RATES
            }
            rate = max(runs, key=lambda rate, runs=runs: _mean(run["accuracy"] for run in runs[rate]))
            first = _mean(run["snapshots"][0]["gradients"]["dense_1.weight"] for run in runs[rate])
            best.append(
                f"{spread([run['accuracy'] for run in runs[rate]])} at {rate:g} with pixels {scale}, where the first "
                f"gradient of the first layer's weights is {first:.2f} long"
            )
        sentences.append(
            f"The learning rate is part of it: the same rate was used for both. With the best of "
            f"{len(divergence.RATES)} rates the dense network has, after {plan.divergence_steps} steps and on "
            f"validation, {'; and '.join(best)}."
        )
    return Section(
        "The lab's preprocessing against plain scaling",
        "The lab divided every column of pixels by its length, `normalize(x, axis=1)`. The alternative is to divide "
        "by 255.",
        ("model", "x / 255", "normalize(x, axis=1)", "difference in points"),
        rows,
        sentences,
        "",
    )


def _divergence_trials(plan):
    return []


def sweeps(plan, results):
    """The results of the divergence experiment, one for each seed."""
    return [results[f"divergence-seed{seed}"] for seed in range(plan.seeds)]


def _divergence(plan, results):
    found = sweeps(plan, results)
    rows, sentences = [], []
    for rate in divergence.RATES:
        same = [[divergence.run_of(sweep, scale, rate) for sweep in found] for scale in divergence.SCALES]
        rows.append((f"SGD {rate:g}", *map(_inside, same)))
    dead = [run for sweep in found for run in sweep["runs"] if divergence.outcome(run) == "dead"]
    infinite = sum(run["not_finite"] is not None for sweep in found for run in sweep["runs"])
    total = sum(len(sweep["runs"]) for sweep in found)
    if dead:
        same = sum(run["answers"] == 1 for run in dead)
        sentences.append(
            f"What failing looks like: of {total} runs {len(dead)} ended dead and {infinite} with numbers that are not "
            f"finite. The dead have {spread([run['dead'] for run in dead])} of their ReLUs at zero for every image "
            f"and an accuracy of {spread([run['accuracy'] for run in dead])}. {same} of the "
            f"{len(dead)} say one and the same letter for every image, of which one in ten shows it. The lab's network "
            f"had 10 %."
        )
    raw, scaled = (
        [divergence.run_of(sweep, scale, divergence.LAB_RATE) for sweep in found] for scale in ("0 to 255", "0 to 1")
    )
    first = [_mean(run["snapshots"][0]["gradients"]["dense_1.weight"] for run in runs) for runs in (raw, scaled)]
    before = [_mean(run["losses"][0] for run in runs) for runs in (raw, scaled)]
    after = [_mean(run["losses"][:2][-1] for run in runs) for runs in (raw, scaled)]
    dead_soon = [spread([run["snapshots"][:4][-1]["dead"] for run in runs]) for runs in (raw, scaled)]
    sentences.append(
        f"Why: at the first step the gradient of the first layer's weights is {first[0]:,.0f} long with pixels 0 to "
        f"255 and {first[1]:.2f} with 0 to 1. One step of SGD {divergence.LAB_RATE:g} takes the loss from "
        f"{before[0]:,.0f} to {after[0]:,.0f}, where 0 to 1 goes from {before[1]:.2f} to {after[1]:.2f}; after three "
        f"steps {dead_soon[0]} of the ReLUs are dead (with 0 to 1: {dead_soon[1]})."
    )
    for index, change in enumerate(found[0]["fixes"]):
        same = [sweep["fixes"][index] for sweep in found]
        if change["scale"] == "0 to 255" and index > 0:  # the others are in the rows of the learning rates
            rows.append((change["fix"], _inside(same), *[""] * (len(divergence.SCALES) - 1)))
    steps = [
        f"step {moment['step'] + 1}: loss {moment['loss']:,.3g}, {percent(moment['dead'], 0)} dead, "
        f"{moment['gradients']['dense_1.weight']:,.3g} and {moment['gradients']['dense_2.weight']:,.3g}"
        for moment in raw[0]["snapshots"]
        if moment["step"] in (0, 1, 2, 5, 10) or moment is raw[0]["snapshots"][-1]
    ]
    calm = [scaled[0]["snapshots"][index] for index in (0, -1)]
    sentences.append(
        f"Step by step (seed 0), with the lengths of the first and of the second layer's gradient: {'; '.join(steps)}. "
        f"With 0 to 1 the loss goes from {calm[0]['loss']:,.3g} to {calm[1]['loss']:,.3g}, the first layer's gradient "
        f"from {calm[0]['gradients']['dense_1.weight']:,.3g} to {calm[1]['gradients']['dense_1.weight']:,.3g}, and "
        f"{percent(calm[1]['dead'], 0)} end dead."
    )
    return Section(
        'The dense network that "diverged to 10 %"',
        f"The dense network makes {plan.divergence_steps} steps of SGD for every learning rate and three ways to feed "
        "it the same pixels. A ReLU is dead if it gives zero for every one of 500 validation images (or all, if there "
        "are fewer). A run is called dead if nine of ten ReLUs are; otherwise it learns if its accuracy is at least "
        "twice that of chance. In a cell: the outcome, the accuracy on validation, the share of dead ReLUs, and the "
        "largest loss on the way. The last rows are single changes to SGD "
        f"{divergence.LAB_RATE:g} on pixels 0 to 255.",
        ("training", *(f"pixels {scale}" if scale[0].isdigit() else scale for scale in divergence.SCALES)),
        rows,
        sentences,
        f"Learning rate and input scale ({_seeds(plan)}): within {plan.divergence_steps} steps SGD "
        f"{divergence.LAB_RATE:g} on pixels 0 to 255 leaves the dense network {spread([run['dead'] for run in raw])} "
        f"of its ReLUs dead and an accuracy of {spread([run['accuracy'] for run in raw])}; on pixels 0 to 1 it is "
        f"{spread([run['accuracy'] for run in scaled])}{_falling(plan, results)}.",
    )


def _inside(runs):
    """The text of a cell: the same run with every seed."""
    words = [divergence.outcome(run) for run in runs]
    outcome = ", ".join(f"{words.count(word)} {word}" if len(set(words)) > 1 else word for word in dict.fromkeys(words))
    return (
        f"{outcome}: {spread([run['accuracy'] for run in runs])}, {percent(_mean(run['dead'] for run in runs), 0)} "
        f"dead, loss up to {max(max(run['losses']) for run in runs):,.3g}"
    )


def _falling(plan, results):
    """The accuracy of the same network in the table with two learning rates, if both are there; or ""."""
    pair = ("dense", "dense_falling")
    if not {*pair} <= {*plan.models}:
        return ""
    accuracies = [
        f"{percent(results[plan.table_trial(model).name]['test_accuracy'])} with {MODELS[model].training}"
        for model in pair
    ]
    return f". In the table (one seed) the same network has {' and '.join(accuracies)}"


def _mean(values):
    return float(np.mean(list(values)))


EXPERIMENTS = {
    "permuted": Experiment(_permuted_trials, _permuted),
    "moved": Experiment(_moved_trials, _moved),
    "amount": Experiment(_amount_trials, _amount),
    "kernels": Experiment(_kernel_trials, _kernels),
    "divergence": Experiment(_divergence_trials, _divergence),
    "ordered": Experiment(_ordered_trials, _ordered),
    "normalize": Experiment(_normalize_trials, _normalize),
}
