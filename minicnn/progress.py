"""What is told of a training run: the bar while it goes on, and the numbers that it leaves."""

import base64
import csv
import html
import io
import json
import sys
import time

from minicnn.errors import MissingPackageError
from minicnn.files import write_whole


class History(dict):
    """What was measured, one number an epoch: `{"loss": [...], "accuracy": [...], ...}`.

    Attributes:
        interrupted: whether Ctrl-C or SIGTERM ended the run before its time.

    >>> history = History(loss=[0.5, 0.25], accuracy=[0.8, 0.9])
    >>> print(history.to_csv())
    epoch,loss,accuracy
    1,0.5,0.8
    2,0.25,0.9
    <BLANKLINE>
    """

    interrupted = False

    def record(self, measured):
        """Add one epoch's numbers."""
        for name, value in measured.items():
            self.setdefault(name, []).append(value)

    def to_csv(self, path=None):
        """A table with one line an epoch, as a text, and written to `path` if one is given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *self])
        writer.writerows([epoch, *row] for epoch, row in enumerate(zip(*self.values(), strict=True), start=1))
        return _written(text.getvalue(), path)

    def to_json(self, path=None):
        """The dict of lists as a JSON text, and written to `path` if one is given."""
        return _written(json.dumps(self, indent=1), path)

    def _repr_html_(self):
        """The epochs as a table, and the curves where matplotlib is there: what a notebook shows."""
        if not any(self.values()):
            return "<p>A history of no epochs yet</p>"
        from minicnn import plots  # here, because it stands above

        rows = [
            [str(epoch), *(f"{value:.4g}" for value in row)]
            for epoch, row in enumerate(zip(*self.values(), strict=True), start=1)
        ]
        table = html_table(["epoch", *self], rows)
        try:
            picture = base64.b64encode(plots.png(plots.training_curves(self))).decode()
        except MissingPackageError:
            return table
        return f'<img alt="training curves" src="data:image/png;base64,{picture}" style="max-width:100%">{table}'


class Progress:
    """A bar on a terminal; a line an epoch elsewhere; nothing if not verbose. Use it in a `with` block.

    Args:
        title: what stands before the bar or the line.
        total: images to come.
        done: images that are done already.
        verbose: whether to show anything.
    """

    def __init__(self, title, total, done=0, verbose=True):
        self.title = title
        self.lines = verbose and not sys.stderr.isatty()
        self.bar = None
        if verbose and not self.lines:
            from tqdm import tqdm  # here, so that `import minicnn` needs NumPy alone

            self.bar = tqdm(total=total, initial=done, desc=title, unit=" images", unit_scale=True)
        self.shown = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def update(self, count, measure):
        """Count images; show what `measure()` gives, some times a second."""
        if self.bar is None:
            return
        now = time.perf_counter()
        if now - self.shown > 0.1:
            self.shown = now
            self.bar.set_postfix(_shown(measure()), refresh=False)
        self.bar.update(count)

    def finish(self, measured, seconds):
        """Show the epoch's numbers."""
        if self.bar is not None:
            self.bar.set_postfix(_shown(measured))
        elif self.lines:
            numbers = "  ".join(f"{name} {value}" for name, value in _shown(measured).items())
            print(f"{self.title}  {seconds:.1f} s  {numbers}", flush=True)


def html_table(header, rows):
    """A table of texts in HTML; the first column is read from the left, the others are numbers.

    >>> html_table(["layer", "parameters"], [["a < b", "3"]])[-89:]
    '<td style="text-align:left">a &lt; b</td><td style="text-align:right">3</td></tr></table>'
    """

    def line(tag, cells):
        cells = [html.escape(cell) for cell in cells]
        numbers = "".join(f'<{tag} style="text-align:right">{cell}</{tag}>' for cell in cells[1:])
        return f'<tr><{tag} style="text-align:left">{cells[0]}</{tag}>{numbers}</tr>'

    return f"<table>{line('th', header)}{''.join(line('td', row) for row in rows)}</table>"


def _shown(measured):
    return {name: f"{value:.4f}" for name, value in measured.items()}


def _written(text, path):
    if path is not None:
        with write_whole(path) as file:
            file.write(text.encode())
    return text
