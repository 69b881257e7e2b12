# `make demo` and `make test` set everything up in .venv; nothing else is needed by hand.
PYTHON ?= python3
BIN := .venv/bin
# Two test processes with one thread each: torch, OpenCV and numba otherwise fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-slow fuzz lint

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: .venv/ready  ## pre-train on rendered moving shapes, probe, write runs/demo/motion/report.html
	$(BIN)/m3video demo --out runs/demo

test: .venv/ready  ## the default suite
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m 'not slow and not fuzz'

test-slow: .venv/ready  ## what takes minutes
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m 'slow and not fuzz'

fuzz: .venv/ready  ## search for input that breaks a reader, 10 minutes each (M3VIDEO_FUZZ_SECONDS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[fuzz]'
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m fuzz

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
