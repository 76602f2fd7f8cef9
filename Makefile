# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pip takes the newest LangChain and transformers; the oldest that are supported are put in front of the same other packages.
OLDEST := .venv-oldest
OLDEST_READY := $(OLDEST)/.ready
OLDEST_VERSIONS := langchain==1.4.0 langchain-core==1.7.0 transformers==5.23.0 torchao==0.18.0 \
  langchain-openai==1.7.1 langchain-anthropic==1.7.7 langchain-google-genai==4.4.2
# Beside them the newest providers' packages that allow this core (newer ones do not import on it),
# and torchao, whose import prints warnings that nobody who runs the demo should see.
OLDEST_TESTS := tests/unit_tests/agents tests/unit_tests/faces tests/unit_tests/guard tests/unit_tests/rewriting tests/unit_tests/verdict \
  tests/unit_tests/test_imports.py tests/unit_tests/models/test_quantized.py tests/unit_tests/models/test_standard.py \
  tests/unit_tests/models/test_scheduler.py tests/unit_tests/models/test_steered_vlm.py \
  tests/integration_tests/providers tests/integration_tests/test_standard_chat.py tests/integration_tests/test_examples.py \
  tests/integration_tests/test_langgraph_dev.py

.PHONY: demo test test-lab test-oldest test-all docs lint format bench evaluate fuzz transfer targets testbed reference clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)  ## The main job: plain and guarded answers side by side, and an HTML page.
	$(BIN)/vlmguard demo

# Two files at a time, one core each.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

test: $(READY)  ## The package's tests, and the lab's that are quick.
	$(PYTEST) -m "not slow and not lab and not vllm"

test-lab: $(READY)  ## The lab's tests that build, train, attack or measure the testbed.
	$(BIN)/python -m pytest -q -m "lab and not slow"

$(OLDEST_READY): $(READY)
	test -x $(OLDEST)/bin/python || $(BIN)/python -m venv $(OLDEST)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
	  > $$($(OLDEST)/bin/python -c "import site; print(site.getsitepackages()[0])")/below.pth
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed $(OLDEST_VERSIONS)
	touch $@

test-oldest: $(OLDEST_READY)  ## What speaks to LangChain and transformers, on the oldest of both.
	PYTHONPATH=. $(OLDEST)/bin/python -m pytest -q -m "not slow and not lab and not vllm" $(OLDEST_TESTS)

test-all: test test-lab test-oldest  ## Everything, on both stacks.

docs: $(READY)  ## The documentation as a site, in build/site; a link that leads nowhere is an error.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure again what the README says, and write it there.
	$(BIN)/vlmguard demo --full --json docs/results/demo.json
	$(BIN)/vlmguard-bench publish-demo
	$(BIN)/vlmguard-bench architectures
	$(BIN)/vlmguard-bench screening
	$(BIN)/vlmguard-bench performance
	$(BIN)/vlmguard-bench serving
	if command -v valgrind gcc > /dev/null; then $(BIN)/vlmguard-bench instructions; fi

evaluate: $(READY)  ## Measure every arm and attack again, and write docs/testbed_results.md (goes on after a stop).
	$(BIN)/vlmguard-bench evaluate --narrow 5 --attacked 24 $(TARGETS)

TARGETS = --target testbed=testbed \
  $(foreach name,$(notdir $(patsubst %/,%,$(wildcard vlmguard_lab/targets/*/))),--target $(name)=vlmguard_lab/targets/$(name))
ABLATIONS := quarter direct_map no_hindsight no_textual no_visual no_cross_modal no_intent
WITHOUT_direct_map := hindsight textual visual cross_modal intent
$(foreach part,$(WITHOUT_direct_map),$(eval WITHOUT_no_$(part) := $(part)))

build/ablations/%/adapter_config.json: | $(READY)
	$(BIN)/vlmguard rewriter synthesize testbed build/ablations/$*-data --limit 2500 $(addprefix --without ,$(WITHOUT_$*))
	$(BIN)/vlmguard rewriter train build/ablations/$*-data build/ablations/$* --epochs 2

transfer: $(READY) $(ABLATIONS:%=build/ablations/%/adapter_config.json)  ## The rewriter before every target, and its ablations.
	$(BIN)/vlmguard-bench rewriter-transfer --work build/transfer $(TARGETS) $(foreach name,$(ABLATIONS),--ablation $(name)=build/ablations/$(name))

fuzz: $(READY)  ## A million hostile messages and picture files (half an hour; goes on after a stop).
	$(BIN)/python -m tests.fuzz --json docs/results/fuzz.json

testbed: $(READY)  ## Train the testbed from scratch (half an hour on two cores).
	$(BIN)/python -m vlmguard_lab.testbed.build

SIZE ?= 0.5b

reference: $(READY)  ## Build the reference model from checked packages into build/reference (SIZE=1.5b: the larger one).
	$(BIN)/python -m vlmguard_lab.reference build --size $(SIZE)

targets: $(READY)  ## Train the targets that are missing (forty minutes of a core each).
	for name in gemma3 idefics3 internvl qwen2_vl; do \
	  test -d vlmguard_lab/targets/$$name || $(BIN)/python -m vlmguard_lab.testbed.build --architecture $$name \
	    --out vlmguard_lab/targets/$$name --work testbed-build/$$name || exit 1; \
	done

clean:
	rm -rf $(VENV) $(OLDEST) build dist .pytest_cache .mypy_cache .ruff_cache
