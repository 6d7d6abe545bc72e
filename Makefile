# For a fresh machine with Python 3.10 to 3.13: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install -qq

.PHONY: demo test lint mutants compatibility clean

demo: $(VENV)/.all
	$(BIN)/python examples/demo.py

# one worker for each core, one thread for each worker
test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

lint: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# which small changes of the code no test notices; takes hours, goes on where it was stopped
mutants: $(VENV)/.mutants
	OMP_NUM_THREADS=1 $(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

# what works together: runs every row and writes docs/COMPATIBILITY.md; with ARGUMENTS=--check it compares instead
compatibility: $(VENV)/.compatibility
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compatibility/tables.py --jobs 2 $(ARGUMENTS)

# The wheel of torchattacks 3.5.1 holds an old copy of RobustBench, so RobustBench goes in last. imagecorruptions-imaug
# asks for opencv-python, which would lie over grad-cam's opencv-python-headless.
$(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable ".[$*]"
	$(PIP) --force-reinstall --no-deps "robustbench>=1.1.1"
	$(PIP) --no-deps "imagecorruptions-imaug>=1.1.5"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info demo-results mutants .pytest_cache .ruff_cache .mypy_cache
