PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-slow test-gpu lint format rooms results clean

# everything the project needs, installed once and again when pyproject.toml changes
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/hvsa-agent demo --out runs/demo

test: lint
	$(BIN)/pytest

test-slow: $(VENV)/installed
	$(BIN)/pytest -m slow

test-gpu: $(VENV)/installed
	$(BIN)/pytest -m gpu

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
