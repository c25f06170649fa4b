# One command each; `make` alone lists them. Everything is installed into .venv,
# again only when pyproject.toml has changed.

PYTHON ?= python3
OUT ?= demo-output
SCENES ?= data
LOCK := deploy/requirements.lock
VENV := .venv
BIN := $(VENV)/bin
ALONE := tests/end_to_end/test_namespaces.py tests/end_to_end/test_soak.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check bench soak chaos drain report lock audit clean distclean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.ground ## run the whole chain on real scenes; pictures and cubes land in demo-output
	$(BIN)/prismlink demo --out $(OUT)

test: check ## everything CI runs: check, then end-to-end tests
	# Two files at a time, but for those that hold every second to a budget.
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 12 tests/end_to_end $(addprefix --ignore=,$(ALONE))
	$(BIN)/python -m pytest $(ALONE)

check: $(VENV)/.dev ## the fast part: format, lint, types, import rules, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	# Two workers: one thread each, or their networks fight over the cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 12 \
	  --ignore tests/end_to_end --ignore tests/daemon/test_lifecycle.py
	# These signal the process they run in: a worker beside others that died of it took CI along.
	$(BIN)/python -m pytest tests/daemon/test_lifecycle.py

bench: $(VENV)/.ground ## measure the flight side, from tile message to spooled packet, and each stage
	$(BIN)/prismlink bench

soak: $(VENV)/.ground ## an hour at EnMAP's rate: nothing lost, nothing late, memory flat
	# Speed 1: at 0 the ground's share of two cores is too little for symbols coded so well.
	$(BIN)/python tests/benchmarks/soak.py --speed 1

chaos: $(VENV)/.dev ## kill -9 board and ground a hundred times, in all: nothing durable is lost
	PRISMLINK_KILLS=100 $(BIN)/python -m pytest tests/end_to_end/test_chaos.py

drain: $(VENV)/.dev ## SIGTERM to board and ground fifty times, in all, under load: all is finished in time
	PRISMLINK_STOPS=50 $(BIN)/python -m pytest tests/end_to_end/test_drain.py

report: $(VENV)/.dev ## score the default bundle and every baseline on SCENES=folder; see docs/results.md
	$(BIN)/prismlink-train report deploy/models/default.safetensors --scenes $(SCENES) \
	  --settings deploy/training.yaml --out docs

lock: $(VENV)/.dev ## pin what flight and ground need, as it is installed here: deploy/requirements.lock
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/frozen.txt
	grep '^#' $(LOCK) > $(VENV)/lock
	$(BIN)/uv pip compile pyproject.toml --extra ground --extra gpu --constraint $(VENV)/frozen.txt \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --quiet >> $(VENV)/lock
	mv $(VENV)/lock $(LOCK)

# Not part of test: what it says changes from day to day, and with who can be reached.
audit: $(VENV)/.made ## ask for known vulnerabilities of what deploy/requirements.lock pins
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement $(LOCK)

clean: ## remove what runs and tools leave behind, but not .venv
	rm -rf $(OUT) output build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# The stamps are touched last, so an interrupted installation is tried again.

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo >&2 \
	  "prismlink needs Python 3.11 or later, and there is no $(PYTHON):" \
	  "apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo >&2 \
	  "prismlink needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	  "Name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo >&2 \
	  "$(PYTHON) cannot make virtual environments. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ground: pyproject.toml | $(VENV)/.made
	@echo "Installing the flight and ground parts into $(VENV): the first time this takes a while."
	$(BIN)/python -m pip install -e '.[ground]'
	@touch $@

# torchvision pins the very torch it was built with, so pip settles the pair even where
# .ground brought another torch first; the import fails at once if it ever does not.
$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@echo "Installing every part and the test tools into $(VENV): the first time this takes a while."
	$(BIN)/python -m pip install -e '.[ground,training,dev]'
	$(BIN)/python -c 'import torchvision'
	@touch $(VENV)/.ground $@
