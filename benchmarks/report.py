"""Medians, ratios and goals, as tables."""

import statistics

from benchmarks.contenders.case import BEYOND, LAYERS
from benchmarks.turns import DISTURBED

PYTORCH = ("pytorch", "pytorch_channels_last")  # the goals compare with the faster of them

STEP_GOALS = {  # step time / best PyTorch's
    "lenet5": {32: 0.55, 128: 0.65, 512: 0.80},
    "conv_pool": {32: 0.50, 128: 0.70, 512: 0.85},
    "two_conv": {32: 0.50, 128: 0.65, 512: 0.75},
    "small_resnet": {32: 1.0, 128: 1.0},
} | {net: {16: 1.0, 32: 1.0, 128: 1.0} for net in BEYOND}
INFERENCE_GOAL = {512: 0.8}
INFERENCE_GOAL_BEYOND = 1.2
FLOOR_GOALS = {"lenet5": 2.5, "conv_pool": 1.2, "two_conv": 1.2, "small_resnet": 2.5}  # step time / floor at batch 32
PEAK_GOAL = 0.6  # peak memory / PyTorch's
OVERHEAD_GOAL = 0.03  # of fit over bare steps
IMPORT_GOAL = 0.05  # seconds over numpy's

KINDS = {"step": "training step", "infer": "inference", "epoch": "epoch of fit"}


def undisturbed(rounds):
    """The rounds in which no other process used the processor, if those are three or more; otherwise all.

    Args:
        rounds: tuples of turns, each [seconds, fraction of the processor that other processes used], or None where a
            contender left out its turn.

    Returns:
        (tuples of seconds, whether enough were undisturbed).
    """
    rounds = [turns for turns in rounds if all(turns)]
    quiet = [turns for turns in rounds if all(others < DISTURBED for _, others in turns)]
    enough = len(quiet) >= 3
    return [tuple(seconds for seconds, _ in turns) for turns in (quiet if enough else rounds)], enough


def times(turns):
    """The seconds of each turn that counts."""
    return [seconds for (seconds,) in undisturbed(zip(turns))[0]]


def ratios(ours, theirs):
    """(ours / theirs for each round, whether enough rounds were undisturbed)."""
    rounds, enough = undisturbed(zip(ours, theirs, strict=True))
    return [own / their for own, their in rounds], enough


def quartiles(values):
    """(lower quartile, median, upper quartile)."""
    return tuple(statistics.quantiles(values, n=4, method="inclusive")) if len(values) > 1 else tuple(values * 3)


def spread(values, show):
    """The median and the quartiles as text, or a single value."""
    low, middle, high = (show.format(value) for value in quartiles(values))
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def goals(results):
    """Every measured value that has a goal; lower is always better.

    Returns:
        [{"goal", "wanted", "measured", "reached", "disturbed"}], wanted and measured as text.
    """
    rows = []

    def add(goal, wanted, measured, show="{:.2f}"):
        if measured is not None:
            values, enough = measured
            rows.append(
                {
                    "goal": goal,
                    "wanted": "<= " + show.format(wanted),
                    "measured": spread(values, show),
                    "reached": statistics.median(values) <= wanted,
                    "disturbed": not enough,
                }
            )

    for case in results.get("cases", []):
        net, batch = case["net"], case["batch"]
        name = f"{net}, batch {batch}: "
        if wanted := STEP_GOALS[net].get(batch):
            step = "forward and backward" if net in LAYERS else "training step"
            add(f"{name}{step} / PyTorch", wanted, ratio_to(case, "step", PYTORCH))
            add(f"{name}epoch of fit / PyTorch", wanted, ratio_to(case, "epoch", PYTORCH))
        if net in BEYOND:
            add(f"{name}inference / PyTorch", INFERENCE_GOAL_BEYOND, ratio_to(case, "infer", PYTORCH))
            continue
        if wanted := INFERENCE_GOAL.get(batch):
            add(f"{name}inference / PyTorch", wanted, ratio_to(case, "infer", PYTORCH))
        if batch == 32:
            add(f"{name}training step / floor", FLOOR_GOALS[net], ratio_to(case, "step", ["floor"]))
        add(f"{name}peak memory in training / PyTorch", PEAK_GOAL, peak_ratio(case))
    if "fit_overhead" in results:
        fits, steps = (
            [[turn[what], turn["disturbed"]] for turn in results["fit_overhead"]] for what in ("fit", "steps")
        )
        longer, enough = ratios(fits, steps)
        add("lenet5, batch 32: fit beyond its steps alone", OVERHEAD_GOAL, ([r - 1 for r in longer], enough), "{:.1%}")
    if "import" in results:
        add(
            "import minicnn after import numpy, s", IMPORT_GOAL, ([own for _, own in results["import"]], True), "{:.3f}"
        )
    return rows


def ratio_to(case, what, names):
    """`ratios` to the fastest of these contenders; None if it was not measured."""
    measured = case["contenders"]
    known = [name for name in names if measured.get(name, {}).get(what)]
    if not known or not measured["ours"].get(what):
        return None
    fastest = min(known, key=lambda name: statistics.median(times(measured[name][what])))
    return ratios(measured["ours"][what], measured[fastest][what])


def peak_ratio(case):
    """Our peak memory / the smaller of PyTorch's; None without PyTorch."""
    measured = case["contenders"]
    peaks = [measured[name]["peak"] for name in PYTORCH if name in measured]
    return ([measured["ours"]["peak"] / min(peaks)], True) if peaks else None


def markdown(results):
    """The complete report."""
    sections = []
    for case in results.get("cases", []):
        sections += [f"### {case['net']}, batch {case['batch']}", case_table(case), agreement(case)]
    for item in results.get("profile", []):
        sections += [f"### {item['net']}, batch {item['batch']}: {item['step']:.1f} ms a step", profile_table(item)]
        if item["disturbed"] >= DISTURBED:
            sections.append(f"Disturbed: meanwhile other processes used {item['disturbed']:.0%} of the processor.")
    for title, header, rows in results.get("growth", []):
        sections += [f"### {title}", table(header, rows)]
    if results.get("goals"):
        sections += ["### Goals", goals_table(results["goals"])]
    if "import" in results:
        numpy, own = (1000 * statistics.median(times) for times in zip(*results["import"], strict=True))
        sections.append(f"`import numpy` takes {numpy:.0f} ms, `import minicnn` {own:.0f} ms more.")
    sections += [f"{name} was left out: {reason}." for name, reason in results["missing"].items()]
    sections.append(disturbance(results))
    sections.append(
        "  \n".join(f"{name}: {value}" for name, value in (results["machine"] | results["versions"]).items())
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def case_table(case):
    """One line for each contender."""
    measured = case["contenders"]
    kinds = [what for what in KINDS if any(its.get(what) for its in measured.values())]
    header = ["", *(column for what in kinds for column in (f"{KINDS[what]}, ms", "ours / this")), "peak, MiB", ""]
    rows = []
    for name, its in measured.items():
        row = [name]
        for what in kinds:
            turns = its.get(what)
            row.append(spread([1000 * seconds for seconds in times(turns)], "{:.4g}") if turns else "")
            compared = turns and name != "ours"
            row.append(spread(ratios(measured["ours"][what], turns)[0], "{:.2f}") if compared else "")
        rows.append([*row, f"{its['peak'] / 2**20:.0f}", its["note"]])
    return table(header, rows)


def goals_table(rows):
    """One line for each goal."""
    answers = {True: "yes", False: "NO"}
    return table(
        ["goal", "wanted", "measured (quartiles)", "reached"],
        [
            [row["goal"], row["wanted"], row["measured"], answers[row["reached"]] + ", disturbed" * row["disturbed"]]
            for row in rows
        ],
    )


def agreement(case):
    """Whether all contenders computed the same, in words."""
    others = {name: its["agrees"] for name, its in case["contenders"].items() if name != "ours" and "agrees" in its}
    wrong = [name for name, agrees in others.items() if not agrees]
    if wrong:
        return f"NOT THE SAME COMPUTATION: the first losses of {', '.join(wrong)} differ from ours."
    return f"The first losses from the same weights and batches agree with ours: {', '.join(others)}." if others else ""


def disturbance(results):
    """How many turns other processes disturbed, in words."""
    turns = [
        turn
        for case in results.get("cases", [])
        for its in case["contenders"].values()
        for what in KINDS
        for turn in its.get(what) or []
        if turn
    ]
    if not turns:
        return ""
    disturbed = sum(others >= DISTURBED for _, others in turns)
    return (
        f"{len(turns)} turns; in {disturbed} of them other processes used more than {DISTURBED:.0%} of the processor. "
        "Such turns do not count where three or more were undisturbed."
    )


def profile_table(item):
    step = item["step"]
    rows = [
        [name, *(f"{ms:.2f}" if ms else "" for ms in (forward, backward)), f"{(forward + backward) / step:.0%}"]
        for name, forward, backward in item["rows"]
    ]
    return table(["", "forward, ms", "backward, ms", "of the step"], rows)


def table(header, rows):
    """A Markdown table whose columns are aligned, so that its text is readable, too."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells):
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
