"""Dense layers with a falling learning rate: large steps first, small steps at the end.

Run it from the project's folder: python examples/dense_falling.py
"""

import sys

from common import options, run

import minicnn as mc

chosen = options(__doc__.splitlines()[0], name="dense_falling", epochs=10)

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

falling = mc.schedules.ExponentialDecay(0.1, every=300, factor=0.7)  # 300 steps: about an epoch of the letters
sys.exit(run(model, mc.SGD(learning_rate=falling), chosen))
