PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test coverage test-lowest test-slow test-cluster test-cvat lint format demo-data ablation bench gpu requirements clean docs

PIP = $(BIN)/pip install --quiet --disable-pip-version-check

# installed once, and again when pyproject.toml changes
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/dev-installed: $(VENV)/installed
	$(PIP) -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/hvsa-agent demo --out runs/demo

# a process for each core, up to four; more threads in each would only wait for each other.
# Files of tests lie in memory where 4 GB are free there: sessions are flushed to the disk at each
# step, and a disk takes milliseconds for that
MEMORY := $(shell [ "$$(df --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 4000000 ] 2>/dev/null && echo /dev/shm)
test: lint
	OMP_NUM_THREADS=1 $(MEMORY:%=TMPDIR=%) $(BIN)/pytest -n auto --maxprocesses 4

# the ordinary tests, and how much of the package they run: fails below FLOOR % of lines and branches
FLOOR = 95
coverage: $(VENV)/dev-installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --cov --cov-fail-under=$(FLOOR)

# the same tests with the lowest versions that pyproject.toml allows; warnings are no errors there,
# because old libraries use deprecated parts of newer ones
test-lowest: build/lowest/installed
	OMP_NUM_THREADS=1 build/lowest/bin/pytest -n auto --maxprocesses 4 -W default

build/lowest.txt: pyproject.toml $(VENV)/dev-installed
	mkdir -p build
	$(BIN)/uv pip compile --quiet --python $(BIN)/python --resolution lowest-direct --extra dev \
		pyproject.toml --output-file $@

build/lowest/installed: build/lowest.txt
	$(PYTHON) -m venv --clear build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --requirement build/lowest.txt
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --no-deps --editable .
	touch $@

test-slow: $(VENV)/dev-installed
	$(BIN)/pytest -m slow --timeout 1500

# PostgreSQL, S3 and Ray, which the tests start on this machine
test-cluster: $(VENV)/dev-installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "cluster and not slow" --timeout 900

# against the server that CVAT_HOST and CVAT_ACCESS_TOKEN name; see docs/testing.md
test-cvat: $(VENV)/dev-installed
	$(BIN)/pytest -m cvat tests/contract

lint: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the clip and the checkpoint of the demo, as they lie in hvsa_cvat/data/demo (about 20 minutes)
demo-data: $(VENV)/installed
	$(PIP) -e '.[bench]'
	$(BIN)/python -m tools.rooms --distribution test --clips 1 --frames 60 --size 144x192 \
		--seed 11 --format jpg --out build/rooms/test
	$(BIN)/python -m tools.rooms --distribution pretrain --views 400 --size 144x192 \
		--seed 1 --out build/rooms/pretrain
	cp -r build/rooms/test/clip_000/images build/rooms/test/clip_000/labels \
		build/rooms/test/classes.txt hvsa_cvat/data/demo/
	OMP_NUM_THREADS=1 $(BIN)/hvsa-agent pretrain build/rooms/pretrain/images \
		--labels build/rooms/pretrain/labels --classes build/rooms/pretrain/classes.txt \
		--size 144x192 --epochs 60 --seed 0 --out hvsa_cvat/data/demo/pretrained.safetensors

# the one table of docs/results.md, JOBS runs at once; see benchmarks/results.py
JOBS ?= 1
.PHONY: results
results: $(VENV)/installed
	$(BIN)/python -m benchmarks.results $(CLIPS) --jobs $(JOBS) --out runs/results \
		--write docs/results.md

# people who draw against people who correct, in minutes; see benchmarks/minutes.py
.PHONY: minutes
minutes: $(VENV)/installed
	$(BIN)/python -m benchmarks.minutes $(CLIPS) --jobs $(JOBS) --out runs/minutes \
		--write docs/results.md

# every part of the method hvsa, on the videos that CLIPS names; see benchmarks/ablation.py
ablation: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ablation $(CLIPS) --out runs/ablation \
		--write docs/ablation.md

# the round against the plain one, part by part; BENCH="--frames 50 --size 192x256 --epochs 8" for
# the sizes of docs/performance.md
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.bench $(BENCH)

# everything that is measured on a GPU, in at most eight minutes; figures in runs/gpu/gpu.json
gpu: $(VENV)/dev-installed
	$(BIN)/python -m benchmarks.gpu --out runs/gpu $(GPU)

# what the container image is made of and built with: the newest versions that fit pyproject.toml,
# with the hashes of all their files
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate \
	--custom-compile-command "make requirements" \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28
requirements: $(VENV)/dev-installed
	$(COMPILE) pyproject.toml --output-file deploy/requirements.txt
	$(BIN)/python -c "import tomllib; from pathlib import Path; \
		print(*tomllib.loads(Path('pyproject.toml').read_text())['build-system']['requires'], sep='\n')" \
		| $(COMPILE) - --constraints deploy/requirements.txt \
		--output-file deploy/build-requirements.txt

# docs/cli.md and docs/configuration.md, from the help and the settings; a test fails when stale
docs: $(VENV)/installed
	$(BIN)/python -m tools.reference_docs

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
