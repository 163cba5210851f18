"""LeNet-5 trained by a loop that is written out: it shows what `fit` does.

Run it from the project's folder: python examples/training_loop.py
"""

import sys

import numpy as np
from common import command, finish, load_data, options

import minicnn as mc
from minicnn.console import show

chosen = options(__doc__.splitlines()[0], name="training_loop", epochs=3, resumes=False)
(x_train, y_train), test, what = load_data(chosen)

model = mc.networks.lenet5(seed=chosen.seed)
loss_function = mc.SoftmaxCrossEntropy()
optimizer = mc.Adam(learning_rate=0.001)
rng = np.random.default_rng(chosen.seed)
history = mc.History()
ranks = chosen.ranks  # this process alone; with --mpi, all that mpiexec has started


def train():
    """All epochs, and then the test; returns the exit code."""
    with ranks:  # an error of one process ends all
        train_epochs()
    return finish(model, test, what, chosen, history, optimizer)


def train_epochs():
    """Every image once in each epoch."""
    for epoch in range(chosen.epochs):
        order = rng.permutation(len(x_train))  # each epoch uses every image once, in a new order
        total_loss, n_correct = 0.0, 0
        for start in range(0, len(order), chosen.batch_size):
            batch = order[start : start + chosen.batch_size]  # the last one may be smaller
            ranks.begin_batch(len(batch))
            rows = ranks.shard(batch)  # the whole batch; with --mpi, the piece of this process
            x, labels = x_train[rows], y_train[rows]  # uint8: the model scales them to [0, 1]

            logits, backward = model.forward(x, training=True)
            loss, dlogits = loss_function(logits, labels)
            backward(dlogits)
            if ranks.size > 1:
                add_up_gradients(len(batch))
            optimizer.step(model.parameters())

            total_loss += float(loss) * ranks.count  # the loss is the mean of the images: times their number
            n_correct += (mc.to_numpy(logits).argmax(axis=1) == labels)[: ranks.count].sum()
        total_loss, n_correct = ranks.gather(np.array([total_loss, n_correct])).sum(axis=0)
        history.record({"loss": float(total_loss / len(order)), "accuracy": float(n_correct / len(order))})
        show(f"epoch {epoch + 1}: loss {history['loss'][-1]:.4f}, accuracy {history['accuracy'][-1]:.4f}")


def add_up_gradients(N):
    """Each process has the mean gradient of its own images: weighted by their number, the sum is that of the batch."""
    for parameter in model.parameters().values():
        gradient = mc.to_numpy(parameter.grad)
        total = ranks.sum(gradient * gradient.dtype.type(ranks.count / N))
        parameter.gradients[:] = [mc.backends.current().array(total)]


sys.exit(command(train, ranks))  # after Ctrl-C nothing is saved
