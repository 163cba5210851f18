"""What was measured in a training run: the numbers of each epoch."""

import base64
import csv
import io
import json
from collections.abc import Callable

from minicnn.core.errors import MissingPackageError
from minicnn.core.types import Path
from minicnn.markup import Markup, fill, table
from minicnn.storage.files import atomic_write


class History(dict):
    """What was measured, one number an epoch: `{"loss": [...], "accuracy": [...], ...}`.

    The learning rate of an epoch is that of its last step.

    >>> history = History(loss=[0.5, 0.25], accuracy=[0.8, 0.9])
    >>> print(history.to_csv())
    epoch,loss,accuracy
    1,0.5,0.8
    2,0.25,0.9
    <BLANKLINE>
    """

    #: A function of a history that returns its curves as a PNG file's bytes, or None; set where pictures are drawn.
    draw: Callable[["History"], bytes] | None = None

    @property
    def history(self) -> "History":
        """The dict itself, as Keras's name for it: `history.history["loss"]` is `history["loss"]`."""
        return self

    def record(self, measured: dict[str, float]) -> None:
        """Add one epoch's numbers.

        Args:
            measured: `{name: number}`.
        """
        for name, value in measured.items():
            self.setdefault(name, []).append(value)

    def to_csv(self, path: Path | None = None) -> str:
        """A table with one line an epoch, as text; written to `path` if there is one.

        Args:
            path: a file, which is replaced; None to write none.

        Returns:
            the text.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *self])
        writer.writerows([epoch, *row] for epoch, row in enumerate(zip(*self.values(), strict=True), start=1))
        return _written(text.getvalue(), path)

    def to_json(self, path: Path | None = None) -> str:
        """The dict of lists as JSON text; written to `path` if there is one.

        Args:
            path: a file, which is replaced; None to write none.

        Returns:
            the text.
        """
        return _written(json.dumps(self, indent=1), path)

    def _repr_html_(self):
        """The epochs as a table, and the curves where matplotlib is there: what a notebook shows."""
        if not any(self.values()):
            return Markup("<p>A history of no epochs yet</p>")
        rows = [
            [str(epoch), *(f"{value:.4g}" for value in row)]
            for epoch, row in enumerate(zip(*self.values(), strict=True), start=1)
        ]
        epochs = table(["epoch", *self], rows)
        try:
            picture = type(self).draw(self) if self.draw else None
        except MissingPackageError:
            return epochs
        if picture is None:
            return epochs
        curves = '<img alt="training curves" src="data:image/png;base64,{{picture}}" style="max-width:100%">{{epochs}}'
        return fill(curves, picture=base64.b64encode(picture).decode(), epochs=epochs)


def _written(text, path):
    if path is not None:
        with atomic_write(path) as file:
            file.write(text.encode())
    return text
