"""How the library is used, for the type checker alone: `mypy` reads it, and nothing runs it.

A line with `type: ignore` is wrong on purpose. mypy reports it if it is *not* found to be wrong.
"""

from typing import assert_type

import numpy as np

import minicnn as mc

x, labels = np.zeros((2, 1, 28, 28), "float32"), np.array([0, 1])
model = mc.Sequential([mc.Conv2D(6, 5), mc.ReLU(), mc.Flatten(), mc.Dense(10)], input_shape=(1, 28, 28))

# A training run, and the loop written out.
history = model.fit(x, labels, optimizer=mc.Adam(mc.StepDecay(0.1, every=3)), callbacks=[mc.EarlyStopping("loss")])
assert_type(history, mc.History)
assert_type(model.predict(x), np.ndarray)
logits, backward = model.forward(x, training=True)
loss, dlogits = mc.SoftmaxCrossEntropy()(logits, labels)
assert_type(backward(dlogits), np.ndarray)
mc.SGD(0.1, momentum=0.9).step(model.parameters())
assert_type(mc.load("model.npz"), mc.Sequential)
mc.Dense(3).build((4,))

# The functions of `mc.exchange` are imported when they are asked for, and have their types before.
assert_type(mc.exchange.load("net.keras"), mc.Sequential)
assert_type(mc.exchange.load_keras("net.keras"), mc.Sequential)
assert_type(mc.exchange.load_onnx("net.onnx", input_shape=(1, 28, 28)), mc.Sequential)
assert_type(mc.exchange.load_weights(model, "net.pt"), dict[str, str | None] | None)
mc.exchange.save(model, "net.keras")
mc.exchange.save_keras(model, "net.keras")
mc.exchange.save_onnx(model, "net.onnx", logits=True)
mc.exchange.save_weights(model, "net.safetensors")


class Double(mc.Layer):
    """A layer of a user's own, whose methods have no types."""

    def forward(self, x, training=False):
        return 2 * x, lambda dy: 2 * dy


mc.testing.check_layer(Double, (3,))

mc.Dense("10")  # type: ignore[arg-type]
mc.Dense(10, "relu")  # type: ignore[call-arg, arg-type]
mc.Conv2D(6, 5, strides=2)  # type: ignore[call-arg]
model.fit(x, labels, optimizer="adam")  # type: ignore[arg-type]
model.fit(x, labels, 10)  # type: ignore[call-arg]
mc.StepDecay(0.1, every="epoch")  # type: ignore[arg-type]
mc.Parameter(x).add_gradient("none")  # type: ignore[arg-type]
mc.exchange.save("net.keras", model)  # type: ignore[arg-type]
mc.exchange.save_keras("net.keras", model)  # type: ignore[arg-type]
mc.exchange.save_onnx("net.onnx", model)  # type: ignore[arg-type]
mc.exchange.save_weights("net.safetensors", model)  # type: ignore[arg-type]
mc.exchange.load_torch("net.pt")  # type: ignore[attr-defined]
mc.Linear(10)  # type: ignore[attr-defined]
