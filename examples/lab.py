# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The lab, step by step
#
# A university lab on letters A to J, 28 x 28 pixels, in four tasks. There it was a Keras notebook; here every step is
# done with minicnn, and says what Keras's line was. It runs from top to bottom in some minutes on two cores.
#
# You need `pip install "minicnn-numpy[plots]" jupyterlab`. The source of this notebook is `examples/lab.py`, beside it;
# `jupytext --sync examples/lab.ipynb` keeps the two alike.
#
# One of the steps has a mistake in it, as it had in the lab. You will see it in the numbers, find it and fix it.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minicnn as mc

# %% [markdown]
# ## Settings
#
# `DATA` is `"letters"`, which the library draws, or the path of notMNIST's archive, such as `"notMNIST_small.tar.gz"`.
# The lab took all images and 10 epochs. With fewer of both you see the same in less time.

# %% tags=["parameters"]
DATA = "letters"
IMAGES = 3000
EPOCHS = 3
UNITS = 5000  # of the wide dense layer: half a gigabyte of weights in task 1; take 500 on a small machine

# %% [markdown]
# ## The data
#
# The archive has a folder for each letter, and its images come in this order: first every A, then every B. The letters
# of the library come shuffled, so they are put into the same order.
#
# Keras has no line for this: the lab read the PNG files of the archive one by one.

# %%
rng = np.random.default_rng(0)
if DATA == "letters":
    (images, labels), _ = mc.datasets.load_letters(train=IMAGES, test=1)
else:
    data = mc.datasets.read_notmnist(DATA)
    some = rng.permutation(len(data.images))[:IMAGES]
    images, labels = data.images[some], data.labels[some]
in_order = np.argsort(labels, kind="stable")
images, labels = images[in_order], labels[in_order]
print(images.shape, images.dtype, "pixels from", images.min(), "to", images.max())

# %% [markdown]
# ## An image
#
# The same line as in the lab. An image is a matrix of numbers: 0 is black, 255 is white.

# %%
plt.figure(figsize=(2.5, 2.5))
plt.imshow(images[0], cmap="gray")
plt.title(f"label {labels[0]}: the letter {mc.datasets.LETTERS[labels[0]]}")
plt.show()

# %% [markdown]
# ## Normalise
#
# Keras: `x = keras.utils.normalize(x, axis=1)`
#
# Every column of pixels is divided by its length (its L2 norm). Then the channel axis is added. Keras has it last,
# `(N, 28, 28, 1)`; here an image is `(C, H, W)`, so a batch is `(N, 1, 28, 28)`.

# %%
x = mc.datasets.normalize(images, axis=1)[:, None]
print(x.shape, x.dtype, "numbers from", x.min(), "to", x.max())

# %% [markdown]
# ## One-hot labels
#
# Keras: `y = keras.utils.to_categorical(labels, 10)`
#
# Row k of the identity matrix is the one-hot code of class k. In minicnn the labels may also stay as they are: the loss
# takes both.

# %%
y = np.eye(10)[labels]
print("label", labels[0], "is the row", y[0])

# %% [markdown]
# ## Hold out a test set
#
# Scikit-learn: `train_test_split(x, y, test_size=0.1)`
#
# A tenth of the images, drawn at random, is kept for the test. No network sees it in training.

# %%
is_test = np.zeros(len(x), dtype=bool)
is_test[rng.choice(len(x), len(x) // 10, replace=False)] = True
x_test, y_test = x[is_test], y[is_test]
x_rest, y_rest = x[~is_test], y[~is_test]
print(f"{len(x_rest)} images to train and validate on, {len(x_test)} to test")

# %% [markdown]
# ## Hold out a validation set
#
# Keras: `model.fit(x, y, validation_split=0.1)`
#
# Keras holds out **the last tenth** of what it is given, before it shuffles anything. Here is the same in three lines.
# (minicnn's `fit(validation_split=0.1)` does something else. You will see why.)


# %%
def lab_split(y):
    """The rows to train on, and the rows to validate on: the last tenth."""
    rows = np.arange(len(y))
    count = len(y) // 10
    return rows[:-count], rows[-count:]


train, validation = lab_split(y_rest)
print(f"{len(train)} images to train on, {len(validation)} to validate on")

# %% [markdown]
# ## Task 1: two convolutions
#
# Keras:
#
# ```python
# model = Sequential([
#     Conv2D(16, (3, 3), padding="same", activation="relu", input_shape=(28, 28, 1)),
#     Conv2D(32, (3, 3), padding="same", activation="relu"),
#     Flatten(),
#     Dense(5000, activation="relu"),
#     Dense(10),
# ])
# ```
#
# An activation is a layer of its own here. The network ends in `Softmax`, so `predict` returns probabilities; `fit`
# computes the loss from the numbers before it, as Keras does with `from_logits=True`. It is a function, because task 4
# needs the network again with new weights.


# %%
def two_conv():
    return mc.Sequential(
        [
            mc.Conv2D(16, 3, padding="same"),
            mc.ReLU(),
            mc.Conv2D(32, 3, padding="same"),
            mc.ReLU(),
            mc.Flatten(),
            mc.Dense(UNITS),
            mc.ReLU(),
            mc.Dense(10),
            mc.Softmax(),
        ],
        input_shape=(1, 28, 28),
    )


model = two_conv()
model.summary()

# %% [markdown]
# Keras: `model.summary()`, the same line. Nearly all parameters are in the first dense layer: 25,088 inputs times its
# units.
#
# ### Training
#
# Keras:
#
# ```python
# model.compile(optimizer=SGD(0.01), loss=CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
# history = model.fit(x, y, batch_size=32, epochs=10, validation_split=0.1)
# ```
#
# There is no `compile`: `fit` takes the optimizer. The loss is `mc.SoftmaxCrossEntropy()` if you give none. This is the
# slowest step: about half a minute an epoch.

# %%
history = model.fit(
    x_rest[train],
    y_rest[train],
    epochs=EPOCHS,
    batch_size=32,
    optimizer=mc.SGD(0.01),
    validation_data=(x_rest[validation], y_rest[validation]),
)

# %% [markdown]
# ### Curves
#
# Keras: `plt.plot(history.history["accuracy"])`, and once more for `val_accuracy`.

# %%
mc.plots.training_curves(history)

# %% [markdown]
# ### Evaluation
#
# Keras: `model.evaluate(x_test, y_test)`, the same line. `mc.Comparison` calls it, and keeps the result beside what was
# measured in training; the last line of the cell shows the table.

# %%
loss, accuracy = model.evaluate(x_test, y_test)
print(f"test loss {loss:.3f}, test accuracy {100 * accuracy:.1f} %")
lab = mc.Comparison(x_test, y_test)
lab.add("two convolutions", model, history)

# %% [markdown]
# ## Task 2: convolution and pooling
#
# Keras: one `Conv2D(16, (3, 3), padding="same", activation="relu")`, then `MaxPooling2D((2, 2))`, then as before.


# %%
def conv_pool():
    return mc.Sequential(
        [
            mc.Conv2D(16, 3, padding="same"),
            mc.ReLU(),
            mc.MaxPool2D(2),
            mc.Flatten(),
            mc.Dense(UNITS),
            mc.ReLU(),
            mc.Dense(10),
            mc.Softmax(),
        ],
        input_shape=(1, 28, 28),
    )


model = conv_pool()
model.summary()

# %%
history = model.fit(
    x_rest[train],
    y_rest[train],
    epochs=EPOCHS,
    batch_size=32,
    optimizer=mc.SGD(0.01),
    validation_data=(x_rest[validation], y_rest[validation]),
)
lab.add("convolution, pooling", model, history)

# %% [markdown]
# ## Task 3: LeNet-5
#
# Keras:
#
# ```python
# model = Sequential([
#     Conv2D(6, (5, 5), padding="same", activation="tanh", input_shape=(28, 28, 1)), AveragePooling2D((2, 2)),
#     Conv2D(16, (5, 5), activation="tanh"), AveragePooling2D((2, 2)),
#     Flatten(), Dense(120, activation="tanh"), Dense(84, activation="tanh"), Dense(10, activation="softmax"),
# ])
# model.compile(optimizer=Adam(0.001), loss="categorical_crossentropy", metrics=["accuracy"])
# ```


# %%
def lenet5():
    return mc.Sequential(
        [
            mc.Conv2D(6, 5, padding="same"),
            mc.Tanh(),
            mc.AvgPool2D(2),
            mc.Conv2D(16, 5),
            mc.Tanh(),
            mc.AvgPool2D(2),
            mc.Flatten(),
            mc.Dense(120),
            mc.Tanh(),
            mc.Dense(84),
            mc.Tanh(),
            mc.Dense(10),
            mc.Softmax(),
        ],
        input_shape=(1, 28, 28),
    )


model = lenet5()
model.summary()

# %%
history = model.fit(
    x_rest[train],
    y_rest[train],
    epochs=EPOCHS,
    batch_size=32,
    optimizer=mc.Adam(0.001),
    validation_data=(x_rest[validation], y_rest[validation]),
)
lab.add("LeNet-5", model, history)

# %%
mc.plots.training_curves(lab.histories)

# %% [markdown]
# ## Something is wrong
#
# Look at the table and at the curves. All three networks learn: the accuracy on the training set rises. On the test
# set it is nearly as high, and no network has seen an image of it. But on the validation set, which no network has seen
# either, it is far lower, near zero. In the lab it was 97.9 % on training, 50 % on validation and 88 % on test.
#
# Test set and validation set are both held out. What is different about them?
#
# **Your turn.** Find out which images are in the validation set. `y_rest[validation]` has their labels, one-hot.

# %%
# Write here. What do the first and the last rows of y_rest[validation] say?


# %% [markdown]
# <details><summary>A hint</summary>
#
# `y_rest[validation].sum(axis=0)` counts the images of each letter. Compare it with `y_rest[train].sum(axis=0)`.
#
# </details>
#
# <details><summary>The answer</summary>
#
# The images are in the order of their letters, so the last tenth of them is all images of J, or nearly all. The
# networks are asked for a letter that they have hardly ever seen, and they do not know it. So the number says nothing
# about the other nine letters. And J is missing in training: on the test set nearly every J is wrong, which costs about
# a tenth of the accuracy.
#
# The test set was drawn at random, so it has all ten letters.
#
# </details>
#
# ## Fix it
#
# **Your turn.** Change `my_split`, so that both sets have every letter. It is still the lab's. The next cell checks it.


# %%
def my_split(y):
    """The rows to train on, and the rows to validate on: a tenth."""
    rows = np.arange(len(y))
    count = len(y) // 10
    return rows[:-count], rows[-count:]


# %%
def problem(split):
    """What is wrong with a split, in words; empty if nothing is."""
    train, validation = split(y_rest)
    if not np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(y_rest))):
        return "not every image is on exactly one side"
    if not 0.05 < len(validation) / len(y_rest) < 0.15:
        return f"{len(validation)} of {len(y_rest)} images are held out, and that is not about a tenth"
    counts = y_rest[validation].sum(axis=0)
    missing = [letter for letter, count in zip(mc.datasets.LETTERS, counts, strict=True) if count == 0]
    if missing:
        return f"no image of {', '.join(missing)} is in the validation set"
    return ""


print("your split: " + (problem(my_split) or "fixed, every letter is on both sides"))

# %% [markdown]
# <details><summary>A hint</summary>
#
# `rng.permutation(len(y))` is the rows in random order.
#
# </details>
#
# <details><summary>The answer</summary>
#
# Shuffle before you split: `rows = rng.permutation(len(y))` in the first line is enough. It leaves to chance how many
# images of each letter are held out. To hold out a tenth of **every** letter is better, which is called *stratified*:
# `mc.datasets.stratified_split` does it, and so does `fit(validation_split=0.1)`.
#
# </details>
#
# If your split is fixed, it is used from here on; else the stratified one is.

# %%
if problem(my_split):
    train, validation = mc.datasets.stratified_split(y_rest.argmax(axis=1), 0.1, rng)
else:
    train, validation = my_split(y_rest)
print("images of each letter to validate on:", y_rest[validation].sum(axis=0).astype(int))

# %% [markdown]
# ## Task 4: the comparison
#
# *Compare the best accuracies of labs 1 to 3. How do you explain the differences?*
#
# The networks of the earlier labs are in the library: logistic regression, one dense layer of 1000 units, the same with
# L2 and dropout, and the same with a falling learning rate. They are trained on the fixed split, and the three of this
# lab again with new weights.
#
# Keras: `Dropout(0.5)` is the same. `kernel_regularizer=l2(0.0005)` is the optimizer's `weight_decay=0.001`: it is
# added to the gradient, and the gradient of 0.0005 w² is 0.001 w. `ExponentialDecay` has the same name.

# %%
steps = -(-len(train) // 32)  # in an epoch
falling = mc.schedules.ExponentialDecay(0.1, every=steps, factor=0.7)
NETWORKS = {
    "logistic regression": (mc.networks.logistic_regression, mc.SGD(0.01)),
    "dense layers": (mc.networks.dense, mc.SGD(0.01)),
    "dense, L2 and dropout": (mc.networks.dense_dropout, mc.SGD(0.01, weight_decay=0.001)),
    "dense, falling rate": (mc.networks.dense, mc.SGD(falling)),
    "two convolutions": (two_conv, mc.SGD(0.01)),
    "convolution, pooling": (conv_pool, mc.SGD(0.01)),
    "LeNet-5": (lenet5, mc.Adam(0.001)),
}
comparison = mc.Comparison(x_test, y_test)
for name, (network, optimizer) in NETWORKS.items():
    print(name, flush=True)
    model = network()
    history = model.fit(
        x_rest[train],
        y_rest[train],
        epochs=EPOCHS,
        batch_size=32,
        optimizer=optimizer,
        validation_data=(x_rest[validation], y_rest[validation]),
    )
    comparison.add(name, model, history)

# %% [markdown]
# The table, the best network first, and all curves in the same axes. Validation and test now agree, as two sets of
# unseen images should.

# %%
comparison.best_first()

# %%
mc.plots.training_curves(comparison.histories)

# %% [markdown]
# In the lab, on all images of notMNIST_large and after 10 epochs:
#
# | network | test accuracy in the lab |
# |---|---|
# | logistic regression | 81 % |
# | dense layers | 10 % (it diverged) |
# | dense, L2 and dropout | 72 % |
# | dense, falling rate | 72 % |
# | two convolutions | 88.4 % |
# | convolution, pooling | 87.4 % |
# | LeNet-5 | 87.0 % |
#
# ## What is hard for LeNet-5
#
# It is the network that was trained last. Which letters does it take for which?
#
# Scikit-learn: `ConfusionMatrixDisplay.from_predictions(y_true, y_pred)`

# %%
mc.plots.confusion_matrix(y_test, model.predict(x_test), mc.datasets.LETTERS)

# %%
mc.plots.confident_mistakes(model, x_test, y_test, mc.datasets.LETTERS, count=8)

# %% [markdown]
# ## Questions
#
# 1. LeNet-5 has 61,706 parameters, the network of task 1 has 2,000 times as many. Which of the two is better here, and
#    which learns faster? Change `EPOCHS` and see.
# 2. Which networks have a large gap between training and validation? What do L2 and dropout change about it?
# 3. Replace `normalize(images, axis=1)` by `images / 255`. Which networks gain the most? Why? Look at the size of the
#    numbers, and at the learning rate.
# 4. What makes the convolutions better than the dense layers? Shuffle the pixels of all images in the same way
#    (`images.reshape(-1, 784)[:, rng.permutation(784)].reshape(-1, 28, 28)`) and train again. Who loses?
#
# `python examples/compare.py --quick` measures the answers. `docs/comparison-notmnist.md` has them for notMNIST.
