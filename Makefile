# Every target sets up what it needs: run any of them first, in a fresh clone.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# Tests start hundreds of short processes: what they import is compiled once, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SDK1 := .venv-sdk1
PEERS := .venv-peers
VLLM := .venv-vllm
CITED := $(VENV)/cited.jsonl
COVERAGE := $(abspath $(VENV))/coverage
# What decides, and does no I/O: its own tests have to take every branch of it.
DECIDING := tests/unit/core tests/unit/dialects tests/unit/operations tests/unit/web/test_errors.py
# Tests of one module share servers, so they stay together; modules begin in the order in which they were collected.
BY_MODULE := -n 2 --dist loadfile --no-loadscope-reorder
DEBIAN := ffmpeg libmagic1 nginx-light haproxy caddy cmake g++ ninja-build
POLICY := /usr/sbin/policy-rc.d
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,media,libmagic]' \
	  2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.PHONY: test
test: $(READY) ## lint, types, layers, and the tests that need no package from Debian
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check -q
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q -n 2 tests/unit tests/sabotage
	@$(BIN)/python -m pytest -q $(BY_MODULE) tests/integration

.PHONY: test-all
test-all: $(READY) services $(SDK1)/.ready $(PEERS)/.ready vllm engines ## everything; whatever is not run is red
	@rm -f $(CITED) $(COVERAGE)*
	@COVERAGE_FILE=$(COVERAGE) $(BIN)/coverage run -m pytest -q -n 2 --all --record $(CITED) $(DECIDING)
	@COVERAGE_FILE=$(COVERAGE) $(BIN)/coverage combine -q
	@COVERAGE_FILE=$(COVERAGE) $(BIN)/coverage report
	@$(BIN)/python -m pytest -q -n 2 --all --record $(CITED) tests/unit tests/sabotage $(addprefix --ignore=,$(DECIDING))
	@SDK1_PYTHON=$(abspath $(SDK1))/bin/python PEERS_BIN=$(abspath $(PEERS))/bin \
	  VLLM_PYTHON=$(abspath $(VLLM))-0.32.0/bin/python \
	  VLLM_OLD_PYTHON=$(abspath $(VLLM))-0.26.0/bin/python \
	  VLLM_OLDER_PYTHON=$(abspath $(VLLM))-0.25.1/bin/python \
	  $(BIN)/python -m pytest -q $(BY_MODULE) --all --record $(CITED) tests/integration
	@$(BIN)/python tests/conformance.py $(CITED)
	@$(BIN)/python tests/engine_matrix.py $(CITED)
	@$(MAKE) --no-print-directory sabotage

.PHONY: conformance
conformance: $(READY) ## write the pages of what the last `make test-all` found: conformance, and the matrix of engines
	@$(BIN)/python tests/conformance.py $(CITED) --write
	@$(BIN)/python tests/engine_matrix.py $(CITED) --write

.PHONY: sabotage
sabotage: $(READY) $(PEERS)/.ready ## break the code in many ways; a named test must turn red each time
	@PEERS_BIN=$(abspath $(PEERS))/bin $(BIN)/python tests/sabotage/run.py

# The tests run the programs themselves: no daemon that comes with a package may start, now or at the next boot.
.PHONY: services
services: ## install the real servers and tools that test-all needs, from Debian
	@missing=$$(for package in $(DEBIAN); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
	if [ -n "$$missing" ]; then \
	  if [ ! -e $(POLICY) ]; then \
	    trap '$(SUDO) rm -f $(POLICY)' EXIT; \
	    $(SUDO) sh -c 'printf "#!/bin/sh\nexit 101\n" >$(POLICY) && chmod 755 $(POLICY)'; \
	  fi; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null || exit; \
	  if [ -d /run/systemd/system ]; then \
	    for unit in $${missing//nginx-light/nginx}; do $(SUDO) systemctl disable -q --now $$unit 2>/dev/null || true; done; \
	  fi; \
	fi

# The previous generation of the official client, in an environment of its own: it cannot live beside the newest.
$(SDK1)/.ready: Makefile
	@test -x $(SDK1)/bin/python || $(PYTHON) -m venv $(SDK1)
	@$(SDK1)/bin/python -m pip install -q --disable-pip-version-check openai==1.109.1 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

# Servers and tools that the tests run as they are released, apart from what mediagate itself needs.
# The list is whole, so nothing beside it is installed; node comes with it, and the official client for node by npm.
$(PEERS)/.ready: Makefile tests/peers.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --no-deps -r tests/peers.txt 2> >(grep -v '^WARNING: Location' >&2)
	@PATH=$(abspath $(PEERS))/bin:$$PATH npm install --silent --prefix $(PEERS)/npm --no-save --no-package-lock --ignore-scripts openai@7.57.0
	@touch $@

# Real vLLM is too large for a checkout: what is here is thin, and what it stands on is in ~/.cache/mediagate, which may
# be deleted at any time. So each time it is looked at, which costs nothing.
.PHONY: vllm
vllm: $(READY) ## install real vLLM: the newest, the oldest that is supported, and one before
	@for version in 0.32.0 0.26.0 0.25.1; do \
	  $(BIN)/python tests/engines/install_vllm.py $$version $(VLLM)-$$version 2> >(grep -v '^WARNING: Location' >&2) || exit; \
	done

# Other engines, in ~/.cache/mediagate too: nothing of them is in the checkout.
.PHONY: engines
engines: $(READY) services ## install transformers serve, and build llama-server: minutes, once
	@for engine in transformers llama_server loaders; do \
	  PYTHONPATH=tests $(BIN)/python -m engines.install_$$engine 2> >(grep -v '^WARNING: Location' >&2) || exit; \
	done

.PHONY: benchmarks
benchmarks: $(READY) services vllm engines ## measure uploads, memory, chats and kills; wants a quiet machine and 12 GiB of disk
	@$(BIN)/python -m benchmarks.upload
	@$(BIN)/python -m benchmarks.upload --no-fsync
	@$(BIN)/python -m benchmarks.memory
	@$(BIN)/python -m benchmarks.latency
	@$(BIN)/python -m benchmarks.vllm_repeat
	@$(BIN)/python -m benchmarks.vllm_tokens
	@$(BIN)/python -m benchmarks.conversation
	@$(BIN)/python -m benchmarks.kill_minus_nine
	@$(BIN)/python -m benchmarks.report

.PHONY: demo
demo: $(READY) ## show the main job on a clip encoded on the spot
	@$(BIN)/python examples/demo.py

.PHONY: serve
serve: $(READY) ## leave the gateway with its inspector running on port 8080
	@$(BIN)/mediagate serve --port 8080
