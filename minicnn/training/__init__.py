"""What `fit` does around a training step: batches, history, progress, callbacks, checkpoints."""

from minicnn.training.checks import check_images, warn_of_channels_last, warn_of_scale
from minicnn.training.loop import evaluate, fit

__all__ = ["check_images", "evaluate", "fit", "warn_of_channels_last", "warn_of_scale"]
