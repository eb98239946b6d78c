# mongo-ops: every command a person needs. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo up down status test chaos lint bench lock
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH

PYTHON := .venv/bin/python
PYTEST_FLAGS ?=
BESIDE := --dist loadscope --no-loadscope-reorder

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## the environment only: .venv from the lock, system libraries when root
	@demo/setup.sh

demo: setup ## everything once: MongoDB, Airflow, the migrations live, demo data, a data migration
	@$(PYTHON) -m demo demo

up: setup ## start MongoDB and Airflow in the background
	@$(PYTHON) -m demo up

down: ## stop what `make up` or `make demo` started
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m demo down; fi

status: setup ## what is running, and where
	@$(PYTHON) -m demo status

test: setup ## every test but the long fault runs (under 10 minutes)
	@$(PYTHON) -m pytest tests -m "not chaos" -n 3 $(BESIDE) $(PYTEST_FLAGS)

chaos: setup ## the long fault runs
	@$(PYTHON) -m pytest tests -m chaos -n 2 $(BESIDE) $(PYTEST_FLAGS)

lint: setup ## check style, types, layers and the migrations; changes nothing
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy -p mongo_ops -p demo
	@.venv/bin/lint-imports
	@.venv/bin/mongo-ops lint
	@.venv/bin/mongo-ops online lint

bench: setup ## side-by-side benchmarks; prints the table
	@$(PYTHON) -m benchmarks

lock: setup ## remake requirements.txt and requirements-dev.txt from the .in files
	@.venv/bin/uv pip compile requirements.in --quiet --upgrade --generate-hashes --python-version 3.11 \
		--custom-compile-command "make lock" --no-emit-index-url --no-emit-find-links -o requirements.txt
	@.venv/bin/uv pip compile requirements-dev.in --quiet --upgrade --generate-hashes --python-version 3.11 \
		--custom-compile-command "make lock" --no-emit-index-url --no-emit-find-links -o requirements-dev.txt
