# make demo: set up, then compress the shipped checkpoint. make test: set up, then run every test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread per worker: two workers with two threads each would fight for two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test check slow docs wheel clean

demo: $(VENV)/installed
	$(BIN)/python -m ard.compress zoo:fashion_mnist --fid-budget 20% \
		--objective mixed --weights params=1 latency=2 --samples 5120 --sweep-samples 400 \
		--fractions 0.5 0.3 0.18 0.1 0.06 --anchors 12 \
		--recover-steps 50 --recover-batch 16 --max-trials 7 --run-dir runs/demo

test: $(VENV)/installed-dev
	$(PYTEST)

check: test docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-defs --cache-dir .mypy_cache/tests tests

slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean --quiet

wheel: $(VENV)/installed-dev
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) runs site build dist

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[tensorrt-rtx]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
