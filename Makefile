# `make sweep` and `make test` need nothing but Python 3.11 or later; both do their own set-up in .venv.
PYTHON ?= python3
VENV := .venv
STORAGE ?= storage
STUDY ?= ablations.yaml

.PHONY: install install-test sweep test test-fast lint types clean

install: $(VENV)/installed
install-test: $(VENV)/installed-test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp that is younger than what was to be installed means there is nothing to do.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(VENV)/installed $@

sweep: install
	$(VENV)/bin/python -m orchestrator.sweep $(STUDY) --storage $(STORAGE)

lint: install-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install-test
	$(VENV)/bin/mypy

test: lint types
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Without Ray, servers and whatever else takes long.
test-fast: install-test
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "not slow" --ignore tests/e2e

clean:
	rm -rf $(VENV)
