"""PyTorch with its images and kernels in memory as (N, H, W, C), a layout that it offers and that is often faster."""

import torch

from benchmarks.contenders import pytorch


def make(case):
    return pytorch.make(case, memory_format=torch.channels_last)
