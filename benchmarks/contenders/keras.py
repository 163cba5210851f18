"""Keras on TensorFlow as its users write it: `train_on_batch`, `predict_on_batch`, `fit`."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from keras import layers

from benchmarks.contenders.case import EPSILON

NETWORKS = {
    "lenet5": lambda: [
        layers.Conv2D(6, 5, padding="same", activation="tanh"),
        layers.AveragePooling2D(2),
        layers.Conv2D(16, 5, activation="tanh"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(120, activation="tanh"),
        layers.Dense(84, activation="tanh"),
        layers.Dense(10),
    ],
    "conv_pool": lambda: [
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(5000, activation="relu"),
        layers.Dense(10),
    ],
    "two_conv": lambda: [
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(5000, activation="relu"),
        layers.Dense(10),
    ],
}


def make(case):
    tf.config.threading.set_intra_op_parallelism_threads(case.threads)
    tf.config.threading.set_inter_op_parallelism_threads(case.threads)
    return Network(case)


class Network:
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}  # noqa: RUF012, not changed

    def __init__(self, case):
        self.note = "its Adam adds epsilon before the bias correction" if case.uses_adam else ""
        self.batch = case.batch
        images, self.labels = case.data()
        self.images = images.transpose(0, 2, 3, 1).copy()  # (N, H, W, C)
        self.model = keras.Sequential([keras.Input((28, 28, 1)), *NETWORKS[case.net]()])
        for variable, value in zip(self.model.trainable_variables, case.weights_channels_last(), strict=True):
            variable.assign(value)
        rate = case.learning_rate
        self.model.compile(
            optimizer=keras.optimizers.Adam(rate, epsilon=EPSILON) if case.uses_adam else keras.optimizers.SGD(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def rows(self, i):
        start = i * self.batch % len(self.images)
        return slice(start, start + self.batch)

    def step(self, i):
        self.model.reset_metrics()  # so that the loss is this batch's
        return self.model.train_on_batch(self.images[self.rows(i)], self.labels[self.rows(i)])[0]

    def infer(self, i):
        return keras.ops.softmax(self.model.predict_on_batch(self.images[self.rows(i)])).numpy()

    def epoch(self):
        self.model.fit(self.images, self.labels, batch_size=self.batch, epochs=1, verbose=0)
