"""Task 3 of the lab: LeNet-5, with tanh and average pooling, trained by Adam. 61,706 parameters.

Run it from the project's folder: python examples/lenet5.py
Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998.
"""

import sys

from common import options, run

import minicnn as mc

chosen = options(__doc__.splitlines()[0], name="lenet5", epochs=10)

model = mc.Sequential(  # (1, 28, 28)
    [
        mc.Conv2D(6, 5, padding="same"),  # (6, 28, 28)
        mc.Tanh(),
        mc.AvgPool2D(2),  # (6, 14, 14)
        mc.Conv2D(16, 5),  # (16, 10, 10)
        mc.Tanh(),
        mc.AvgPool2D(2),  # (16, 5, 5)
        mc.Flatten(),  # (400,)
        mc.Dense(120),
        mc.Tanh(),
        mc.Dense(84),
        mc.Tanh(),
        mc.Dense(10),
        mc.Softmax(),  # training uses the logits before it, predict returns the probabilities after it
    ],
    input_shape=(1, 28, 28),
    seed=chosen.seed,
)

sys.exit(run(model, mc.Adam(learning_rate=0.001), chosen))
