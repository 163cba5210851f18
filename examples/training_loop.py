"""LeNet-5 trained by a loop that is written out: it shows what `fit` does.

Run it from the project's folder: python examples/training_loop.py
"""

import sys

import numpy as np
from common import finish, load_data, options

import minicnn as mc
from minicnn.console import run_command, show

chosen = options(__doc__.splitlines()[0], name="training_loop", epochs=3, resumes=False)
(x_train, y_train), test, what = load_data(chosen)

model = mc.networks.lenet5(seed=chosen.seed)
loss_function = mc.SoftmaxCrossEntropy()
optimizer = mc.Adam(learning_rate=0.001)
rng = np.random.default_rng(chosen.seed)
history = mc.History()


def train():
    """All epochs, and then the test; returns the exit code."""
    for epoch in range(chosen.epochs):
        order = rng.permutation(len(x_train))  # each epoch uses every image once, in a new order
        total_loss, n_correct = 0.0, 0
        for start in range(0, len(order), chosen.batch_size):
            batch = order[start : start + chosen.batch_size]  # the last one may be smaller
            x, labels = x_train[batch], y_train[batch]  # uint8: the model scales them to [0, 1]

            logits, backward = model.forward(x, training=True)
            loss, dlogits = loss_function(logits, labels)
            backward(dlogits)
            optimizer.step(model.parameters())

            total_loss += float(loss) * len(batch)  # the loss is the mean of the batch: times the images
            n_correct += (mc.to_numpy(logits).argmax(axis=1) == labels).sum()
        history.record({"loss": total_loss / len(order), "accuracy": float(n_correct / len(order))})
        show(f"epoch {epoch + 1}: loss {history['loss'][-1]:.4f}, accuracy {history['accuracy'][-1]:.4f}")

    return finish(model, test, what, chosen, history, optimizer)


sys.exit(run_command(train))  # after Ctrl-C nothing is saved
