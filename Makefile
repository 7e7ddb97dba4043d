# Every target needs nothing but Python 3.11 or later on Linux; each does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
STORAGE ?= storage
STUDY ?= ablations.yaml

.PHONY: install install-test install-docs sweep figures results test test-fast test-timm lint types docs wheel clean

install: $(VENV)/installed
install-test: $(VENV)/installed-test
install-docs: $(VENV)/installed-docs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp that is younger than what was to be installed means there is nothing to do.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(VENV)/installed $@

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

sweep: install
	$(VENV)/bin/python -m orchestrator.sweep $(STUDY) --storage $(STORAGE)

# The picture of the README, from the storage of `make sweep`; needs Chromium.
figures: install
	$(VENV)/bin/python docs/quick_study_picture.py $(STORAGE)

# docs/results/, from the storage of a finished study: make results STUDY=studies/streets.yaml
results: install
	$(VENV)/bin/python docs/study_results.py $(STUDY) $(STORAGE)

lint: install-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install-test
	$(VENV)/bin/mypy

test: lint types
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Without Ray, servers and the tests marked `slow`: about two minutes on two cores.
test-fast: install-test
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "not slow" --ignore tests/e2e

# torchvision, which timm needs, fits one version of torch only: an environment of its own, 6 GB. These
# tests need neither Ray nor MLflow.
$(VENV)-timm/installed:
	$(PYTHON) -m venv $(VENV)-timm
	$(VENV)-timm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.14.1 \
	  torchvision==0.29.1 timm segmentation-models-pytorch pytest pytest-timeout pyyaml pyarrow \
	  kornia torchmetrics safetensors pillow tifffile fsspec filelock psutil
	touch $@

test-timm: $(VENV)-timm/installed
	$(VENV)-timm/bin/python -m pytest tests/models/test_timm_weights.py --noconftest

# The site, in site/.
docs: install-docs
	$(VENV)/bin/mkdocs build --strict

# The wheel, in dist/. setuptools would pack what an earlier build left in build/.
wheel: | $(VENV)/bin/python
	rm -rf build dist
	$(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(VENV)-timm build dist site
