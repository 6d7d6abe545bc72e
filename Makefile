# Two commands for a fresh machine with Python 3.10 to 3.13: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.all
	$(BIN)/python examples/demo.py

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel of torchattacks 3.5.1 holds an old copy of RobustBench, so RobustBench goes in last. imagecorruptions-imaug
# asks for opencv-python, which would lie over grad-cam's opencv-python-headless.
$(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps "robustbench>=1.1.1"
	$(BIN)/python -m pip install --quiet --no-deps "imagecorruptions-imaug>=1.1.5"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info demo-results .pytest_cache .ruff_cache
