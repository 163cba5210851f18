"""The modules of `examples/compare.py`, to be read in this order.

models, data, trials, plan, store, divergence, experiments, statistics, tables, pictures, page.
"""
