# What a person types here; each target sets up what it needs by itself.
#   make demo     the simulated house and pole, the broker, the aggregator and its page
#   make test     everything that proves it; add ARGS="-k meter" for less
#   make check    formatting, lint, types, import contracts, fast tests: before every commit
#   make fix      what of that a tool can mend
#   make bench    the benchmarks, beside other people's programs; ARGS=--hour adds an hour of the whole agent
#   make deb      Debian packages for amd64 and arm64 in dist/;  make test-package  installs one in a clean chroot
#   make setup    only the virtual environment, with everything the tests need
#   make requirements [UPGRADE=--upgrade]   write requirements/*.txt anew

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# pytest ends with 5 when it ran nothing: fine for the half of the tests that ARGS leaves out.
NONE_IS_FINE = $(if $(ARGS),|| test $$? -eq 5)

.PHONY: setup demo test test-package check fix bench bench-peer deb requirements host-demo host-test host-bench host-package clean
.DELETE_ON_ERROR:

setup: .venv/project-test.stamp

demo: host-demo .venv/project-demo.stamp
	$(BIN)/edge-sim demo $(ARGS)

check: .venv/project-test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n 2 -m "not slow and not package" $(ARGS)

test: host-test .venv/project-test.stamp
	$(BIN)/pytest -q -n 2 -m "not slow and not package" $(ARGS) $(NONE_IS_FINE)
	$(BIN)/pytest -q -n 4 --dist worksteal -m "slow and not package" $(ARGS) $(NONE_IS_FINE)

test-package: host-package .venv/project-test.stamp
	$(BIN)/pytest -q -m package $(ARGS)

fix: .venv/project-test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: host-bench .venv/project-test.stamp bench-peer
	$(BIN)/pytest -q -rs -p no:randomly -m "" --benchmark-columns=min,median,rounds --benchmark-sort=name benchmarks $(ARGS)

# A gateway to measure ours against; it wants another pymodbus, so it has an environment of its own. Without it the rest runs.
bench-peer: .venv/bin/python
	@test requirements/thingsboard.txt -ot .venv/thingsboard.stamp || { \
	    rm -rf .venv/thingsboard && "$(PYTHON)" -m venv .venv/thingsboard && \
	    .venv/thingsboard/bin/python -m pip --disable-pip-version-check --no-input install -qq --require-hashes \
	        -r requirements/thingsboard.txt && touch .venv/thingsboard.stamp; \
	} || { rm -rf .venv/thingsboard; echo "the ThingsBoard gateway cannot be installed here: not measured, the rest is" >&2; }

deb: .venv/project-test.stamp
	$(BIN)/python packaging/deb.py $(ARGS)

requirements: .venv/bin/uv
	packaging/lock.sh $(UPGRADE)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Debian packages around the virtual environment: added where root or sudo allows, else named.
host-demo:
	@packaging/host.sh demo

host-test:
	@packaging/host.sh test

host-bench:
	@packaging/host.sh bench

host-package:
	@packaging/host.sh package

# The environment: pinned and hashed, then the checkout itself. A stamp makes the second call instant.
.venv/bin/python:
	@packaging/host.sh python "$(PYTHON)"
	"$(PYTHON)" -m venv .venv

.venv/demo.stamp: requirements/demo.txt | .venv/bin/python
	$(PIP) install -qq --require-hashes --only-binary :all: -r $<
	@touch $@

.venv/test.stamp: requirements/test.txt | .venv/bin/python
	$(PIP) install -qq --require-hashes --only-binary :all: -r $<
	@touch .venv/demo.stamp $@

.venv/project-%.stamp: .venv/%.stamp pyproject.toml
	@rm -rf *.egg-info  # an old one, in the checkout, would hide new commands and drivers
	$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

.venv/bin/uv: requirements/lock.txt | .venv/bin/python
	$(PIP) install -qq --require-hashes --only-binary :all: -r $<
	@touch $@
