"""The progress of a training run on the screen."""

import sys
import time


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


def _shown(measured):
    return {name: f"{value:.4f}" for name, value in measured.items()}
