# `make` lists the targets. Each does its own set-up first, and may be run again at any time.
PROFILE ?= embedded
PYTHON ?= python3
RUN := PYTHONPATH=scripts .venv/bin/python -W ignore::RuntimeWarning
PYTEST := .venv/bin/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup run start demo status stop logs test test-unit test-browser check format schemas contracts lock soak bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  PROFILE=embedded (NATS, PostgreSQL) or kafka-postgres; now: $(PROFILE)"

setup: ## install what is missing: packages, the Dapr runtime
	@$(PYTHON) scripts/bootstrap.py
	@$(RUN) -m suite setup

run: setup ## run the suite in the foreground; Ctrl-C stops it
	@$(RUN) -m suite run $(PROFILE)

start: setup ## start the suite in the background, return when it is ready
	@$(RUN) -m suite start $(PROFILE)

demo: setup ## fill the running suite with a believable week of data
	@$(RUN) -m demo

status: setup ## show what runs
	@$(RUN) -m suite status

stop: setup ## stop the suite
	@$(RUN) -m suite stop

logs: setup ## follow the logs; APP=command for one
	@$(RUN) -m suite logs $(APP)

test: setup ## run all tests, on real servers
	@scripts/install-test-servers
	$(PYTEST) -m "not soak and not bench and not browser"

test-unit: ## run the tests that need no server
	@$(PYTHON) scripts/bootstrap.py
	$(PYTEST) tests/unit

test-browser: setup ## run the tests of the console's page, in Chromium, on the whole suite
	@scripts/install-chromium
	$(PYTEST) -m browser tests/browser

check: ## lint, formatting, types, import rules, event schemas, contracts, the page
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy services/annals/src services/cli/src services/command/src services/console/src services/projector/src services/saga-orchestrator/src services/notification/src scripts/suite scripts/demo scripts/event_schemas.py scripts/contracts.py
	PYTHONPATH=services/annals/src:services/cli/src:services/command/src:services/console/src:services/projector/src:services/saga-orchestrator/src:services/notification/src .venv/bin/lint-imports --no-cache
	.venv/bin/python scripts/event_schemas.py check
	.venv/bin/python scripts/contracts.py check
	@$(RUN) -m suite check-page

format: ## format the code
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

schemas: ## write the JSON Schemas of all events to docs/events
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/python scripts/event_schemas.py write

contracts: ## write the OpenAPI and AsyncAPI documents, and the pages of them, to docs/api
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/python scripts/contracts.py write

lock: ## resolve the dependencies anew
	@$(PYTHON) scripts/bootstrap.py
	$$($(PYTHON) -c 'import sys; sys.path.insert(0, "scripts"); import bootstrap; print(bootstrap.uv())') lock --upgrade
	$$($(PYTHON) -c 'import sys; sys.path.insert(0, "scripts"); import bootstrap; print(bootstrap.uv())') export --frozen --no-emit-workspace --no-annotate --no-header --format requirements.txt --quiet --output-file requirements.lock

soak: setup ## kill everything at random under load, 50 times and more
	$(PYTEST) -m soak -s

bench: setup ## measure, side by side, and print ratios
	$(PYTEST) -m bench -s

clean: ## remove the environment, the data and the caches of this checkout
	-@test ! -x .venv/bin/python || $(RUN) -m suite stop
	rm -rf services/console/web/node_modules services/console/web/dist .venv .annals .mypy_cache .ruff_cache .pytest_cache .hypothesis
