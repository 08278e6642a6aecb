# GNU make 4.3 and any Python from 3.11. `make` lists the commands.
PYTHON ?= python3
# What `make demo`, `make test`, `make faults` and `make bench` hand on, as in:
# make test ARGS="-k lanes"
ARGS ?=
MINUTES ?= 30

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test faults soak bench docs install lint types arrows check up down clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Watch events survive: the whole way in SQLite files, no server needed
	$(BIN)/relay demo $(ARGS)

test: $(VENV)/.dev ## Run the tests, two at a time
	$(BIN)/pytest --numprocesses 2 --dist worksteal $(ARGS)

faults: $(VENV)/.dev ## Run the fault matrix; ARGS="-m selection" is the part that every change has to pass
	$(BIN)/pytest tests/matrix --numprocesses 2 --dist loadfile $(ARGS)

soak: $(VENV)/.dev ## Faults at random for MINUTES=30, and a report in soak/
	$(BIN)/python -m tests.reliability.soak --minutes $(MINUTES) $(ARGS)

bench: $(VENV)/.dev ## Measure relay and consumer beside ones written by hand; 12 minutes with --rounds 2
	$(BIN)/python -m tests.benchmarks $(ARGS)

docs: $(VENV)/.docs ## Write the generated reference pages, and the site in build/site
	$(BIN)/python -m tests.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean
	@echo "file://$(CURDIR)/build/site/index.html"

install: $(VENV)/.dev ## Install the project and its tools into .venv

lint: $(VENV)/.dev ## Check style and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy
	$(BIN)/mypy tests/typing

arrows: $(VENV)/.dev ## Check which package may import which
	$(BIN)/lint-imports

check: lint types arrows test ## All of the checks

up: ## Start Postgres, RabbitMQ, relay and consumers in containers; passwords come from .env
	docker compose up --build --detach
	docker compose ps

down: ## Stop the containers; their volumes stay
	docker compose down

clean: ## Remove .venv, caches and builds; databases stay
	rm -rf $(VENV) build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are older than what they were made from only when that has changed.
$(VENV)/.runtime: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV)"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV), with the tools for development"
	@$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.runtime

$(VENV)/.docs: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV), with the tools for the documentation"
	@$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@ $(VENV)/.runtime

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is not there: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
