# Shorthands; every target makes the environment (.venv) it needs.

.PHONY: demo test lint format benchmark mutants reference

demo: .venv/plots
	.venv/bin/python examples/lenet5.py

test: .venv/test
	.venv/bin/pytest -n 2 --dist worksteal

lint: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/test
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

benchmark: .venv/benchmarks
	.venv/bin/python benchmarks/cpu.py

# The page of every public name, in docs/reference/.
reference: .venv/docs
	.venv/bin/python docs/reference.py

# One thread: each changed copy of the code runs in a fork.
mutants: .venv/mutation .venv/test
	MINICNN_THREADS=1 .venv/bin/mutmut run "minicnn.core.$(FILE)*"
	.venv/bin/mutmut results | sed '/: not checked$$/d'

.venv/plots .venv/test .venv/benchmarks .venv/mutation .venv/docs: .venv/%: setup.cfg
	python3 -m venv .venv
	.venv/bin/pip install --quiet --editable ".[$*]"
	touch $@
