# Everything a person needs: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-slow test-lowest bench bench-all docs lint format install install-dev clean

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmrec needs Python 3.11 or later; call: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.base
install-dev: $(VENV)/.dev

# make demo MODEL=FOLDER takes a pretrained model in place of the one made on the spot: hours without a GPU.
demo: $(VENV)/.base
	$(BIN)/llmrec demo $(if $(MODEL),--model "$(MODEL)" --out runs/demo-model,--out runs/demo)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# Rooms that touch most of what is depended on, with the oldest versions that pyproject.toml allows.
LOWEST := .venv-lowest
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct pyproject.toml --extra serve -o $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet -r $(LOWEST)/lowest.txt pytest pytest-timeout hypothesis
	$(LOWEST)/bin/python -m pip install --quiet --no-deps -e .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" tests/test_config.py tests/dataset tests/catalogue \
	  tests/text tests/policy tests/rules tests/simulator tests/service --ignore tests/service/test_schema.py

# What docs/benchmarks*.md show, once more: quick commands, or all of them (hours). LLMREC_DATA holds the real data.
bench: $(VENV)/.dev
	$(BIN)/python eval/bench.py

bench-all: $(VENV)/.dev
	$(BIN)/python eval/bench.py --all

# The pages as a site, in site/: ends with an error where a link leads nowhere.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(LOWEST) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
