# Two commands do all the set-up: `make demo` and `make test`. They need Python 3.11 with venv, and a
# package index. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-f5-clients servers lint audit format simulate prove lock bench screenshots sbom docs clean

help:
	@echo "make demo    two nodes, a real HAProxy and a prober on this machine (SCRIPT=1 plays the story)"
	@echo "make test    everything: lint, types, contracts, tests"
	@echo "make servers    what tests need from Debian, where it may be installed; part of make test"
	@echo "make test-f5-clients   every client of BIG-IP there is against the emulator; F5_TESTS=FOLDER too"
	@echo "make lint    lint, types, contracts, known vulnerabilities"
	@echo "make simulate   random histories, SEEDS=1000000 FIRST=0; the first failure made small"
	@echo "make prove      seed bugs one at a time; every one must be found by a check"
	@echo "make bench   the measurements of tests/bench"
	@echo "make screenshots   the pictures of docs/page.md, by a real Chromium"
	@echo "make sbom    build/lb-probe.cdx.json: what is installed with it, from the lock file (CycloneDX)"
	@echo "make docs    build/site: the pages of docs/ as a site"
	@echo "make lock    renew requirements/*.txt from pyproject.toml"

# One stamp for each set of packages, renewed when its lock file changes.
$(VENV)/.demo: requirements/demo.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/demo.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/lb-probe demo $(if $(SCRIPT),--script)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH=$(BIN):$$PATH sh tests/audit.sh requirements/run.txt

# The core first, alone and measured; then everything else, several at a time: most of it waits.
CORE := lb_probe/core tests/core tests/test_scenarios.py tests/test_explanations.py
test: servers lint
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q -n 2 $(CORE)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --include='lb_probe/core/*' --fail-under=100
	$(BIN)/pytest -q -n 4 --dist worksteal --maxfail=20 --durations=10 docs tests $(CORE:%=--ignore=%)

# Of `make test`, bigrest and f5-sdk are part. This adds Ansible, in an environment of its own; mistakes
# planted in the emulator; and, from a checkout of f5-common-python in F5_TESTS, F5's own tests.
CLIENTS := .venv-f5-clients
$(CLIENTS)/.done: requirements/f5-clients.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  --require-hashes -r requirements/f5-clients.txt
	touch $@

test-f5-clients: $(VENV)/.dev $(CLIENTS)/.done
	$(BIN)/pytest -q tests/f5 tests/f5_ansible.py
	$(BIN)/python tests/f5_controls.py
	$(if $(F5_TESTS),PYTHONPATH=tests $(BIN)/python tests/f5_functional.py $(F5_TESTS),@echo "F5's own tests: not run, F5_TESTS names no checkout")

# Some machines forbid it, and then each of a thousand starts compiles everything anew.
export PYTHONDONTWRITEBYTECODE =
# Daemons are where a user's PATH may not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
servers:
	sh tests/servers.sh

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Ten thousand of these are part of `make test`; this is for a night.
simulate: $(VENV)/.dev
	$(BIN)/python tests/simulation.py --returns 400
	$(BIN)/python tests/simulation.py $(or $(SEEDS),1000000) $(or $(FIRST),0)

prove: $(VENV)/.dev
	$(BIN)/python tests/prove_checks.py

bench: $(VENV)/.dev
	for script in tests/bench/*.py; do $(BIN)/python $$script || exit 1; done

screenshots: $(VENV)/.dev
	$(BIN)/python tests/screenshots.py

# Tools that nothing else needs stay out of the environment that is tested.
build/tools/.done: requirements/tools.txt
	rm -rf build/tools && $(PYTHON) -m venv build/tools
	build/tools/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# Of an environment made from the lock file alone: what a user has, with versions and licences.
sbom: build/tools/.done
	rm -rf build/run && $(PYTHON) -m venv --without-pip build/run
	build/tools/bin/pip --python build/run install --quiet --require-hashes -r requirements/run.txt
	build/tools/bin/pip --python build/run install --quiet --no-deps .
	build/tools/bin/cyclonedx-py environment build/run/bin/python --pyproject pyproject.toml \
	  --mc-type application --output-reproducible --of JSON -o build/lb-probe.cdx.json
	$(PYTHON) tests/sbom.py build/lb-probe.cdx.json requirements/run.txt

docs: build/tools/.done
	build/tools/bin/zensical build --clean --strict

lock: $(VENV)/.dev
	$(PIP) uv
	for set in run demo dev tools; do \
	  $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	    --python-version 3.11 pyproject.toml \
	    $$(case $$set in demo) echo --extra demo --group build;; \
	      dev) echo --extra demo --extra mail --group dev;; tools) echo --group tools;; esac) \
	    -o requirements/$$set.txt; \
	done
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --group f5-clients -o requirements/f5-clients.txt

clean:
	rm -rf $(VENV) $(CLIENTS) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
