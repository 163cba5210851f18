"""Dense layers with L2 and dropout: large weights are penalised, and half of the hidden units are dropped in training.

Run it from the project's folder: python examples/dense_dropout.py
"""

import sys

from common import options, run

import minicnn as mc

chosen = options(__doc__.splitlines()[0], name="dense_dropout", epochs=10)

model = mc.Sequential(  # (1, 28, 28)
    [
        mc.Flatten(),  # (784,)
        mc.Dense(1000),
        mc.ReLU(),
        mc.Dropout(0.5),
        mc.Dense(10),
        mc.Softmax(),
    ],
    input_shape=(1, 28, 28),
    seed=chosen.seed,
)

sys.exit(run(model, mc.SGD(learning_rate=0.01, weight_decay=1e-3), chosen))
