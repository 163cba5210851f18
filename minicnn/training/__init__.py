"""What `fit` does around a training step: batches, history, progress, callbacks, checkpoints."""

from minicnn.training.loop import check_images, evaluate, fit

__all__ = ["check_images", "evaluate", "fit"]
