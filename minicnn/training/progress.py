"""The progress of a training run on the screen."""

import sys
import time
import warnings

from minicnn import console


class Progress:
    """A bar on a terminal or in a notebook, a line an epoch elsewhere, nothing if not verbose. For a `with` block.

    Args:
        title: what stands before the bar or the line.
        total: images to come.
        done: images that are done already.
        verbose: whether to show anything.
    """

    def __init__(self, title, total, done=0, verbose=True):
        self.title = title
        self.bar = None
        stream = console.SafeStream(sys.stderr)
        has_bar = verbose and (stream.isatty() or console.is_notebook())
        self.lines = verbose and not has_bar
        if has_bar:
            self.bar = _bar(stream, total=total, initial=done, desc=title, unit=" images", unit_scale=True)
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

    def finish(self, measured):
        """Show the epoch's numbers."""
        numbers = _shown({name: value for name, value in measured.items() if name not in ("learning_rate", "seconds")})
        if self.bar is not None:
            self.bar.set_postfix(numbers)
        elif self.lines:
            numbers = "  ".join(f"{name} {value}" for name, value in numbers.items())
            console.show(f"{self.title}  {measured['seconds']:.1f} s  {numbers}")


def _bar(stream, **options):
    """A bar as tqdm draws it: with widgets in a notebook that has them, with text elsewhere."""
    with warnings.catch_warnings():  # tqdm warns where a notebook has no widgets, and draws with text
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm  # here, so that `import minicnn` needs NumPy alone
    return tqdm(file=stream, **options)


def _shown(measured):
    return {name: f"{value:.4f}" for name, value in measured.items()}
