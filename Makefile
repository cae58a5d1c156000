# Everything from a fresh machine with Python >= 3.11: `make demo`, `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable
LOWEST  = .venv-lowest
CONSTRAINTS = constraints.txt

.PHONY: demo test lint docs results format constraints audit test-lowest clean
demo: $(VENV)/base  ## train on the built-in synthetic sounds, evaluate, classify new synthetic clips
	$(BIN)/python train.py configs/demo.yaml
	$(BIN)/urbansound-hf data synthetic outputs/demo_clips --clips 1 --seed 7
	$(BIN)/python infer.py outputs/demo_clips/audio/fold1 --model outputs/demo/fold10 --top_k 1

test: $(VENV)/dev  ## the test suite, offline
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/dev  ## style, format, types, declared dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .
	$(BIN)/deptry . benchmarks tests --exclude '\.venv|outputs' --ignore DEP002,DEP004

docs: $(VENV)/dev  ## the documentation site, as plain files in site/; a broken link fails
	rm -rf build/docs && mkdir -p build && cp -r docs build/docs
	$(BIN)/jupyter nbconvert --log-level WARN --to markdown build/docs/tour.ipynb
	$(BIN)/zensical build --clean --strict

results: $(VENV)/dev  ## the speed benchmarks that this machine allows (RESULTS="--only int8"), then all tables of the documents
	$(BIN)/python -m benchmarks $(RESULTS)
	$(BIN)/python -m tests.helpers.readme

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(BIN)/uv  ## renew constraints.txt: the newest allowed versions on every platform
	$(BIN)/uv pip compile --quiet --universal --upgrade --all-extras --no-header --no-annotate pyproject.toml \
		--output-file constraints.all
	echo '# Written by `make constraints`. The CUDA packages are left out: each build of torch pins its own.' >$(CONSTRAINTS)
	grep -vE '^(nvidia-|cuda-|triton)' constraints.all >>$(CONSTRAINTS)
	rm constraints.all

audit: $(VENV)/base  ## known vulnerabilities in the versions of constraints.txt; needs pypi.org itself
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/python -m tests.helpers.audit $(CONSTRAINTS)

test-lowest: $(BIN)/uv  ## the test suite on the lowest allowed versions of what pyproject.toml names
	$(BIN)/uv venv --quiet --clear --seed --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest -n 2

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(BIN)/uv: | $(BIN)/python
	$(BIN)/pip install --quiet uv

# Two stamps: the demo does not wait for what only the tests need.
$(VENV)/base: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) .
	touch $@

$(VENV)/dev: $(VENV)/base
	$(INSTALL) '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) outputs build dist site
