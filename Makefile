# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format bench evaluate testbed clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)  ## The main job: plain and guarded answers side by side, and an HTML page.
	$(BIN)/vlmguard demo

test: $(READY)  ## Every test that needs no more than minutes.
	$(BIN)/python -m pytest -q -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure again what the README says, and write it there.
	$(BIN)/vlmguard demo --full --json docs/results/demo.json
	$(BIN)/python benchmarks/publish_demo.py

evaluate: $(READY)  ## Measure every arm and attack again, and write docs/evaluation.md (goes on after a stop).
	$(BIN)/python benchmarks/evaluate.py

testbed: $(READY)  ## Train the testbed from scratch (half an hour on two cores).
	$(BIN)/python -m langchain_vlmguard.testbed.build

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
