# Everything a contributor runs. `make help` lists it.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
DEBIAN_PACKAGES := etcd-server curl systemd tini chromium
GO_PACKAGES := golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev \
    protoc-gen-go protoc-gen-go-grpc
JAVA_PACKAGES := protobuf-compiler protobuf-compiler-grpc-java-plugin libgrpc-java libprotobuf-java libnetty-java \
    libgoogle-gson-java libguava-java libperfmark-java libgeronimo-annotation-1.3-spec-java
DEBIAN_PACKAGES += $(GO_PACKAGES) $(JAVA_PACKAGES)
NODE_PACKAGES := nodejs npm

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "mesh needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	    { rm -rf .venv; echo "python venv is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }

.venv/run.stamp: requirements/run.lock pyproject.toml | .venv/bin/python
	$(PIP) --require-hashes -r requirements/run.lock
	$(PIP) --no-deps -e .
	@touch $@

.venv/dev.stamp: requirements/dev.lock pyproject.toml clients/python/pyproject.toml | .venv/bin/python
	$(PIP) --require-hashes -r requirements/dev.lock
	$(PIP) --no-deps -e . -e clients/python
	@touch $@ .venv/run.stamp

.venv/bench.stamp: requirements/bench.lock .venv/dev.stamp
	$(PIP) --require-hashes -r requirements/bench.lock
	@touch $@

.venv/deploy.stamp: requirements/deploy.lock .venv/dev.stamp
	$(PIP) --require-hashes -r requirements/deploy.lock
	@touch $@

.PHONY: install
install: .venv/run.stamp ## Install what is needed to run into .venv

.PHONY: run
run: .venv/run.stamp ## Install and serve examples/slow.py on http://127.0.0.1:8000
	@exec $(BIN)/meshctl run slow:app --working-dir examples

.PHONY: test
test: .venv/dev.stamp ## Install and run the tests (no root, no Debian packages; a real etcd comes along)
	$(PYTEST) -q -n 3 --dist worksteal

.PHONY: test-all
test-all: debian-packages .venv/deploy.stamp ## All tests, also long ones, and those that need more (Debian's etcd, curl, Chromium, node, Go, Java, helm …)
	$(PYTEST) -q -n 4 --dist worksteal -m "not soak"
	PATH="$$PATH:/usr/sbin" $(PYTEST) -q tests/conformance tests/integration/test_etcd_store.py
	$(PYTEST) -q clients -m "not soak" --ignore clients/python/tests
	$(PYTEST) -q deploy/tests

.PHONY: fuzz
fuzz: .venv/dev.stamp ## A million mutated messages and 100,000 mutated HTTP requests (SEED=1); `make test` has a slice
	$(PYTEST) tests/fuzz --timeout 3600 --fuzz-messages 1000000 --fuzz-requests 100000 --fuzz-seed $(or $(SEED),1)

.PHONY: soak
soak: .venv/dev.stamp ## Long runs: deploys under steady load, processes killed at chosen moments
	$(PYTEST) -m soak --timeout 1200

.PHONY: debian-packages
debian-packages: # node and javac may come from elsewhere; what counts is that they are there
	@missing=$$(dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1 || echo $(DEBIAN_PACKAGES)); \
	{ command -v node && command -v npm; } >/dev/null || missing="$$missing $(NODE_PACKAGES)"; \
	command -v javac >/dev/null || missing="$$missing default-jdk-headless"; \
	[ -z "$$missing" ] || \
	    { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	      apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }

.PHONY: check
check: .venv/dev.stamp ## Lint, types, import rules, and that generated code is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	scripts/check_protos.sh
	$(BIN)/python scripts/check_budgets.py

.PHONY: format
format: .venv/dev.stamp ## Format the code
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

.PHONY: protos
protos: .venv/dev.stamp ## Generate mesh/v1, and what clients/python has of it, from protos/
	scripts/protos.sh

.PHONY: bench
bench: .venv/dev.stamp ## Our own figures, in at most ten minutes (writes benchmarks/results)
	@failed= ; \
	for each in run replicas handles conversion "overload_clients --seconds 3" control_plane scale_out \
	    performance_page guard; do \
	    echo "python -m benchmarks.$$each"; \
	    $(BIN)/python -m benchmarks.$$each || failed="$$failed $${each%% *}"; \
	done; \
	if [ -n "$$failed" ]; then echo "exited with an error:$$failed" >&2; exit 1; fi

.PHONY: profile
profile: .venv/bench.stamp ## Where the CPU of a request goes, by part; needs leave to attach to processes (root)
	$(BIN)/python -m benchmarks.profile $(if $(BEFORE),--before $(BEFORE))

.PHONY: bench-peers
bench-peers: .venv/dev.stamp ## Measure beside peers from PyPI, in throw-away environments (20 minutes; 1 GB of disk)
	$(BIN)/python -m benchmarks.peers $(PEERS_FLAGS)

.PHONY: lock
lock: .venv/dev.stamp ## Resolve the dependencies anew into requirements/*.lock
	$(BIN)/uv pip compile -q pyproject.toml --extra uv --universal --generate-hashes --no-header --python-version 3.11 \
	    -o requirements/run.lock
	$(BIN)/uv pip compile -q pyproject.toml --group dev --extra reload --universal --generate-hashes --no-header \
	    --python-version 3.11 -o requirements/dev.lock
	$(BIN)/uv pip compile -q --group bench --universal --generate-hashes --no-header --python-version 3.11 \
	    -o requirements/bench.lock
	$(BIN)/uv pip compile -q --group deploy --universal --generate-hashes --no-header --python-version 3.11 \
	    -c requirements/dev.lock -o requirements/deploy.lock

.PHONY: clean
clean: ## Remove what was installed and built
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
