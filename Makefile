# convbench: `make bench` and `make test` first set up everything they need, in $(VENV).

VENV   ?= .venv
PYTHON ?= python3
JOBS   ?= 2
ARGS   ?=

python := $(VENV)/bin/python
stamp  := $(VENV)/.convbench-is-installed
quiet  := --disable-pip-version-check $(if $(CI),--quiet)
pip    := $(python) -m pip install $(quiet) -c constraints.txt
# Only the files whose SHA-256 requirements.lock names; torch's CPU build may need PyTorch's own index.
locked := $(python) -m pip install $(quiet) --require-hashes --no-deps --only-binary :all: -r requirements.lock
# CUDA's Python packages only where nvidia-smi sees a GPU, as in scripts/install-torch.
extras := $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && echo dev,cuda || echo dev)

# The kernels are compiled and interpreted with the newest Triton, of constraints.txt, and with the oldest supported.
oldest_triton := 3.6.0

# It carries tritonserver 2.51 with the Python backend, and wants an older numpy than the rest.
pytriton := 0.7.0

# Changes the program for `make mutants`; in an environment of its own, as it needs nothing of ours.
cosmic_ray := 8.7.0

pytest := OMP_NUM_THREADS=1 $(python) -m pytest --numprocesses $(JOBS) --dist worksteal --durations 10

# Torch, oneDNN and MKL as on a processor that ends at AVX2, and the tests whose numbers depend on it.
avx2    := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
numeric := tests/models tests/sampling tests/checks tests/test_precision.py
# Run natively only: large networks whose products those of the small ones and of fcdm_xl stand for, images of samplers, and
# what computes no numbers.
large   := diffit_xl or adm_up or _l_2 or dico_l or fcdm_l or dic_xl or dit_xl or dig_xl_2 or dit_llama_xl_2 or adm_128 or \
dic_h or dico_xl or pixart_xl or sit_xl or uvit_h or uvit_l or edm2 or ldm_4 or ddt_b_2 or lightningdit_b_1
images  := digits or glyphs or right_cache or wrong_cache or swapped_halves
once    := $(large) or $(images) or macs or signature or per_latent_pixel or simulated_runs or hostile

.PHONY: help setup bench test test-slow test-all test-avx2 mutants lint wheel lock audit docs tables serving site gpu clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-9s  %s\n", $$1, $$2 }' Makefile

setup: $(stamp) ## create the environment unless it is up to date; LOCKED=1: by SHA-256, from requirements.lock

$(stamp): pyproject.toml constraints.txt requirements.lock scripts/install-torch
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("convbench needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(locked) || $(locked) --extra-index-url https://download.pytorch.org/whl/cpu
	$(python) -m pip install $(quiet) --no-deps --no-build-isolation --editable .
else
	$(pip) setuptools wheel
	scripts/install-torch $(python)
	$(pip) --no-build-isolation --editable '.[$(extras)]'
	$(pip) --no-deps nvidia-modelopt onnxconverter-common apache-otava
endif
	$(python) -m pip install $(quiet) --no-deps \
	--target $(VENV)/triton-$(oldest_triton) triton==$(oldest_triton)
	@touch $@

bench: setup ## the FLOPs and throughput table of DiC-XL at 512 pixels
	$(VENV)/bin/convbench throughput --model dic_xl --res 512

test: setup ## the quick tests, in two processes of one thread (JOBS=2); ARGS="-k dic -x" goes to pytest
	$(pytest) -m "not gpu and not slow" $(ARGS)

test-slow: setup ## the other tests that need no GPU: large models, exports, interpreters, compilers, real workers
	$(pytest) -m "slow and not gpu" $(ARGS)

test-all: test test-slow ## every test that needs no GPU

test-avx2: setup ## the numerical tests, including slow ones, with AVX2 instructions only
	$(avx2) $(pytest) -m "not gpu" -k "not ($(once))" $(ARGS) $(numeric)

mutants: setup ## change lines of the program at random, and see whether its tests notice; not part of CI
	test -x .venv-mutants/bin/cosmic-ray || { $(PYTHON) -m venv .venv-mutants && \
	.venv-mutants/bin/pip install --disable-pip-version-check --quiet cosmic-ray==$(cosmic_ray); }
	OMP_NUM_THREADS=1 .venv-mutants/bin/python scripts/mutants.py --python $(abspath $(python)) $(ARGS)

lint: setup ## style, format, types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

wheel: setup ## build the sdist and from it the wheel; run the program from the wheel alone
	rm -rf build dist
	$(python) -m build --no-isolation $(if $(CI),>/dev/null)
	$(pip) --quiet --no-index --no-deps --target build/wheel dist/*.whl
	cd build/wheel && $(abspath $(python)) -m convbench flops --model dic_s --res 256 --format json | grep 5873889024
	@ls -l dist

lock: setup ## write requirements.lock from constraints.txt and the package index
	$(python) scripts/lock.py

audit: ## look the pinned versions up in the OSV database of vulnerabilities; says so if it cannot be reached
	$(PYTHON) scripts/audit.py

docs: setup ## regenerate the table of docs/audit.md, below its introduction
	{ sed '/^<!-- Below/q' docs/audit.md; echo; $(VENV)/bin/convbench audit --format markdown; } >docs/audit.new
	mv docs/audit.new docs/audit.md

tables: setup ## regenerate the tables and pictures of README.md and docs/ from results/
	OMP_NUM_THREADS=1 $(python) scripts/tables.py --count

serving: setup ## test the output of deploy in a real Triton Inference Server, in an environment of its own
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/pip install $(quiet) \
	nvidia-pytriton==$(pytriton) 'numpy<2' onnxruntime 'tritonclient[all]'
	OMP_NUM_THREADS=1 CONVBENCH_TRITON=.venv-triton $(python) -m pytest tests/serving/triton/test_server.py $(ARGS)

site: setup ## build the documentation, with every picture of the results, into build/site
	$(pip) --quiet 'mkdocs>=1.6'
	$(python) scripts/docs.py
	$(python) -m mkdocs build --strict --quiet

gpu: ## everything that needs an NVIDIA GPU, with this machine's own python3: PARTS="tf32 kernels", or PARTS=--dry-run
	$(PYTHON) scripts/gpu $(PARTS)

clean: ## remove the environment, builds and caches
	rm -rf $(VENV) .venv-mutants build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
