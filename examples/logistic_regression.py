"""Logistic regression: a weighted sum of the pixels for each letter, without hidden units. 7,850 parameters.

Run it from the project's folder: python examples/logistic_regression.py
"""

import sys

from common import options, run

import minicnn as mc

chosen = options(__doc__.splitlines()[0], name="logistic_regression", epochs=10)

model = mc.Sequential(  # (1, 28, 28)
    [
        mc.Flatten(),  # (784,)
        mc.Dense(10),
        mc.Softmax(),
    ],
    input_shape=(1, 28, 28),
    seed=chosen.seed,
)

sys.exit(run(model, mc.SGD(learning_rate=0.01), chosen))
