# Everything from a fresh machine with Python >= 3.11: `make demo`, `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: demo test lint format clean
demo: $(VENV)/installed  ## train on the built-in synthetic sounds, evaluate, classify clips it has not heard
	$(BIN)/python train.py configs/demo.yaml
	$(BIN)/urbansound-hf data synthetic outputs/demo_clips --clips 1 --seed 7
	$(BIN)/python infer.py outputs/demo_clips/audio/fold1 --model outputs/demo/fold10 --top_k 1

test: $(VENV)/installed  ## the whole test suite, offline
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/installed  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs build *.egg-info
