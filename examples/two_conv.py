"""Task 1 of the lab: two convolutions and a dense layer of 5000, by plain SGD. 125,499,810 parameters.

It has half a gigabyte of weights: a step takes a quarter of a second on two cores, and an epoch of 10,000 images a
minute and a half. So the default is one epoch.
Run it from the project's folder: python examples/two_conv.py
"""

import sys

from common import options, run

import minicnn as mc

chosen = options(__doc__.splitlines()[0], name="two_conv", epochs=1)

model = mc.Sequential(  # (1, 28, 28)
    [
        mc.Conv2D(16, 3, padding="same"),  # (16, 28, 28)
        mc.ReLU(),
        mc.Conv2D(32, 3, padding="same"),  # (32, 28, 28)
        mc.ReLU(),
        mc.Flatten(),  # (25088,)
        mc.Dense(5000),
        mc.ReLU(),
        mc.Dense(10),
        mc.Softmax(),
    ],
    input_shape=(1, 28, 28),
    seed=chosen.seed,
)

sys.exit(run(model, mc.SGD(learning_rate=0.01), chosen))
