"""Why a dense network "diverges to 10 %", step by step.

The dense network is trained for some steps with plain SGD, for every learning rate of a list and for three scales of
the same images. The loss of each step is recorded; at some steps also the fraction of dead ReLUs (units that return
zero for every image, and so do not learn any more) and the norm of each layer's gradient.
"""

import math

import numpy as np

import minicnn as mc
from comparison import data
from comparison.trials import Trial

RATES = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
SCALES = {"0 to 255": 255.0, "0 to 1": 1.0, "normalize(x, axis=1)": None}
LAB_RATE = 0.01
CHANCE = 0.1  # the accuracy of a network that always predicts the same letter
SNAPSHOTS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


def sweep(source, seed, steps, batch_size, advance=lambda fraction: None):
    """Every learning rate with every input scale, and what fixes the worst of the usual settings.

    Returns:
        `{"runs": [...], "fixes": [...]}`: what `trace` returns, with the scale, and the learning rate or the fix.
    """
    runs, fixed = [], []
    sets = {scale: _sets(source, scale) for scale in SCALES}
    changes = fixes()
    fraction = 1 / (len(SCALES) * len(RATES) + len(changes))
    for scale in SCALES:
        for rate in RATES:
            result = trace(sets[scale], mc.SGD(rate), seed, steps, batch_size)
            runs.append({"scale": scale, "learning_rate": rate, **result})
            advance(fraction)
    for name, (scale, optimizer) in changes.items():
        fixed.append({"fix": name, "scale": scale, **trace(sets[scale], optimizer, seed, steps, batch_size)})
        advance(fraction)
    return {"runs": runs, "fixes": fixed}


def run_of(sweep, scale, rate):
    """One run of a sweep."""
    return next(run for run in sweep["runs"] if run["scale"] == scale and run["learning_rate"] == rate)


def fixes():
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
    """Train the dense network step by step, and record what happens inside.

    Returns:
        a dict: losses (before each step, up to the first that is not finite), not_finite (its step, or None),
        accuracy on the validation images, answers (how many different letters are predicted for them), dead (the
        fraction of ReLUs), snapshots (step, loss, dead, norms of the gradients by parameter).
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
            loss, dlogits = loss_function(logits, y[batch])
            if not math.isfinite(loss):
                not_finite = step
                break
            losses.append(float(loss))
            backward(dlogits)
            if step in SNAPSHOTS or step == steps - 1:
                snapshot = {"step": step, "loss": float(loss), "dead": dead_fraction(model, x_probe)}
                snapshots.append(snapshot | _norms(model))
            optimizer.step(model.parameters())
        answers = mc.to_numpy(model(x_probe)).argmax(axis=1)  # predict would warn of pixels up to 255
        accuracy = float((answers == y_probe).mean())
        dead = dead_fraction(model, x_probe)
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

    It is dead if nine of ten ReLUs are; otherwise it learns if its accuracy is at least twice that of chance.
    """
    if run["not_finite"] is not None:
        return "not finite"
    if run["dead"] >= 0.9:
        return "dead"
    return "learns" if run["accuracy"] >= 2 * CHANCE else "at chance"


def dead_fraction(model, x):
    """The fraction of hidden units that are zero for every one of these images."""
    for _, layer, _, y, _ in model.trace(x):
        if isinstance(layer, mc.ReLU):
            return float((y <= 0).all(axis=0).mean())
    raise mc.InputError("the network has no ReLU")


def _norms(model):
    norm = mc.optimizers.gradient_norm
    return {"gradients": {name: float(norm({name: parameter})) for name, parameter in model.parameters().items()}}


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
