"""Convolutional networks from scratch on NumPy, or on CuPy for the GPU."""

__version__ = "0.1.0"
