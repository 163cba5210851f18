"""Why a dense network "diverges to 10 %", step by step.

The dense network is trained for some steps with plain SGD, for every learning rate on a scale and for three ways to
feed it the same images. After each step stands the loss; now and then also the share of dead ReLUs (units that
give zero for every image they are shown, and so learn nothing more) and the length of each layer's gradient.
"""

import math

import numpy as np

import minicnn as mc
from comparison import data
from comparison.trials import Trial

RATES = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
SCALES = {"0 to 255": 255.0, "0 to 1": 1.0, "normalize(x, axis=1)": None}
LAB_RATE = 0.01
CHANCE = 0.1  # the accuracy of one who always says the same letter
SNAPSHOTS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


def sweep(source, seed, steps, batch_size, advance=lambda share: None):
    """Every learning rate with every input scale, and what mends the worst of the usual settings.

    Returns:
        `{"runs": [...], "mends": [...]}`: what `trace` gives, with the scale, the learning rate or the mend.
    """
    runs, ends = [], []
    sets = {scale: _sets(source, scale) for scale in SCALES}
    mended = mends()
    share = 1 / (len(SCALES) * len(RATES) + len(mended))
    for scale in SCALES:
        for rate in RATES:
            found = trace(sets[scale], mc.SGD(rate), seed, steps, batch_size)
            runs.append({"scale": scale, "learning_rate": rate, **found})
            advance(share)
    for name, (scale, optimizer) in mended.items():
        ends.append({"mend": name, "scale": scale, **trace(sets[scale], optimizer, seed, steps, batch_size)})
        advance(share)
    return {"runs": runs, "mends": ends}


def run_of(sweep, scale, rate):
    """One run of a sweep."""
    return next(run for run in sweep["runs"] if run["scale"] == scale and run["learning_rate"] == rate)


def mends():
    """The setting that fails, and single changes to it: `{what is changed: (scale, optimizer)}`."""
    return {
        "nothing: pixels 0 to 255, SGD 0.01": ("0 to 255", mc.SGD(LAB_RATE)),
        "pixels divided by 255": ("0 to 1", mc.SGD(LAB_RATE)),
        "normalize(x, axis=1)": ("normalize(x, axis=1)", mc.SGD(LAB_RATE)),
        "learning rate divided by 255²": ("0 to 255", mc.SGD(LAB_RATE / 255**2)),
        "gradients clipped to length 1": ("0 to 255", mc.SGD(LAB_RATE, clip_norm=1.0)),
        "learning rate warmed up over 50 steps": (
            "0 to 255",
            mc.SGD(mc.schedules.WarmUp(mc.schedules.Constant(LAB_RATE), steps=50)),
        ),
        "Adam 0.001": ("0 to 255", mc.Adam(0.001)),
    }


def trace(sets, optimizer, seed, steps, batch_size):
    """Train the dense network step by step, and note what happens inside.

    Returns:
        a dict: losses (before each step, up to the first that is not finite), not_finite (its step, or None),
        accuracy on the validation images, answers (how many different letters are said of them), dead (share of
        ReLUs), snapshots (step, loss, dead, gradients by parameter).
    """
    model = mc.networks.dense(seed=seed)
    loss_function = mc.SoftmaxCrossEntropy()
    (x, y), (x_probe, y_probe) = sets
    losses, snapshots, not_finite = [], [], None
    rng = np.random.default_rng([seed, 20])
    rows = np.concatenate([rng.permutation(len(y)) for _ in range(1 + steps * batch_size // len(y))])
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            batch = rows[step * batch_size : (step + 1) * batch_size]
            logits, backward = model.forward(x[batch], training=True)
            loss, dlogits = loss_function.compute(logits, y[batch])
            if not math.isfinite(loss):
                not_finite = step
                break
            losses.append(float(loss))
            backward(dlogits)
            if step in SNAPSHOTS or step == steps - 1:
                snapshots.append(
                    {"step": step, "loss": float(loss), "dead": dead_share(model, x_probe)} | _norms(model)
                )
            optimizer.step(model.parameters())
        answers = model.predict(x_probe).argmax(axis=1)
        accuracy = float((answers == y_probe).mean())
        dead = dead_share(model, x_probe)
    return {
        "losses": losses,
        "accuracy": accuracy,
        "dead": dead,
        "answers": len(np.unique(answers)),
        "not_finite": not_finite,
        "snapshots": snapshots,
    }


def outcome(run):
    """One of four words for a run of `trace`: "not finite", "dead", "learns", or "at chance".

    It is dead if nine of ten ReLUs are; otherwise it learns if it is right at least twice as often as chance.
    """
    if run["not_finite"] is not None:
        return "not finite"
    if run["dead"] >= 0.9:
        return "dead"
    return "learns" if run["accuracy"] >= 2 * CHANCE else "at chance"


def dead_share(model, x):
    """The share of hidden units that are zero for every one of these images."""
    hidden = model.prepare(x)
    for layer in model.layers:
        hidden = layer(hidden)
        if isinstance(layer, mc.ReLU):
            return float((hidden <= 0).all(axis=0).mean())
    raise mc.InputError("the network has no ReLU whose death could be looked for")


def _norms(model):
    return {
        "gradients": {
            name: math.sqrt(float(parameter.gradient_norm_squared())) for name, parameter in model.parameters().items()
        }
    }


def _sets(source, scale):
    """Training and validation images on a scale, as float32: the model scales only uint8 images by itself."""
    trial = Trial("experiments", "dense", 1, normalized=SCALES[scale] is None)
    sets = data.prepare(source, trial)
    factor = 1.0 if SCALES[scale] is None else SCALES[scale] / 255
    return tuple((images.astype("float32") * np.float32(factor), y) for images, y in (sets.train, _first(sets)))


def _first(sets):
    """The first 500 validation images: enough to see 10 %."""
    x, y = sets.validation
    return x[:500], y[:500]
