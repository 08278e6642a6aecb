# GNU make 4.3 and any Python from 3.11. `make` lists the commands.
PYTHON ?= python3
# What `make demo`, `make test`, `make faults` and `make bench` hand on, as in:
# make test ARGS="-k lanes"
ARGS ?=
MINUTES ?= 30
# The tests that `make lowest` runs: each single part, the contracts with real servers, the main job.
LOWEST := tests/unit tests/contracts tests/integration/test_main_job.py

VENV := .venv
BIN := $(VENV)/bin
NAMED_PIP := python -m pip --disable-pip-version-check --quiet
PIP := $(BIN)/$(NAMED_PIP)
LOCKED := --require-hashes --no-deps
# The project itself has no hash; its build backend is installed, so pip fetches none.
UNLOCKED := --no-deps --no-build-isolation

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test versions lowest faults soak bench docs install lint types arrows check lock audit up down clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Watch events survive: the whole way in SQLite files, no server needed
	$(BIN)/relay demo $(ARGS)

test: $(VENV)/.dev ## Run the tests, two at a time
	$(BIN)/pytest --numprocesses 2 --dist worksteal $(ARGS)

versions: $(VENV)/.dev ## Run the tests that use Postgres with each version; ARGS="--smoke" or ARGS="14 18"
	$(BIN)/python -m tests.versions $(ARGS)

lowest: $(VENV)/.lowest ## Run tests with the oldest versions that pyproject.toml allows
	$(VENV)/lowest/bin/pytest --numprocesses 2 --dist worksteal $(LOWEST) $(ARGS)

faults: $(VENV)/.dev ## Run the fault matrix; ARGS="-m selection" is the part that every change has to pass
	$(BIN)/pytest tests/matrix --numprocesses 2 --dist loadfile $(ARGS)

soak: $(VENV)/.dev ## Faults at random for MINUTES=30, and a report in soak/
	$(BIN)/python -m tests.reliability.soak --minutes $(MINUTES) $(ARGS)

bench: $(VENV)/.dev ## Measure relay and consumer beside those of others, by hand, and in C; 45 minutes
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

types: $(VENV)/.dev ## Check types with mypy, and what users see with pyright too
	$(BIN)/mypy
	$(BIN)/mypy tests/typing examples
	$(BIN)/basedpyright --pythonpath $(BIN)/python

arrows: $(VENV)/.dev ## Check which package may import which
	$(BIN)/lint-imports

check: lint types arrows test ## All of the checks

lock: $(VENV)/.tools ## Write requirements/ and sbom.cdx.json anew; ARGS=--upgrade takes newer versions
	$(VENV)/tools/bin/python -m tests.supply_chain.lock $(ARGS)

audit: $(VENV)/.tools ## Look for known vulnerabilities in the image; needs PyPI's JSON API
	$(VENV)/tools/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/runtime.txt

up: ## Start Postgres, RabbitMQ, relay and consumers in containers; passwords come from .env
	docker compose up --build --detach
	docker compose ps

down: ## Stop the containers; their volumes stay
	docker compose down

clean: ## Remove .venv, caches and builds; databases stay
	rm -rf $(VENV) build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are older than what they were made from only when that has changed. The packages come
# from locks, and pip refuses a file whose hash is not in them. The build backend is one of them.
$(VENV)/.runtime: $(VENV)/.created pyproject.toml requirements/build.txt requirements/runtime.txt
	@echo "Installing into $(VENV)"
	@$(PIP) install $(LOCKED) -r requirements/build.txt -r requirements/runtime.txt
	@$(PIP) install $(UNLOCKED) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml requirements/build.txt requirements/dev.txt
	@echo "Installing into $(VENV), with the tools for development"
	@$(PIP) install $(LOCKED) -r requirements/build.txt -r requirements/dev.txt
	@$(PIP) install $(UNLOCKED) -e .
	@touch $@ $(VENV)/.runtime

$(VENV)/.docs: $(VENV)/.created pyproject.toml requirements/build.txt requirements/docs.txt
	@echo "Installing into $(VENV), with the tools for the documentation"
	@$(PIP) install $(LOCKED) -r requirements/build.txt -r requirements/docs.txt
	@$(PIP) install $(UNLOCKED) -e .
	@touch $@ $(VENV)/.runtime

# In environments of their own: neither may change what the tests run with.
$(VENV)/.tools: $(VENV)/.created requirements/tools.txt
	@echo "Installing into $(VENV)/tools"
	@$(BIN)/python -m venv $(VENV)/tools
	@$(VENV)/tools/bin/$(NAMED_PIP) install $(LOCKED) -r requirements/tools.txt
	@touch $@

$(VENV)/.lowest: $(VENV)/.created pyproject.toml requirements/build.txt requirements/lowest.txt
	@echo "Installing into $(VENV)/lowest"
	@$(BIN)/python -m venv $(VENV)/lowest
	@$(VENV)/lowest/bin/$(NAMED_PIP) install $(LOCKED) -r requirements/build.txt -r requirements/lowest.txt
	@$(VENV)/lowest/bin/$(NAMED_PIP) install $(UNLOCKED) -e .
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is not there: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
