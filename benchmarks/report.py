"""Medians, ratios, the goals, and all of it as tables."""

import statistics

from benchmarks.turns import DISTURBED

PYTORCH = ("pytorch", "pytorch_channels_last")  # the goals count against the faster of them

STEP_GOALS = {  # step time / best PyTorch's
    "lenet5": {32: 0.55, 128: 0.65, 512: 0.80},
    "conv_pool": {32: 0.50, 128: 0.70, 512: 0.85},
    "two_conv": {32: 0.50, 128: 0.65, 512: 0.75},
    "conv64": {32: 1.0, 128: 1.0},
}
INFERENCE_GOAL = {512: 0.8}
FLOOR_GOALS = {"lenet5": 2.5, "conv_pool": 1.2, "two_conv": 1.2}  # step time / floor at batch 32
PEAK_GOAL = 0.6  # peak memory / PyTorch's
OVERHEAD_GOAL = 0.03  # of fit over bare steps
IMPORT_GOAL = 0.1  # seconds over numpy's

KINDS = {"step": "training step", "infer": "inference", "epoch": "epoch of fit"}


def quiet(turns):
    """The seconds of the turns in which nobody else used the processor; of all turns if fewer than three were."""
    turns = [turn for turn in turns if turn]
    undisturbed = [seconds for seconds, others in turns if others < DISTURBED]
    return undisturbed if len(undisturbed) >= 3 else [seconds for seconds, _ in turns]


def median(turns):
    """The median seconds of undisturbed turns."""
    return statistics.median(quiet(turns))


def ratios(ours, theirs):
    """Ours / theirs, round by round; of undisturbed rounds where there are three."""
    rounds = [(own, their) for own, their in zip(ours, theirs, strict=True) if own and their]
    undisturbed = [pair for pair in rounds if max(pair[0][1], pair[1][1]) < DISTURBED]
    return [own[0] / their[0] for own, their in (undisturbed if len(undisturbed) >= 3 else rounds)]


def quartiles(values):
    """(lower quartile, median, upper quartile)."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def ratio_to(case, what, names):
    """(lower quartile, median, upper quartile) of our ratio to the fastest of these contenders, or None."""
    measured = case["contenders"]
    known = [name for name in names if measured.get(name, {}).get(what)]
    if not known or what not in measured["ours"]:
        return None
    fastest = min(known, key=lambda name: median(measured[name][what]))
    return quartiles(ratios(measured["ours"][what], measured[fastest][what]))


def goals(results):
    """[(goal, wanted, measured, whether reached)] of everything that was measured; lower is better everywhere."""
    rows = []

    def add(goal, wanted, measured, show="{:.2f}"):
        if measured is not None:
            value = measured[1] if isinstance(measured, tuple) else measured
            spread = (
                f" ({show.format(measured[0])} to {show.format(measured[2])})" if isinstance(measured, tuple) else ""
            )
            rows.append((goal, show.format(wanted), show.format(value) + spread, value <= wanted))

    for case in results.get("cases", []):
        net, batch, measured = case["net"], case["batch"], case["contenders"]
        wanted = STEP_GOALS[net].get(batch)
        name = "forward and back" if net == "conv64" else "training step"
        if wanted:
            add(f"{net}, batch {batch}: {name} / PyTorch", wanted, ratio_to(case, "step", PYTORCH))
        if wanted and net != "conv64":
            add(f"{net}, batch {batch}: epoch of fit / PyTorch", wanted, ratio_to(case, "epoch", PYTORCH))
        if batch in INFERENCE_GOAL and net != "conv64":
            add(f"{net}, batch {batch}: inference / PyTorch", INFERENCE_GOAL[batch], ratio_to(case, "infer", PYTORCH))
        if batch == 32 and net in FLOOR_GOALS:
            add(f"{net}, batch {batch}: training step / floor", FLOOR_GOALS[net], ratio_to(case, "step", ["floor"]))
        peaks = [measured[name]["peak"] for name in PYTORCH if name in measured]
        if peaks and net != "conv64":
            add(
                f"{net}, batch {batch}: peak memory in training / PyTorch",
                PEAK_GOAL,
                measured["ours"]["peak"] / min(peaks),
            )
    if "fit_overhead" in results:
        shares = [turn["fit"] / turn["steps"] - 1 for turn in undisturbed_dicts(results["fit_overhead"])]
        add("lenet5, batch 32: fit over its bare steps", OVERHEAD_GOAL, quartiles(shares), "{:.1%}")
    if "import" in results:
        add("import minicnn after import numpy, s", IMPORT_GOAL, quartiles([own for _, own in results["import"]]))
    return rows


def undisturbed_dicts(turns):
    undisturbed = [turn for turn in turns if turn["disturbed"] < DISTURBED]
    return undisturbed if len(undisturbed) >= 3 else turns


def markdown(results):
    """The whole report."""
    parts = []
    for case in results.get("cases", []):
        parts += [f"### {case['net']}, batch {case['batch']}", case_table(case), agreement(case)]
    for item in results.get("profile", []):
        parts += [f"### {item['net']}, batch {item['batch']}: {item['step']:.1f} ms a step", profile_table(item)]
    for title, header, rows in results.get("growth", []):
        parts += [f"### {title}", table(header, rows)]
    if rows := goals(results):
        marked = [
            (goal, f"<= {wanted}", measured, "yes" if reached else "NO") for goal, wanted, measured, reached in rows
        ]
        parts += ["### Goals", table(["goal", "wanted", "measured (quartiles)", "reached"], marked)]
    if "import" in results:
        numpy, own = (1000 * statistics.median(times) for times in zip(*results["import"], strict=True))
        parts.append(f"`import numpy` takes {numpy:.0f} ms, `import minicnn` {own:.0f} ms more.")
    parts += [f"{name} was left out: {reason}." for name, reason in results["missing"].items()]
    parts.append(disturbance(results))
    parts.append("  \n".join(f"{name}: {value}" for name, value in (results["machine"] | results["versions"]).items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def case_table(case):
    """One line for each contender."""
    measured = case["contenders"]
    kinds = [what for what in KINDS if any(times.get(what) for times in measured.values())]
    header = ["", *(column for what in kinds for column in (f"{KINDS[what]}, ms", "ours / this")), "peak, MiB", ""]
    rows = []
    for name, times in measured.items():
        row = [name]
        for what in kinds:
            if not times.get(what):
                row += ["", ""]
                continue
            low, middle, high = (f"{1000 * seconds:.4g}" for seconds in quartiles(quiet(times[what])))
            row.append(f"{middle} ({low} to {high})")
            spread = quartiles(ratios(measured["ours"][what], times[what]))
            row.append("" if name == "ours" else f"{spread[1]:.2f} ({spread[0]:.2f} to {spread[2]:.2f})")
        rows.append([*row, f"{times['peak'] / 2**20:.0f}", times["note"]])
    return table(header, rows)


def agreement(case):
    """Whether everybody computed the same."""
    others = {
        name: times["agrees"] for name, times in case["contenders"].items() if name != "ours" and "agrees" in times
    }
    wrong = [name for name, agrees in others.items() if not agrees]
    if wrong:
        return f"NOT THE SAME COMPUTATION: the first losses of {', '.join(wrong)} differ from ours."
    return f"The first losses from the same weights and batches agree with ours: {', '.join(others)}." if others else ""


def disturbance(results):
    """What share of all turns others disturbed."""
    turns = [
        turn
        for case in results.get("cases", [])
        for times in case["contenders"].values()
        for what in KINDS
        for turn in times.get(what) or []
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
        [name, f"{forward:.2f}", f"{back:.2f}" if back else "", f"{(forward + back) / step:.0%}"]
        for name, forward, back in item["rows"]
    ]
    return table(["", "forward, ms", "back, ms", "share"], rows)


def table(header, rows):
    """A Markdown table that is readable as it stands."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells):
        first, *rest = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
