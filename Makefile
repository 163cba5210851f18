# Shorthands; every target makes the environment (.venv) it needs.

.PHONY: demo test lint format benchmark

demo: .venv/plots
	.venv/bin/python examples/lenet5.py

test: .venv/test
	.venv/bin/pytest

lint: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: .venv/test
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

benchmark: .venv/benchmarks
	.venv/bin/python benchmarks/cpu.py

.venv/plots .venv/test .venv/benchmarks: .venv/%: setup.cfg
	python3 -m venv .venv
	.venv/bin/pip install --quiet --editable ".[$*]"
	touch $@
