"""Write the files of Keras that `tests/test_exchange_keras.py` reads where Keras is not installed.

    python tests/exported/make_keras.py            with TensorFlow and Keras 3; with tf_keras also the files of Keras 2

Each network is built and trained by Keras for one epoch on random numbers, and
saved by it. What it answers to `images(...)` is kept in `keras_answers.npz`. The
files are compressed afterwards, because HDF5 files of small networks are mostly
zeros.
"""

import gzip
import pathlib
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def images(shape, count=4):
    """The batch that the networks are asked for."""
    return np.random.default_rng(0).random((count, *shape)).astype("float32")


def notebook(keras):
    """A network in the style of the lab's notebook."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((13, 12, 1)),
            layers.Conv2D(3, 5, padding="same", activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu"),
            layers.MaxPooling2D((2, 1)),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(6, activation="tanh"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def blocks(keras):
    """A functional network with a model inside, in which branches are added and concatenated."""
    layers = keras.layers
    inputs = keras.Input((9, 8, 3))
    x = layers.Conv2D(3, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.SeparableConv2D(3, 3, padding="same", activation="elu")(x)
    y = layers.BatchNormalization(scale=False)(y)
    x = layers.Add()([x, y])
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(x)
    z = layers.Conv2D(2, 1, strides=2)(x)
    x = layers.Concatenate()([y, z, layers.MaxPooling2D(3, strides=2, padding="same")(x)])
    a = layers.Flatten()(layers.AveragePooling2D(2, padding="same")(x))
    x = layers.Concatenate()([a, layers.GlobalAveragePooling2D()(x)])
    x = layers.BatchNormalization()(x)
    head = keras.Sequential([keras.Input(x.shape[1:]), layers.Dropout(0.5), layers.Dense(3), layers.LeakyReLU()])
    return keras.Model(inputs, layers.Dense(3)(head(x)))


def make(keras, make_network, name, endings, answers, folder):
    """Build, train, ask and save one network."""
    keras.utils.set_random_seed(1)
    network = make_network(keras)
    network.compile("adam", "mse")
    x = images(network.input_shape[1:])
    network.fit(x, np.eye(3, dtype="float32")[[0, 1, 2, 0]], verbose=0)
    network.compile()  # so that the optimizer's arrays are not saved
    answers[name] = np.asarray(network(x, training=False))
    for ending in endings:
        path = folder / f"{name}{ending}"
        (network.save_weights if ".weights" in ending else network.save)(path)
        (FOLDER / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))


def main():
    """Write all files."""
    import keras

    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make(keras, notebook, "keras3_notebook", [".keras", ".h5", ".weights.h5"], answers, folder)
        make(keras, blocks, "keras3_blocks", [".keras", ".h5"], answers, folder)
        try:
            import tf_keras
        except ImportError:
            print("tf_keras is not installed: the files of Keras 2 are left as they are")
        else:
            make(tf_keras, notebook, "keras2_notebook", [".h5"], answers, folder)
            make(tf_keras, blocks, "keras2_blocks", [".h5"], answers, folder)
    np.savez_compressed(FOLDER / "keras_answers.npz", **answers)


if __name__ == "__main__":
    main()
