# make demo: set up, then compress the shipped checkpoint. make test: set up, then run every test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check slow clean

demo: $(VENV)/installed
	$(BIN)/python -m ard.compress nas_gan/zoo/fashion_mnist.pt --fid-budget 20% --samples 2600 \
		--sweep-samples 400 --fractions 0.5 0.3 0.18 0.1 0.06 --anchors 12 \
		--recover-steps 50 --recover-batch 16 --max-trials 3 --run-dir runs/demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

check: test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-defs --cache-dir .mypy_cache/tests tests

slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) runs

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[tensorrt-rtx]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
