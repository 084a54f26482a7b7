# `make` lists the targets. Each target does its own set-up first and can be run again at any time.
PROFILE ?= embedded
STORE ?= postgresql
PYTHON ?= python3
RUN := PYTHONPATH=scripts .venv/bin/python -W ignore:XDG_RUNTIME_DIR
PYTEST := .venv/bin/python -m pytest
# Many container images set this. With it, each of the five services would compile its imports at every start.
unexport PYTHONDONTWRITEBYTECODE

# For Kubernetes: the settings of `make images`, `cluster`, `deploy`, `test-cluster` and `undeploy`.
VERSION := $(shell sed -n 's/^appVersion: //p' charts/annals/Chart.yaml)
IMAGES := $(filter-out annals,$(patsubst services/%/pyproject.toml,%,$(wildcard services/*/pyproject.toml)))
IMAGE_REPOSITORY ?= annals
PYTHON_IMAGE ?= python:3.11-slim
NODE_IMAGE ?= node:22-slim
RUNTIME_IMAGE ?= $(PYTHON_IMAGE)
DOCKER ?= docker
HELM ?= helm
NAMESPACE ?= annals
VALUES ?= k8s/values.yaml
DAPR_VERSION := 1.18.2
STRIMZI_VERSION := 1.0.0
CLOUDNATIVE_PG_VERSION := 0.29.0

.DEFAULT_GOAL := help
SOURCES := $(wildcard services/*/src)
# Outside the checkout, so that another checkout can reuse the results of type checking.
MYPY_CACHE := $(or $(ANNALS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/annals)/mypy
.PHONY: help setup run start servers demo status stop logs test test-brokers test-browser test-unit test-cluster images cluster deploy undeploy check format schemas contracts guarantees benchmarks chart-docs lock audit fuzz soak bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  PROFILE=embedded (NATS), kafka-postgres, rabbitmq, redis, mqtt, snssqs or gcp-pubsub; now: $(PROFILE)"
	@echo "  STORE=postgresql, sqlite or mysql; now: $(STORE)"

setup: ## install what is missing: packages, the Dapr runtime
	@$(PYTHON) scripts/bootstrap.py
	@$(RUN) -m suite setup

# For targets that only look at the suite or stop it: once this file exists, they need no network.
.venv/.installed:
	@$(PYTHON) scripts/bootstrap.py

run: setup ## run the suite in the foreground; Ctrl-C stops it
	@$(RUN) -m suite run $(PROFILE) --store $(STORE)

start: setup ## start the suite in the background, return when it is ready
	@$(RUN) -m suite start $(PROFILE) --store $(STORE)

servers: setup ## start only the servers, in the background; run the services with `dapr run -f .`
	@$(RUN) -m suite start $(PROFILE) --store $(STORE) --servers

demo: setup ## fill the running suite with a believable week of data
	@$(RUN) -m demo

status: | .venv/.installed ## show what runs
	@$(RUN) -m suite status

stop: | .venv/.installed ## stop the suite
	@$(RUN) -m suite stop

logs: | .venv/.installed ## follow the logs; APP=command for one
	@$(RUN) -m suite logs $(APP)

test: setup ## run the tests on real servers; brokers, browser, cluster, soak and bench have targets of their own
	@$(RUN) -m suite install redis-server mariadbd helm
	$(PYTEST) -n 3 -m "not soak and not bench and not brokers and not browser and not cluster"

test-brokers: setup ## run the conformance suite and each profile on all brokers; BROKER=kafka for one
	@$(RUN) -m suite install rabbitmq-server redis-server mosquitto mariadbd
	$(PYTEST) -m brokers $(if $(BROKER),-k $(BROKER))
	.venv/bin/python scripts/guarantees.py write

test-unit: ## run the tests that need no server
	@$(PYTHON) scripts/bootstrap.py
	$(PYTEST) tests/unit

test-browser: setup ## run the tests of the console's page, in Chromium, on the whole suite
	@$(RUN) -m suite install page-tools
	@scripts/install-chromium
	$(PYTEST) -m browser tests/browser

check: ## lint, formatting, types, import rules, event schemas, contracts, the page
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --cache-dir "$(MYPY_CACHE)" $(SOURCES) scripts/suite scripts/demo scripts/event_schemas.py scripts/contracts.py scripts/guarantees.py scripts/benchmarks.py scripts/chart_docs.py scripts/written.py scripts/audit.py
	PYTHONPATH=$(subst $(eval) ,:,$(SOURCES)) .venv/bin/lint-imports --no-cache
	.venv/bin/python scripts/event_schemas.py check
	.venv/bin/python scripts/contracts.py check
	.venv/bin/python scripts/guarantees.py check
	.venv/bin/python scripts/benchmarks.py check
	.venv/bin/python scripts/chart_docs.py check
	@$(RUN) -m suite check-page

format: ## format the code
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

schemas: ## write the JSON Schemas of all events to docs/events
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/python scripts/event_schemas.py write

contracts: ## write the OpenAPI and AsyncAPI documents, and pages made from them, to docs/api
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/python scripts/contracts.py write

guarantees: ## write docs/guarantees.md from the results of `make test-brokers`
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/python scripts/guarantees.py write

benchmarks: ## write docs/benchmarks.md from the results of `make bench`
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/python scripts/benchmarks.py write

chart-docs: ## write the chart's README and values.schema.json from its values.yaml
	@$(PYTHON) scripts/bootstrap.py
	.venv/bin/python scripts/chart_docs.py write

lock: ## update the locked dependencies
	@$(PYTHON) scripts/bootstrap.py
	@set -e; uv=$$($(PYTHON) -c 'import sys; sys.path.insert(0, "scripts"); import bootstrap; print(bootstrap.uv())'); \
	export="$$uv export --frozen --no-emit-workspace --no-annotate --no-header --format requirements.txt --quiet"; \
	set -x; $$uv lock --upgrade; \
	$$export --output-file requirements.lock; \
	$$export --output-file services/requirements.lock $(IMAGES:%=--package annals-%); \
	$$export --output-file services/images.lock --only-group images; \
	$$export --output-file scripts/audit.lock --only-group audit; \
	$$export --output-file tests/bench/requirements.lock --only-group bench

images: ## build the image of each service
	@set -e; for service in $(IMAGES); do \
		echo "$(IMAGE_REPOSITORY)/$$service:$(VERSION)"; \
		DOCKER_BUILDKIT=1 $(DOCKER) build --quiet --file services/Dockerfile \
			--build-arg SERVICE=$$service $$(test ! -d services/$$service/web || echo --build-arg PAGE=page) \
			--build-arg NODE_IMAGE=$(NODE_IMAGE) --build-arg VERSION=$(VERSION) \
			--build-arg REVISION=$$(git rev-parse --short HEAD) \
			--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) --build-arg RUNTIME_IMAGE=$(RUNTIME_IMAGE) \
			--tag $(IMAGE_REPOSITORY)/$$service:$(VERSION) services; \
	done

cluster: images ## create a kind cluster with Dapr, Kafka's and PostgreSQL's operators, and the images
	kind get clusters | grep --quiet --line-regexp annals || kind create cluster --name annals --config k8s/kind.yaml
	kind export kubeconfig --name annals
	kind load docker-image --name annals $(IMAGES:%=$(IMAGE_REPOSITORY)/%:$(VERSION))
	$(HELM) upgrade --install dapr dapr --repo https://dapr.github.io/helm-charts --version $(DAPR_VERSION) \
		--namespace dapr-system --create-namespace --values k8s/dapr.yaml --wait
	$(HELM) upgrade --install strimzi strimzi-kafka-operator --repo https://strimzi.io/charts --version $(STRIMZI_VERSION) \
		--namespace strimzi --create-namespace --values k8s/strimzi.yaml --wait
	$(HELM) upgrade --install cloudnative-pg cloudnative-pg --repo https://cloudnative-pg.github.io/charts \
		--version $(CLOUDNATIVE_PG_VERSION) --namespace cnpg-system --create-namespace --wait

deploy: ## install or upgrade the chart in the current context; VALUES=file
	kubectl create namespace $(NAMESPACE) --dry-run=client --output yaml | kubectl apply --filename -
	kubectl label --overwrite namespace $(NAMESPACE) pod-security.kubernetes.io/enforce=restricted
	echo '{image: {repository: $(IMAGE_REPOSITORY)}}' | $(HELM) upgrade --install annals charts/annals \
		--namespace $(NAMESPACE) --values - --values $(VALUES) --wait --timeout 10m

test-cluster: ## test the chart on the cluster of the current context, in a namespace of its own; VALUES=file
	@$(PYTHON) scripts/bootstrap.py
	ANNALS_VALUES=$(VALUES) $(PYTEST) -m cluster -s tests/cluster

undeploy: ## uninstall the chart; the keys and bundled servers stay
	$(HELM) uninstall annals --namespace $(NAMESPACE) --wait

soak: setup ## inject faults under load for MINUTES (10); SEED repeats a run, PLANT plants a defect to be found
	@$(RUN) -m suite install faketime
	SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) SOAK_PLANT=$(PLANT) $(PYTEST) -m soak -s tests/soak

audit: setup ## check for known vulnerabilities in dependencies, for secrets, and for unsafe settings in the chart
	@$(RUN) scripts/audit.py

fuzz: setup ## send random and malformed input to every API and topic, for about half an hour
	ANNALS_FUZZ=deep $(PYTEST) tests/fuzz tests/unit/events tests/unit/dapr tests/unit/notification/test_recurrence.py \
		tests/unit/projections/test_changes.py -s --timeout 3600

bench: setup ## measure Annals beside its alternatives, write docs/benchmarks.md; PART=commands for one
	@PYTHONPATH=scripts:tests:tests/bench .venv/bin/python -W ignore:XDG_RUNTIME_DIR -m subjects.environment
	@$(PYTEST) -m bench -s --tb=short tests/bench$(if $(PART),/test_$(PART).py); found=$$?; \
	.venv/bin/python scripts/benchmarks.py write && exit $$found

clean: ## remove the environment, the data and the caches of this checkout
	-@test ! -x .venv/bin/python || $(RUN) -m suite stop
	rm -rf services/console/web/node_modules services/console/web/dist services/console/web/out tests/bench/subjects/node_modules .venv .annals .mypy_cache .ruff_cache .pytest_cache .hypothesis
