# Everything a user or a maintainer types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: help install demo test verify test-fast ui check format bench glossary methods leaderboard studies first-result regimes detection doubts clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# One stamp file: installed once, again when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## make .venv and install

demo: install ## the whole recipe on the embedded data, about 2 minutes on 2 cores
	PATH="$(CURDIR)/$(BIN):$$PATH" mlflow run . --env-manager local

test: install ## all tests but those of verify, in two processes
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -q -m "not verify" -n 2 --dist loadscope --no-loadscope-reorder --durations=15

verify: install ## the long tests: kills, outages, soaks, PostgreSQL, programs of their own; writes docs/reliability.md
	@mkdir -p build && rm -f build/faults.jsonl
	PATH="$(CURDIR)/$(BIN):$$PATH" MM_BALANCE_FAULT_LOG="$(CURDIR)/build/faults.jsonl" \
		python -m pytest -q -m verify -n 2 --dist loadscope --durations=15; status=$$?; \
		$(BIN)/python -m analysis.reliability build/faults.jsonl > docs/reliability.md; exit $$status

test-fast: install ## all tests but the slow ones
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -q -m "not slow and not verify"

ui: install ## the MLflow UI on the project's store, http://127.0.0.1:5000
	@echo "Open http://127.0.0.1:5000/#/experiments/0/runs?workflowType=machine_learning"
	PATH="$(CURDIR)/$(BIN):$$PATH" mlflow ui

check: install ## lint, format, types, security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --severity-level medium --recursive mm_balance entrypoints analysis benchmarks examples tools
	$(BIN)/python tools/audit.py

format: install ## let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## benchmarks: training, survey, mixture fit, tracking
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m benchmarks.run

glossary: install ## write docs/glossary.md from the declared parameters and names
	$(BIN)/python -m analysis.glossary > docs/glossary.md

methods: install ## write docs/methods.md from the methods themselves
	$(BIN)/python -m analysis.methods_page > docs/methods.md

leaderboard: install ## all methods on `digits`: tuned alike, 3 seeds (hours on 2 cores; goes on where it was stopped)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m analysis.leaderboard

studies: install ## four Optuna studies on `digits`, confirmed on new seeds (about an hour on 2 cores)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m analysis.studies

first-result: install ## the result table of README: 5 seeds, all settings (about an hour on 2 cores)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m analysis.first_result

regimes: install ## broken data: control, rivals and ours, tuned alike in each regime (hours; goes on where it was stopped)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m analysis.regimes

detection: install ## how well planted corruption is found, and whether the modality is named (hours; goes on where it was stopped)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m analysis.detection

doubts: install ## the rules of posterior_discount, each alone and together, on validation (half an hour; goes on where it was stopped)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m analysis.doubts

clean: ## remove .venv and caches; runs and results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
