"""The parts of `examples/compare.py`: read them in the order models, data, trials, store, experiments, tables, page."""
