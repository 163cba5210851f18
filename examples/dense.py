"""Dense layers only: 1000 hidden units that do not know which pixels are neighbours. 795,010 parameters.

The lab's diverged to 10 %. Why, and what fixes it: python examples/compare.py --experiments divergence
Run it from the project's folder: python examples/dense.py
"""

import sys

from common import options, run

import minicnn as mc

chosen = options(__doc__.splitlines()[0], name="dense", epochs=10)

model = mc.Sequential(  # (1, 28, 28)
    [
        mc.Flatten(),  # (784,)
        mc.Dense(1000),
        mc.ReLU(),
        mc.Dense(10),
        mc.Softmax(),
    ],
    input_shape=(1, 28, 28),
    seed=chosen.seed,
)

sys.exit(run(model, mc.SGD(learning_rate=0.01), chosen))
