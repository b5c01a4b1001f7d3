# Needs Python >= 3.10, a C compiler and make; everything else goes into .venv.
PYTHON ?= python3
CC ?= cc
VENV = .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip install -q --disable-pip-version-check
OP_TESTS ?= $(wildcard tests/test_ops*.py)
ARGS ?=
PEERS ?= torch==2.13.0 jax optax onnx onnxruntime scikit-learn numpy scipy

SOURCES = $(wildcard csrc/*.[ch] csrc/*.inc csrc/ops/*.[ch] pynn/*/*.pyx pynn/*/*.pxd pynn/*/*.pxi) \
	setup.py pyproject.toml
C_FILES = $(wildcard csrc/*.[ch] csrc/ops/*.[ch] tests/c/*.[ch])

.PHONY: demo docs test test-all bench bench-peers asan mutants lint wheel aarch64 clean help
.DEFAULT_GOAL = help

demo: build/.built $(VENV)/.demo  ## train a network on real handwritten digits
	$(PY) -m pynn demo $(ARGS)

test: build/.strict $(VENV)/.test  ## build with warnings as errors, run the tests
	$(PY) -m pytest tests -q --durations=20 $(ARGS)

test-all: build/.strict $(VENV)/.test  ## the tests over the full product of ops and dimensions
	PYNN_TEST_ALL=1 $(PY) -m pytest tests -q --durations=20 $(ARGS)

docs: build/.built $(VENV)/.demo  ## docs/ops.md, and the lessons' pictures and what they print into build/docs
	$(PY) docs/make_ops.py
	@mkdir -p build/docs
	@set -e; for lesson in $(wildcard docs/lessons/*.py); do name=$$(basename $$lesson .py); echo $$lesson; \
	$(PY) $$lesson --picture build/docs/$$name.png > build/docs/$$name.txt; done

bench: build/.built $(VENV)/.test  ## the machine's limits, and every op against them
	$(PY) -m pynn bench $(ARGS)

bench-peers: build/.built $(VENV)/.test .venv-peers/.ready  ## all benchmarks beside other libraries, and docs/benchmarks.md
	$(PY) benchmarks/run.py --python .venv-peers/bin/python $(ARGS)
	$(PY) benchmarks/report.py

mutants: build/.strict $(VENV)/.test  ## flip one sign per kernel: the tests must notice
	$(PY) tests/mutants.py $(ARGS)

lint: $(VENV)/.lint  ## ruff, clang-format, cython-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES)
	PATH=$(VENV)/bin:$$PATH cython-lint --max-line-length=120 pynn

aarch64:  ## cross-compile the C core and run its self-test under qemu
	$(PYTHON) tests/c/aarch64.py

# A copy of the package, instrumented; run from build/asan, so that the tree's own pynn is not found.
ASAN_RUN = LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=lib ../../$(PY)
asan: $(VENV)/.test  ## the op tests under AddressSanitizer and UndefinedBehaviorSanitizer
	CFLAGS=-O1 PYNN_SANITIZE=address,undefined $(PY) setup.py -q build --build-base build/asan --build-lib build/asan/lib
	cd build/asan && $(ASAN_RUN) -c "import pynn._core as c; assert 'asan' in c.__file__, c.__file__"
	cd build/asan && $(ASAN_RUN) -m pytest $(abspath $(OP_TESTS)) -q -p no:cacheprovider $(ARGS)

# The wheel is made from the sdist, which proves that the sdist is complete.
wheel: $(VENV)/.build  ## sdist and wheel into dist/, tried outside of the tree with and without SciPy
	rm -rf dist && mkdir dist
	$(PY) -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(PY) -m pip wheel -q --no-deps --no-build-isolation -w dist dist/*.tar.gz
	ls -l dist
	set -e; away=$$(mktemp -d); trap 'rm -rf "$$away"' EXIT; \
	cp tests/wheel_smoke.py dist/*.whl "$$away"; cd "$$away"; \
	$(abspath $(PY)) -m venv full; full/bin/python -m pip install -q *.whl; \
	full/bin/python -I wheel_smoke.py; \
	$(abspath $(PY)) -m venv bare; bare/bin/python -m pip install -q numpy tqdm safetensors; \
	bare/bin/python -m pip install -q --no-deps *.whl; \
	bare/bin/python -I wheel_smoke.py --without-scipy

clean:  ## remove what was built; .venv stays
	rm -rf build dist *.egg-info pynn/_core/*.c pynn/_core/*.so .pytest_cache .ruff_cache .hypothesis
	find pynn tests -name __pycache__ -type d -exec rm -rf {} +

help:
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

# ---- what the targets stand on -------------------------------------------------------------------

# A tree once built strictly stays so: other flags would compile all of it anew.
build/.built: $(SOURCES) | $(VENV)/.build
	$(if $(wildcard build/.strict),PYNN_WERROR=1) $(PY) setup.py -q build_ext --inplace
	@mkdir -p build && touch $@

build/.strict: $(SOURCES) | $(VENV)/.build
	PYNN_WERROR=1 $(PY) setup.py -q build_ext --inplace
	@mkdir -p build && touch $@ build/.built

$(VENV)/.build: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) "setuptools>=77" wheel "cython>=3.1" numpy
	@touch $@

# Editable, without the extension: that one is built in place, and only what changed of it.
$(VENV)/.test: pyproject.toml | $(VENV)/.build
	PYNN_NO_EXT=1 $(PIP) --no-build-isolation -e '.[test]'
	@touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.build
	PYNN_NO_EXT=1 $(PIP) --no-build-isolation -e '.[demo]'
	@touch $@

# the versions of .pre-commit-config.yaml; a test compares them
LINTERS = ruff==0.17.6 clang-format==23.1.5 cython-lint==0.22.1 pycodestyle==2.15.0
$(VENV)/.lint: Makefile | $(VENV)/.build
	$(PIP) $(LINTERS)
	@touch $@

.venv-peers/.ready:
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -q $(PEERS)
	@touch $@
