"""Task 2 of the lab: a convolution, max pooling, and a dense layer of 5000, by plain SGD. 15,735,170 parameters.

Run it from the project's folder: python examples/conv_pool.py
"""

import sys

from common import options, run

import minicnn as mc

chosen = options(__doc__.splitlines()[0], name="conv_pool", epochs=10)

model = mc.Sequential(  # (1, 28, 28)
    [
        mc.Conv2D(16, 3, padding="same"),  # (16, 28, 28)
        mc.ReLU(),
        mc.MaxPool2D(2),  # (16, 14, 14)
        mc.Flatten(),  # (3136,)
        mc.Dense(5000),
        mc.ReLU(),
        mc.Dense(10),
        mc.Softmax(),
    ],
    input_shape=(1, 28, 28),
    seed=chosen.seed,
)

sys.exit(run(model, mc.SGD(learning_rate=0.01), chosen))
