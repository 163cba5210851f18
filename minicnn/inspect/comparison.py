"""Several networks on one test set, as a table: the last line of a notebook's cell shows it.

A network is measured when it is added, and only its numbers are kept. So a large one can be deleted before the next one
is trained.
"""

from collections.abc import Mapping
from typing import Any, Self

from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.types import ArrayLike
from minicnn.markup import table

HEADER = ("network", "parameters", "epochs", "s an epoch", "training", "validation", "test")


class Comparison:
    """The accuracies of several networks on one test set: a table in a notebook, and as text.

    Args:
        x: the test images, (N, *input_shape), floating point or uint8; or for each network its own, see `add`.
        y: their labels.

    Attributes:
        histories: {name: History}, as `plots.training_curves` takes them.
        accuracies: {name: the accuracy on the test set}.

    >>> import numpy as np
    >>> import minicnn as mc
    >>> x, labels = np.eye(4, dtype="float32"), np.arange(4)
    >>> model = mc.Sequential([mc.Dense(4)], input_shape=(4,))
    >>> history = model.fit(x, labels, epochs=300, optimizer=mc.Adam(0.1), verbose=False)
    >>> comparison = Comparison(x, labels).add("one layer", model, history)
    >>> comparison.accuracies, [line[:29] for line in str(comparison).splitlines()[::2]]
    ({'one layer': 1.0}, ['network    parameters  epochs', 'one layer          20     300'])
    """

    def __init__(self, x: ArrayLike, y: ArrayLike) -> None:
        self.x, self.y = x, y
        self.histories: dict[str, Mapping] = {}
        self.accuracies: dict[str, float | None] = {}
        self._rows: dict[str, list[str]] = {}

    def add(self, name: str, model: Any, history: Mapping, *, x: ArrayLike | None = None) -> Self:
        """Measure a network on the test set, and add its row; a row of the same name is replaced.

        Args:
            name: of the row.
            model: a `Sequential`.
            history: what its `fit` returned.
            x: the test images as this network takes them, if it was trained on images that were changed.

        Returns:
            the comparison, so that the last line of a cell can be `comparison.add(...)`.

        Raises:
            InputError: a history that is none, or images and labels that do not suit the network.
        """
        if not isinstance(history, Mapping):
            raise InputError(f"comparison.add needs the History that fit returned, got {quoted(history, 60)}")
        _, accuracy = model.evaluate(self.x if x is None else x, self.y)
        seconds = history.get("seconds", [])
        row = [
            quoted(str(name), 40)[1:-1],
            f"{model.count_parameters():,}",
            f"{max(map(len, history.values()), default=0)}",
            f"{sum(seconds) / len(seconds):.2f}" if seconds else "-",
            *(_percent(history[key][-1] if history.get(key) else None) for key in ("accuracy", "val_accuracy")),
            _percent(accuracy),
        ]
        self._rows[name], self.histories[name], self.accuracies[name] = row, history, accuracy
        return self

    def best_first(self) -> "Comparison":
        """The same rows in the order of the accuracies on the test set, the best first.

        Returns:
            a new `Comparison`.
        """
        ordered = Comparison(self.x, self.y)
        accuracies = {name: -1 if accuracy is None else accuracy for name, accuracy in self.accuracies.items()}
        for name in sorted(accuracies, key=accuracies.get, reverse=True):
            for ours, theirs in zip(self._parts(), ordered._parts(), strict=True):
                theirs[name] = ours[name]
        return ordered

    def _parts(self):
        return self._rows, self.histories, self.accuracies

    def __repr__(self) -> str:
        if not self._rows:
            return "Comparison of no networks yet"
        rows = [HEADER, *self._rows.values()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([f"{row[0]:{widths[0]}}", *(f"{t:>{w}}" for t, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table: what a notebook shows."""
        return table(HEADER, list(self._rows.values()))


def _percent(accuracy):
    return "-" if accuracy is None else f"{100 * accuracy:.1f} %"
