# make demo   the main job, from nothing      make test   the tests, from nothing
# make lint   ruff, mypy, import-linter       make evidence, make study   the figures of docs/evidence (slow; need CIFAR-10)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles the files of a package when it first imports them; most are never imported.
PIP := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 $(BIN)/pip
# The extras that come with the wheel.
EXTRAS ?= train
SOURCES := $(shell find src -type f -not -name '*.pyc') pyproject.toml README.md LICENSE
WORKERS ?= 2
export PYTHONWARNINGS ?=

.PHONY: set-up demo test test-fast reliability fuzz rank-loss lint evidence study gpu bench-training bench-metrics bench-recalibration wheel clean real
.DEFAULT_GOAL := demo

$(VENV)/.python: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robcal needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.wheel: $(VENV)/.python $(SOURCES)
	rm -rf dist
	@echo "setting up: building the wheel and installing it with its pinned dependencies (a few minutes the first time)"
	$(PIP) wheel -q --no-deps -w dist .
	$(PIP) install -q "$$(ls dist/robcal-*.whl)[$(EXTRAS)]"
	$(PIP) install -q --no-deps --force-reinstall dist/robcal-*.whl
	touch $@

$(VENV)/.test: $(VENV)/.wheel
	$(PIP) install -q "$$(ls dist/robcal-*.whl)[test]"
	touch $@

# What checks the pages by keyboard and screen reader; without npm that test is skipped.
$(VENV)/.axe: $(VENV)/.python tests/report/package-lock.json
	npm ci --prefix tests/report --ignore-scripts --no-audit --no-fund --loglevel=error \
	  || echo "no axe-core could be installed: its test will be skipped"
	touch $@

$(VENV)/.lint: $(VENV)/.wheel
	$(PIP) install -q "$$(ls dist/robcal-*.whl)[dev]"
	touch $@

wheel: $(VENV)/.wheel

# What all checks need, for .ci/run: pip resolves it once, where one target after the other resolves it four times.
set-up:
	$(MAKE) -j2 EXTRAS=dev,docs $(VENV)/.wheel $(VENV)/.axe
	touch $(VENV)/.test $(VENV)/.lint $(VENV)/.docs

demo: $(VENV)/.wheel
	$(BIN)/robcal demo

test: $(VENV)/.test $(VENV)/.axe
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider --doctest-modules --pyargs robcal

# The situations of docs/reliability.md alone.
reliability: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup tests/reliability tests/faults

# 10,000 damaged files, each read right or refused; the tests try 400.
fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/mutations.py --count 10000

# Ten trainings and ten scorings under torchrun that each lose a process at a random point; the tests try one of each.
rank-loss: $(VENV)/.test
	ROBCAL_RANK_LOSSES=10 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/core/test_rank_loss.py

test-fast: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup -m "not slow" tests

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The figures of docs/evidence/claim.md, from CIFAR-10 (a folder with the official archives or parquet files): about an hour.
CIFAR10 ?= $(or $(ROBCAL_CIFAR10),../shared/data/cifar10)
RUNS ?= runs
HARDWARE ?= $(shell nproc) CPU cores
RECIPE := --data cifar10:$(CIFAR10) --model resnet-small --epochs 18 --train-limit 15000 --augment standard --precision bf16
evidence: $(VENV)/.wheel
	$(BIN)/robcal train $(RECIPE) --method vanilla --out $(RUNS)/cifar10-plain
	test -f $(RUNS)/val.parquet || $(BIN)/robcal score --model $(RUNS)/cifar10-plain --split val --method projection --out $(RUNS)/val.parquet
	test -f $(RUNS)/train.parquet || $(BIN)/robcal score --model $(RUNS)/cifar10-plain --split train --method projection --out $(RUNS)/train.parquet
	$(BIN)/robcal train $(RECIPE) --method ar-adals --scores $(RUNS)/train.parquet --scores $(RUNS)/val.parquet --out $(RUNS)/cifar10-ar-adals
	$(BIN)/python benchmarks/evidence.py $(RUNS)/cifar10-plain $(RUNS)/cifar10-ar-adals --hardware "$(HARDWARE)" --out docs/evidence/claim.md

# The pages of docs/evidence/real: published networks, natural shifts and the answers of people, from a folder of data
# (benchmarks/real/networks.py says which): about an hour on two cores; what is measured already is kept.
DATA ?= ../shared/data
real: $(VENV)/.wheel
	$(PIP) install -q --no-deps $$(grep -E '^efficientnet' benchmarks/requirements.txt)
	$(BIN)/python benchmarks/published.py --data $(DATA) --work $(RUNS)/real --out docs/evidence/real

# The comparisons of docs/evidence/small-networks.md and running-levels.md: about six hours on two cores. Runs are kept below $(RUNS)/study; tables go to docs/evidence.
# TINY=FILE, which benchmarks/running_tiny.py writes, adds the comparison of 200 classes to running-levels.md.
FASHION ?= /usr/share/datasets/fashion-mnist
STUDY := --cache $(RUNS)/study --no-report --overwrite
study: $(VENV)/.wheel
	for preset in overfit regularised sources small ensembles; do \
	  $(BIN)/robcal compare cifar10-$$preset --data cifar10:$(CIFAR10) $(STUDY) --out docs/evidence/$$preset || exit; done
	$(BIN)/robcal compare digits $(STUDY) --out docs/evidence/digits
	$(BIN)/python benchmarks/severity.py $(foreach name,overfit regularised small digits,docs/evidence/$(name)/results.json) \
	  --out docs/evidence/severity.md
	$(BIN)/python benchmarks/training.py --train 1280 --val 1024 --epochs 11 --precision bf16 --also mixup ar-adals+mixup \
	  --json docs/evidence/running/times.json
	$(BIN)/python benchmarks/running_study.py --data cifar10:$(CIFAR10) --fashion fashion-mnist:$(FASHION) \
	  $(if $(TINY),--tiny npz:$(TINY)) --cache $(RUNS)/study --out $(RUNS)/running --jobs 2
	$(BIN)/python benchmarks/running_levels.py --results $(RUNS)/running
	$(BIN)/python benchmarks/unused_images.py --data cifar10:$(CIFAR10) --cache $(RUNS)/study --page docs/evidence/unused-images.md

# Wide ResNets on one GPU, in pieces of under ten minutes: start it again until it says that everything is done (docs/gpu.md).
# PLAN names a file of benchmarks/wide: plan, deep, aggregate, or tiny with GPU_DATA=imagenet:FOLDER.
MINUTES ?= 9
PLAN ?= plan
GPU_DATA ?= cifar10:$(CIFAR10)
gpu: $(VENV)/.wheel
	$(BIN)/python benchmarks/gpu.py --data $(GPU_DATA) --plan benchmarks/wide/$(PLAN).toml $(if $(NOISY),--noisy $(NOISY)) \
	  --minutes $(MINUTES) --out $(RUNS)/gpu-$(PLAN)
	$(BIN)/python benchmarks/gpu.py --report $(RUNS)/gpu-$(PLAN) --page docs/evidence/gpu$(patsubst %,-%,$(filter-out plan,$(PLAN))).md

# The figures of docs/speed.md. The peers of benchmarks/metrics.py go into a virtual environment of their own.
bench-training: $(VENV)/.wheel
	$(BIN)/python benchmarks/training.py --model cnn-fast --epochs 31
	$(BIN)/python benchmarks/training.py --model mlp --epochs 101

bench-metrics:
	$(MAKE) VENV=.venv-bench .venv-bench/.peers
	.venv-bench/bin/python benchmarks/metrics.py
	.venv-bench/bin/python benchmarks/metrics.py --large

# The tables of docs/recalibration.md and of docs/evidence/recalibration-details.md, from a folder of data (benchmarks/recalibration_networks.py says which): about ten minutes.
bench-recalibration:
	$(MAKE) VENV=.venv-bench .venv-bench/.peers
	.venv-bench/bin/python benchmarks/recalibration.py --data $(DATA) --work $(RUNS)/recalibration --out docs
	.venv-bench/bin/python benchmarks/recalibration_choice.py --data $(DATA) --work $(RUNS)/recalibration --out docs

$(VENV)/.peers: $(VENV)/.wheel benchmarks/requirements.txt
	$(PIP) install -q "$$(ls dist/robcal-*.whl)[recalibration]" $$(grep -E '^(torchmetrics|netcal)==' benchmarks/requirements.txt)
	touch $@

# The fast tests with the lowest version of every dependency that pyproject.toml allows, and with the newest there is, each in an
# environment of its own. Both take the PyTorch of constraints.txt, so that the one that is there is used and no other (often one
# with several GB of CUDA libraries) is fetched; TORCH=torch==2.6.0 names another. Old libraries on new ones warn of each other;
# pytest is not the newest, because 9.2.0 ignores the groups of pytest-xdist.
.PHONY: test-oldest test-newest
OLDEST_PYTHON ?= python3.11
TORCH ?= $(shell grep '^torch==' constraints.txt)
test-oldest: $(VENV)/.wheel
	$(OLDEST_PYTHON) -m venv .venv-oldest
	{ $(OLDEST_PYTHON) tools/lowest.py | grep -v '^torch=='; echo '$(TORCH)'; } > .venv-oldest/constraints.txt
	PIP_CONSTRAINT=.venv-oldest/constraints.txt .venv-oldest/bin/pip install -q "$$(ls dist/robcal-*.whl)[test]"
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup -W ignore::DeprecationWarning -m "not slow" tests

test-newest: $(VENV)/.wheel
	$(PYTHON) -m venv .venv-newest
	{ echo '$(TORCH)'; grep '^pytest==' constraints.txt; } > .venv-newest/constraints.txt
	PIP_CONSTRAINT=.venv-newest/constraints.txt .venv-newest/bin/pip install -q --upgrade "$$(ls dist/robcal-*.whl)[test]"
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup -m "not slow" tests

# What `pip install robcal` brings, and what with the extra `train`: packages and their size on disk.
.PHONY: weight site figures reproducible
weight: $(VENV)/.wheel
	$(BIN)/python tools/weight.py
	$(BIN)/python tools/weight.py --extra train

# The documentation site, in site/: the pages of docs/, the public names by their docstrings, the examples with what they print.
site: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(BIN)/python tools/site.py

$(VENV)/.docs: $(VENV)/.wheel
	$(PIP) install -q "$$(ls dist/robcal-*.whl)[docs]"
	touch $@

# The pictures of the pages that are made from the code.
figures: $(VENV)/.wheel
	$(BIN)/python tools/map.py
	$(BIN)/python tools/report_picture.py

# The wheel and the source distribution of the last commit, made twice in different folders, with different modes of files and
# time zones: the same bytes.
reproducible: $(VENV)/.python
	$(PIP) install -q hatchling
	rm -rf build/one build/two
	git clone -q . build/one
	umask 077 && git clone -q . build/two/deeper
	for copy in one two/deeper; do (cd build/$$copy && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) TZ=UTC$${#copy} \
	  $(CURDIR)/$(BIN)/python -m hatchling build) || exit; done
	cd build/one/dist && sha256sum * | tee ../../sums
	cd build/two/deeper/dist && sha256sum --check ../../../sums

clean:
	rm -rf $(VENV) .venv-bench .venv-oldest .venv-newest dist build site docs/gallery docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
