"""One training step on several ranks: the backend's operations, with the numbers that the ranks must exchange.

Each rank takes its piece of the batch through the layers. What depends on the other pieces:

- the loss, and with it the scale of its gradient: the mean over the batch is `sum over ranks of n_rank / N * mean`;
- the gradients, which are sums over the batch;
- BatchNorm's mean and variance, and Dropout's random numbers, which are the complete batch's.

For a dense weight (r, c) and a batch of N there are three ways, and `choose` takes one by these numbers alone, so that
all ranks take the same, also where one has fewer images than the others:

- "gradient": the matrices are added up. A rank sends about 2 * r * c numbers.
- "factors": the gradient is a product of two thin matrices, `dy.T @ x`. These are gathered: N * (r + c) numbers in all.
- "rows": each rank owns some rows of the weight. The inputs `x` of all ranks are gathered, each rank computes the
  outputs of its rows, and the outputs travel back to the images' ranks; backward the same in reverse. The weight, its
  gradient and the optimizer's memory never travel: 2 * N * (c + r / ranks) numbers, and each rank has only its rows to
  update. What the owner has not sent is out of date on the other ranks until `complete` gathers it.
"""

import contextlib
import copy
import hashlib
import itertools

import numpy as np

from minicnn.backends.numpy.gradients import LowRank
from minicnn.core import operations
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer, kept_arrays, walk
from minicnn.core.layers import Dense
from minicnn.core.metrics import correct
from minicnn.core.operations import Operations
from minicnn.core.sequential import Sequential
from minicnn.parallel.ranks import edges

WIDE = 2**22  # numbers of a weight from which its update costs more than the messages that share it out


def choose(shape, batch_size, ranks, may_share_rows=True):
    """How the ranks share the gradient of a dense weight: "gradient", "factors" or "rows".

    Args:
        shape: of the weight, (units, D).
        batch_size: images of the complete batch.
        ranks: how many there are.
        may_share_rows: False for a weight that something else reads, too.

    >>> choose((5000, 25088), 32, 8), choose((120, 400), 32, 8), choose((10, 84), 32, 8)
    ('rows', 'factors', 'gradient')
    >>> choose((5000, 25088), 8338, 8), choose((5000, 25088), 8339, 8)      # 2 * r * c / (r + c) = 8338.2
    ('factors', 'gradient')
    """
    r, c = shape
    if may_share_rows and r * c >= WIDE and r >= ranks and batch_size * (c + r / ranks) < r * c:
        return "rows"  # each computes 1 / ranks of the update, and less travels than of whole gradients
    return "factors" if batch_size * (r + c) < 2 * r * c else "gradient"


class Exchange:
    """The training steps of a run on several ranks.

    Args:
        ranks: the `Ranks`.
        model, loss, optimizer: of the run.
        batch_size: of the complete batches.
        may_share_rows: False where somebody looks at the weights after each step.
    """

    def __init__(self, ranks, model, loss, optimizer, batch_size, may_share_rows=True):
        self.ranks, self.model, self.loss, self.optimizer = ranks, model, loss, optimizer
        self.batch_size = batch_size
        self.owned = {}  # Parameter: the slice of its rows that this rank owns
        if may_share_rows:
            for weight in _weights_read_by_their_layer_alone(model):
                if choose(weight.value.shape, batch_size, ranks.size) == "rows":
                    cuts = edges(len(weight.value), ranks.size)
                    self.owned[weight] = slice(cuts[ranks.rank], cuts[ranks.rank + 1])
        self._row = self._parameters = None
        self.base = operations.current
        self.operations = _on_ranks(self.base, self)
        self._step = Operations.training_step(self.operations, model, self, optimizer)

    def step(self, x, labels, watch):
        """Train on this rank's piece of a batch, as `Operations.training_step`.

        Returns:
            the loss of the complete batch, and how many of its images are correct.
        """
        with _in_use(self.operations):
            loss, _ = self._step(x, labels, _Watch(self, watch))
        return loss, self.n_correct

    def compute_checked(self, outputs, labels):
        """The loss of the complete batch, and the gradient of it to this rank's outputs."""
        ranks = self.ranks
        value, doutputs = self.loss.compute_checked(outputs, labels)
        numbers = np.zeros(3)  # one message: sum of the losses, images that are correct, signal
        if ranks.count:
            numbers[0] = operations.to_float(value) * ranks.count
            if self.loss.is_classification:
                numbers[1] = operations.to_float(correct(outputs, labels))
        numbers[2] = ranks.own_signal
        table = ranks.gather(numbers)
        ranks.agree(table[:, 2])
        N = sum(ranks.counts)
        self.n_correct = int(table[:, 1].sum())
        loss = 0.0
        for rank_loss in table[:, 0].tolist():
            loss += rank_loss
        return value.dtype.type(loss / N), doutputs * doutputs.dtype.type(ranks.count / N)

    def add_up_gradients(self):
        """Give every parameter the gradient of the complete batch."""
        ranks = self.ranks
        if self._row is not self.model.row:  # it is another list where layers were added
            self._row = self.model.row
            self._parameters = [p for p in dict.fromkeys(self.model.parameters().values()) if p not in self.owned]
        parameters = self._parameters
        if not ranks.count:
            for parameter in parameters:
                parameter.clear_gradient()  # of the image that is borrowed
        # what each rank has: 0 nothing, -1 an array, n factors of n columns
        kinds = ranks.gather(np.array([self._kind(p) for p in parameters], np.int64))
        arrays, factors = [], []
        for parameter, kind in zip(parameters, kinds.T, strict=True):
            if kind.any():
                (factors if kind.min() >= 0 else arrays).append((parameter, kind))
        self._add_arrays(arrays)
        self._gather_factors(factors)

    def is_by_factors(self, weight):
        """Whether the gradient of a weight that is not shared out by rows travels as two thin matrices."""
        return choose(weight.shape, self.batch_size, self.ranks.size, may_share_rows=False) == "factors"

    def _kind(self, parameter):
        """0 for no gradient, the number of columns for factors that are to be gathered, -1 for anything else."""
        if not parameter.has_gradient:
            return 0
        is_thin = all(isinstance(gradient, LowRank) for gradient in parameter.gradients)
        if is_thin and self.is_by_factors(parameter.value):
            return sum(gradient.left.shape[1] for gradient in parameter.gradients)
        return -1

    def _add_arrays(self, items):
        for dtype, group in _by_dtype(items):
            flat = [
                self._total(parameter).reshape(-1) if parameter.has_gradient else np.zeros(parameter.value.size, dtype)
                for parameter, _ in group
            ]
            contributes = np.any([kind != 0 for _, kind in group], axis=0)
            total, start = self.ranks.sum(np.concatenate(flat), contributes), 0
            for parameter, _ in group:
                stop = start + parameter.value.size
                gradient = self.base.array(total[start:stop].reshape(parameter.value.shape))
                parameter.gradients[:] = [gradient]
                start = stop

    def _total(self, parameter):
        return np.ascontiguousarray(self.base.to_numpy(self.base.total(parameter.gradients)))

    def _gather_factors(self, items):
        for _, group in _by_dtype(items):
            send, lengths = [], sum(kind * sum(p.value.shape) for p, kind in group)
            for parameter, _ in group:
                for gradient in parameter.gradients:
                    send += [np.ascontiguousarray(f).reshape(-1) for f in (gradient.left, gradient.right)]
                parameter.clear_gradient()
            dtype = group[0][0].value.dtype
            received = self.ranks.gather_flat(np.concatenate(send) if send else np.empty(0, dtype), lengths.tolist())
            for rank, part in enumerate(np.split(received, np.cumsum(lengths)[:-1])):
                start = 0
                for parameter, kind in group:
                    (r, c), n = parameter.value.shape, kind[rank]
                    if n:
                        left, right = np.split(part[start : start + n * (r + c)], [n * r])
                        start += n * (r + c)
                        parameter.gradients.append(LowRank(left.reshape(r, n), right.reshape(n, c)))

    def complete(self):
        """Send the rows that each rank owns, and those of the optimizer's memory, to the others."""
        for parameter in self.owned:
            memory = self.optimizer.memories.get(parameter, {})
            for array in [parameter.value, *(memory[name] for name in self.optimizer.memory if name in memory)]:
                for owner, (start, stop) in enumerate(itertools.pairwise(edges(len(array), self.ranks.size))):
                    take_over(self.ranks, array[start:stop], owner)


class _Watch:
    """What is called between the lines of a step: the exchange, and then the run's own checks, alike on every rank."""

    def __init__(self, exchange, watch):
        self.exchange, self.watch = exchange, watch

    def check_loss(self, value):
        with _in_use(self.exchange.base):
            self.watch.check_loss(value)

    def check_gradients(self):
        with _in_use(self.exchange.base):
            self.exchange.add_up_gradients()
            self.watch.check_gradients()


class _OnRanks:
    """The operations that look beyond this rank's piece of a batch; mixed into the class of the backend in use."""

    sharing = None  # its chunks share no means: one thread alone speaks with the other ranks

    def uniform(self, shape, seed):
        """The numbers of the complete batch, of which this rank takes its rows."""
        ranks = self.exchange.ranks
        if shape[0] != max(ranks.count, 1):
            return super().uniform(shape, seed)
        return ranks.shard(super().uniform((sum(ranks.counts), *shape[1:]), seed))

    def mean(self, x, axes):
        """Over the complete batch, where the batch is among the axes."""
        if 0 not in axes:
            return super().mean(x, axes)
        ranks, total = self.exchange.ranks, self.to_numpy(x.sum(axis=axes, keepdims=True))
        n = x[0].size // total.size * sum(ranks.counts)
        return self.array(ranks.sum(total) / total.dtype.type(n)), n

    def from_all(self, array, images):
        """What each rank with images of the batch calls this with, its array and its count of images: a list."""
        ranks = self.exchange.ranks
        parts = zip(ranks.gather(array), ranks.counts, strict=True)
        return [(part, count) for part, count in parts if count]

    def linear(self, x, weight):
        exchange = self.exchange
        for parameter, rows in exchange.owned.items():
            if parameter.value is weight:
                return _linear_by_rows(super().linear, x, weight, rows, exchange.ranks)
        y, to_weight, to_input = super().linear(x, weight)
        if exchange.is_by_factors(weight) and isinstance(x, np.ndarray):
            return y, lambda dy: LowRank(dy.T, x), to_input
        return y, to_weight, to_input

    def squared_norm(self, gradients):
        if not any(isinstance(gradient, OwnedRows) for gradient in gradients):
            return super().squared_norm(gradients)
        ranks = self.exchange.ranks
        own = super().squared_norm([gradient.gradient for gradient in gradients])
        return ranks.sum(np.array(operations.to_float(own)), [True] * ranks.size)

    def apply(self, optimizer, changes, scale=None):
        """Of a weight whose rows are shared out, this rank changes its own."""
        own = []
        for value, gradients, arguments in changes:
            owned = [gradient for gradient in gradients if isinstance(gradient, OwnedRows)]
            if owned:
                rows = owned[0].rows
                gradients = [gradient.gradient for gradient in owned]
                arguments = {
                    k: v[rows] if getattr(v, "shape", None) == value.shape else v for k, v in arguments.items()
                }
                value = value[rows]
            own.append((value, gradients, arguments))
        super().apply(optimizer, own, scale)


class OwnedRows:
    """A gradient of which this rank has the rows that it owns, for the images of all ranks."""

    def __init__(self, gradient, rows, shape):
        self.gradient, self.rows, self.shape, self.dtype = gradient, rows, shape, gradient.dtype


def _linear_by_rows(linear, x, weight, rows, ranks):
    """As `Operations.linear`, for a weight of which this rank owns some rows.

    all ranks' x (N, D) -> this rank's units of all images -> this rank's images, all units
    """
    current, dtype, counts = operations.current, weight.dtype, ranks.counts
    (units, D), own_units, n = weight.shape, rows.stop - rows.start, ranks.count
    image_cuts, unit_cuts = [0, *itertools.accumulate(counts)], edges(units, ranks.size)
    widths = [stop - start for start, stop in itertools.pairwise(unit_cuts)]

    def images_of(array, rank):
        return array[image_cuts[rank] : image_cuts[rank + 1]]

    x_all = ranks.gather_flat(current.to_numpy(x[:n]), [count * D for count in counts]).reshape(-1, D)
    y_own, to_weight, to_input = linear(current.array(x_all), weight[rows])  # (N, own units)
    y_own = current.to_numpy(y_own)
    parts = ranks.swap([images_of(y_own, rank) for rank in range(ranks.size)], [(n, width) for width in widths])
    y = np.zeros((max(n, 1), units), dtype)
    y[:n] = np.concatenate(parts, axis=1)
    received = []

    def dy_own(dy):
        """dy (n, units) of this rank's images to dy (N, own units) of all images."""
        if not received:
            dy = current.to_numpy(dy[:n])
            pieces = [dy[:, start:stop] for start, stop in itertools.pairwise(unit_cuts)]
            parts = ranks.swap(pieces, [(count, own_units) for count in counts])
            received.append(current.array(np.concatenate(parts)))
        return received[0]

    def weight_gradient(dy):
        return OwnedRows(to_weight(dy_own(dy)), rows, weight.shape)

    def input_gradient(dy):
        part = current.to_numpy(to_input(dy_own(dy)))  # (N, D): what these units say of all images
        parts = ranks.swap([images_of(part, rank) for rank in range(ranks.size)], [(n, D)] * ranks.size)
        dx = np.zeros((max(n, 1), D), dtype)
        dx[:n] = sum(parts[1:], start=parts[0])
        return current.array(dx)

    return current.array(y), weight_gradient, input_gradient


def _weights_read_by_their_layer_alone(model):
    """The weights of dense layers in the row that learn, where no other layer holds them and could read them."""
    in_rows = Sequential.forward  # of layers that only call the others
    others = [layer for _, layer in walk(model, Layer) if type(layer).forward is not in_rows]
    for _, layer in model.row_to_logits:
        if type(layer) is Dense and layer.weight.trainable:
            holders = [other for other in others if layer.weight in other.parameters().values()]
            if holders == [layer]:
                yield layer.weight


def _by_dtype(items):
    """(dtype, items) of the items (Parameter, kind) of each dtype."""
    for dtype in sorted({str(parameter.value.dtype) for parameter, _ in items}):
        yield dtype, [item for item in items if str(item[0].value.dtype) == dtype]


def _on_ranks(base, exchange):
    """The backend in use, with the operations of `_OnRanks`."""
    found = copy.copy(base)
    found.__class__ = type("OnRanks", (_OnRanks, type(base)), {})
    found.exchange = exchange
    return found


@contextlib.contextmanager
def _in_use(wanted):
    """A block in which another backend computes."""
    before = operations.current
    operations.use(wanted)
    try:
        yield
    finally:
        operations.use(before)


def digest(model):
    """A checksum of all arrays of a model, their names and shapes, and what of it is trainable."""
    checksum = hashlib.blake2b(repr([layer.trainable for _, layer in walk(model, Layer)]).encode())
    for name, item in kept_arrays(model):
        checksum.update(f"{name} {item.value.shape} {item.value.dtype}".encode())
        checksum.update(np.ascontiguousarray(operations.current.to_numpy(item.value)))
    return checksum.hexdigest()


def follow_first(ranks, model):
    """Take over the weights and states of rank 0, where they differ, and what is trainable.

    Returns:
        whether they differed.

    Raises:
        InputError: the models have different layers, or arrays of different shapes.
    """
    if ranks.size == 1 or len(set(ranks.gather_values(digest(model)))) == 1:
        return False
    layers = [layer for _, layer in walk(model, Layer)]
    items = list(kept_arrays(model))
    shape = [[name, list(item.value.shape), str(item.value.dtype)] for name, item in items]
    first = ranks.send([shape, [layer.trainable for layer in layers]])
    if any(ranks.gather_values([shape, len(layers)] != [first[0], len(first[1])])):
        raise ranks.shared(
            InputError(
                "rank 0's model has other layers than that of the others: in a run on several ranks a callback, which "
                "rank 0 alone calls, must not add or replace layers"
            )
        )
    for layer, trainable in zip(layers, first[1], strict=True):
        layer.trainable = trainable  # with all layers inside, which come after it
    for _, item in items:
        take_over(ranks, item.value, 0)
    return True


def take_over(ranks, array, owner):
    """Give every rank the numbers that one of them has in an array, in place; those of the others are overwritten."""
    buffer = np.require(operations.current.to_numpy(array), requirements=["C", "W"])  # the array itself, if possible
    ranks.communicator.Bcast(buffer, root=owner)
    if buffer is not array:
        array[...] = operations.current.array(buffer)
