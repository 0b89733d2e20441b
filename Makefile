PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-slow test-cvat lint format demo-data ablation bench requirements clean

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

# a process for each core, up to four; more threads in each would only wait for each other
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4

test-slow: $(VENV)/dev-installed
	$(BIN)/pytest -m slow

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

# every part of the method hvsa, on the videos that CLIPS names; see benchmarks/ablation.py
ablation: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ablation $(CLIPS) --out runs/ablation \
		--write docs/ablation.md

# the round against the plain one, part by part; BENCH="--frames 50 --size 192x256 --epochs 8" for
# the sizes of docs/performance.md
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.bench $(BENCH)

# what the container image is made of: the newest versions that fit pyproject.toml
requirements: $(VENV)/installed
	$(PYTHON) -m venv --clear --without-pip build/requirements
	$(BIN)/pip --python build/requirements/bin/python install --quiet .
	$(BIN)/pip --python build/requirements/bin/python freeze --all --exclude hvsa-cvat \
		> deploy/requirements.txt

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
