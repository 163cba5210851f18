"""Sequential with all that a user asks of a model: fit, evaluate, predict, summary, save; and load."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn import console, training
from minicnn.core import operations, sequential
from minicnn.core.arguments import explained
from minicnn.core.checks import check_classes, check_flag, check_integer, quoted
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.layers import LAYERS
from minicnn.core.losses import Loss, SoftmaxCrossEntropy
from minicnn.core.optimizers import Optimizer
from minicnn.core.types import Array, ArrayLike, DType, Path, Shape
from minicnn.inspect import summary
from minicnn.storage import models
from minicnn.training.augmentation import Augmentation
from minicnn.training.callbacks import Callback
from minicnn.training.history import History


class Sequential(sequential.Sequential):
    __doc__ = (
        sequential.Sequential.__doc__
        + """
    >>> import numpy as np
    >>> from minicnn import Dense
    >>> model = Sequential([Dense(3)], input_shape=(4,))
    >>> x, labels = np.ones((2, 4), "float32"), np.array([0, 2])
    >>> history = model.fit(x, labels, epochs=3, verbose=False)      # the four lines again and again
    >>> loss, accuracy = model.evaluate(x, labels)
    >>> model.predict(x).shape, model.count_parameters()
    ((2, 3), 15)
    """
    )

    #: A callback sets it to True to end the training after the batch.
    stop_training = False

    #: The smallest and the largest number of the images in the last `fit`; a file does not keep it.
    learned_range: tuple[float, float] | None = None

    _classes = None

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, a list of str, or None: `model.classes = data.classes`.

        Class k is the one of output k. `save` keeps them, and `explain`, the plots and reports show them. A checkpoint
        does not keep them: they change nothing in the training. A new last layer with another number of outputs drops
        them, with a warning.

        Raises:
            InputError: something that is not a list of different names, or not one for each output of the model.

        >>> from minicnn import Dense
        >>> model = Sequential([Dense(2)], input_shape=(4,))
        >>> model.classes = ["cat", "dog"]
        >>> model.classes[1]
        'dog'
        """
        return self._classes

    @classes.setter
    def classes(self, names: Sequence[str] | None) -> None:
        names = None if names is None else check_classes(names)
        is_known = self.input_shape is not None and not self.layers_changed()
        if names is not None and is_known and self.shapes[-1] != (len(names),):
            raise InputError(_names_error(names, self.shapes[-1]))
        self._classes = names

    def build(self, input_shape: Shape, rng: np.random.Generator | None = None, dtype: DType | None = None) -> Shape:
        output_shape = super().build(input_shape, rng, dtype)
        if self._classes is not None and output_shape != (len(self._classes),):  # such as after a new last layer
            dropped, self._classes = self._classes, None
            console.warn(f"{_names_error(dropped, output_shape)}. They are dropped")
        if rng is None:  # this is not a Sequential inside another
            training.warn_of_channels_last(self.input_shape, [layer for _, layer in self.row])
        return output_shape

    @explained
    def fit(
        self,
        x: Array,
        y: ArrayLike,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        optimizer: Optimizer | None = None,
        loss: Loss | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[Array, ArrayLike] | None = None,
        shuffle: bool = True,
        callbacks: Sequence[Callback] = (),
        verbose: bool = True,
        checkpoint: Path | None = None,
        checkpoint_every: float | None = 300.0,
        resume: bool = False,
        augmentation: Augmentation | None = None,
        communicator: Any = None,
    ) -> History:
        """Train, and report the progress.

        Ctrl-C (or SIGTERM) ends the training after the batch, in good order: the run is saved where it has a
        checkpoint, and TrainingInterrupted, a KeyboardInterrupt, says how to resume it. A second one stops
        immediately. A loss that is not finite ends it with a DivergenceError that says where it began; the model then
        has the last weights known to be good. Gradients that were added before are cleared.

        Args:
            x: (N, *input_shape), floating point or uint8.
            y: labels, as the loss needs them. All arguments after it are given by name.
            epochs: how often every image is seen.
            batch_size: images a step; the last step of an epoch takes the rest.
            optimizer: Adam() by default.
            loss: SoftmaxCrossEntropy() by default.
            validation_split: the fraction of images held out, shuffled and stratified by class.
            validation_data: (x, y) to validate on instead.
            shuffle: a new order every epoch, drawn from the model's seed.
            callbacks: objects as `minicnn.Callback`: `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`,
                `LearningRateScheduler`, `CSVLogger`, `AveragedWeights`, `LambdaCallback`, or your own.
            verbose: a progress bar, or a line an epoch where the output is neither a terminal nor a notebook.
            checkpoint: a file that keeps the complete run, written after every epoch; None for none.
            checkpoint_every: seconds after which it is written within an epoch, too; None for never.
            resume: continue the run in `checkpoint`, to the same bits as if it had never stopped; where the
                file is missing, begin. `epochs` may be another number than before, all else must be the same.
            augmentation: random changes of the training images, anew in every epoch: `minicnn.Augmentation(shift=2)`.
                The images to validate on are never changed.
            communicator: the processes that train the model together, each with a piece of every batch: mpi4py's
                `MPI.COMM_WORLD`. The script is the same for all of them; rank 0 alone shows the progress, calls the
                callbacks and writes the files.

        Returns:
            a `History`: `{"loss": [...], "accuracy": [...], "val_loss": [...], ...}`, one number an epoch.

        Raises:
            InputError: data or settings that cannot be right, found before the first step; a checkpoint of a
                run with other settings; a layer that trains a Parameter which the model does not hold; processes that
                were given different data, weights or settings.
            DivergenceError: numbers that are no longer finite.
            FileError: the checkpoint cannot be read or written.
            TrainingInterrupted: Ctrl-C or SIGTERM; it has the `history` so far.
        """
        return training.fit(
            self,
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss=loss,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=check_flag(shuffle, "shuffle", "fit"),
            callbacks=callbacks,
            verbose=verbose,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=check_flag(resume, "resume", "fit"),
            augmentation=augmentation,
            communicator=communicator,
        )

    @explained
    def evaluate(
        self, x: Array, y: ArrayLike, *, loss: Loss | None = None, batch_size: int = 512
    ) -> tuple[float, float | None]:
        """The mean loss and the accuracy on a data set.

        Args:
            x: (N, *input_shape), floating point or uint8.
            y: labels, as the loss needs them.
            loss: SoftmaxCrossEntropy() by default.
            batch_size: images at a time; bounds the memory.

        Returns:
            (loss, accuracy), two floats: the mean over all images, and the fraction of them that is correct; the
            accuracy is None for a loss of a regression.

        Raises:
            InputError: data or labels that cannot be right, or a loss that does not suit the model.
        """
        return training.evaluate(self, x, y, SoftmaxCrossEntropy() if loss is None else loss, batch_size)

    @explained
    def predict(self, x: Array, *, batch_size: int = 512) -> np.ndarray:
        """The network's outputs for a data set, batch by batch: probabilities where it ends in Softmax.

        Args:
            x: (N, *input_shape), floating point or uint8.
            batch_size: images at a time; bounds the memory.

        Returns:
            a NumPy array (N, ...) of the model's dtype.

        Raises:
            InputError: images that the model cannot take, or that are not finite.
        """
        batch_size = check_integer(batch_size, "batch_size", "predict")
        training.warn_of_scale(self, x, *training.check_images(self, x))
        batches = [operations.current.to_numpy(self(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
        return np.concatenate(batches)

    def count_parameters(self) -> int:
        """How many numbers the model has to learn; an InputError where it has no shape yet."""
        return summary.count_parameters(self)

    def summary(self, batch_size: int = 32, print_fn: Callable[[str], None] = console.show) -> None:
        """Print the layers, their output shapes and parameters, their multiply-adds and the memory of convolutions.

        Args:
            batch_size: of the step whose memory is shown.
            print_fn: called with each line; by default they are printed, as far as `sys.stdout` can show them.

        Raises:
            InputError: the model has no shape yet, or `batch_size` is not an integer above 0.

        >>> from minicnn import Dense
        >>> Sequential([Dense(3)], input_shape=(4,)).summary()
        Layer                       Output shape    Parameters   Multiply-adds      Memory
        ------------------------------------------------------------------------------------
        dense_1 (Dense)                      (3)            15              12           -
        ------------------------------------------------------------------------------------
        Input: (4,), float32
        Parameters: 15 (60 B)
        Multiply-adds an image, forward: 12
        Most memory that a convolution writes besides its output, at batch 32 on the backend numpy: -
        """
        summary.print_summary(self, check_integer(batch_size, "batch_size", "summary"), print_fn)

    def _repr_html_(self):
        """The summary as a table: what a notebook shows."""
        return summary.html_summary(self)

    def save(self, path: Path) -> None:
        """Write the network, its weights and its states to one `.npz` file, atomically and without pickle.

        Args:
            path: the file; `load` reads it.

        Raises:
            FileError: the file cannot be written.
            InputError: the model is not built, or an argument of a layer cannot be kept in a file.
        """
        summary.check_built(self)
        models.save(path, self, LIBRARY)

    def description(self) -> dict[str, Any]:
        """The network without its arrays, as plain values: what a resumed run compares."""
        return models.describe(self, LIBRARY, functions_by_name=True)


def _names_error(names, output_shape):
    return (
        f"model.classes needs one name for each of the model's outputs {output_shape}, got {len(names)}: "
        f"{quoted(', '.join(names), 60)}"
    )


#: Every layer that `load` knows without being told.
LIBRARY = LAYERS | {"Sequential": Sequential}


def load(path: Path, custom_layers: type[Layer] | Sequence[type[Layer]] | dict[str, type[Layer]] = ()) -> Sequential:
    """Read a model that `Sequential.save` wrote.

    Args:
        path: the `.npz` file.
        custom_layers: the classes of layers of your own that the model uses: a class, a list of classes, or
            `{name: class}`. The library's own layers are known; a class of yours is looked up here alone, even one
            that is called `Dense`.

    Returns:
        a `Sequential` on the backend in use.

    Raises:
        FileError: the file is missing, cut, altered, of another version, not a model, or its arrays do not fit
            its description. No code of the file is run, and no array is read before its shape is validated.
        InputError: `custom_layers` holds something that is not a class of layers.

    >>> import tempfile
    >>> from minicnn import Dense
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> Sequential([Dense(3)], input_shape=(4,)).save(path)
    >>> load(path).layers
    [Dense(3)]
    """
    return models.load(path, Sequential, LIBRARY, custom_layers)
