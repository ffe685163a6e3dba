# make help says what there is. Needs python3 (3.11 or newer, with venv) and nothing else; runs on GNU make and a POSIX sh.

PYTHON ?= python3
# cpu: never a CUDA build. any: whatever your index offers first, which on Linux is the CUDA build.
TORCH ?= cpu
# Test processes, to which files of tests are shared out, where there are cores to spare: tests that time things need
# theirs. 0: one after the other, in one process.
WORKERS ?= 0
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-all bundled bench bench-framework bench-sampling bench-inner bench-squad study-sums study-plateau study-people study-untrue study-contain study-prompt-free study-collapse study-gate study-controls clean

export PIP_DISABLE_PIP_VERSION_CHECK := 1
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_INDEX := https://download.pytorch.org/whl/cpu
SEED := $(shell echo $$(( $$(date +%s) % 2147483647 )))

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-15s %s\n' "$$name" "$$text"; done

venv: $(STAMP) ## make .venv with the tested versions (TORCH=any for a GPU machine)

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$("$(PYTHON)" --version 2>&1) is too old: 3.11 or newer is needed. Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(PIP) install --upgrade pip
	@if [ "$(TORCH)-$$(uname -s)" = cpu-Linux ]; then \
		echo "installing torch $(TORCH_VERSION), the build without CUDA (make venv TORCH=any takes another)"; \
		$(PIP) install "torch==$(TORCH_VERSION)+cpu" -c constraints.txt 2>/dev/null || \
		$(PIP) install "torch==$(TORCH_VERSION)+cpu" -c constraints.txt --extra-index-url $(TORCH_INDEX) || { \
			echo "Neither your index nor $(TORCH_INDEX) gave torch $(TORCH_VERSION) without CUDA." >&2; \
			echo "To take the build that your index offers: make $(MAKECMDGOALS) TORCH=any" >&2; exit 1; }; \
	else $(PIP) install "torch==$(TORCH_VERSION)" -c constraints.txt; fi
	$(PIP) install -e ".[dev]" -c constraints.txt
	@touch $@

demo: venv ## the bundled model teaches itself, with a fresh seed (ARGS="seed=3 train.lr=1e-4" to change a setting)
	@$(if $(filter seed=%,$(ARGS)),,echo "seed $(SEED); for the same run again: make demo ARGS=seed=$(SEED)")
	$(BIN)/selftaught run recipes/self_consistency.yaml $(if $(filter seed=%,$(ARGS)),,seed=$(SEED)) $(ARGS)

test: venv ## style, types and every test under a minute
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(ARGS)

test-all: venv ## every test, the slow ones too
	$(BIN)/python -m pytest $(ARGS)

bundled: venv ## train the bundled models again (training/)
	$(BIN)/python training/sums.py $(ARGS)
	$(BIN)/python training/people.py $(ARGS)
	$(BIN)/python training/people.py --planted $(ARGS)

bench: bench-framework bench-sampling bench-inner ## every benchmark (benchmarks/)

bench-framework: venv ## what a run costs besides its model: the sums recipe three times (about five minutes)
	$(BIN)/python benchmarks/framework.py $(ARGS)

bench-sampling: venv ## sampling beside generate and generate_batch, one thread (half an hour; ARGS="--models bundled" for less)
	$(BIN)/python benchmarks/sampling.py $(ARGS)

bench-inner: venv ## many adapters beside PEFT, one thread (an hour; ARGS="--models 1m" for less, ARGS=--equal for equality)
	$(BIN)/python benchmarks/inner.py $(ARGS)

bench-squad: venv ## a round of self-edits on SQuAD, 50 x 5 x 3, beside the reference's bill; goes on where it stopped
	$(BIN)/python benchmarks/squad.py $(ARGS)

study-sums: venv ## the study of the sums world; goes on where it stopped (benchmarks/studies/)
	$(BIN)/python benchmarks/studies/sums.py $(ARGS)

study-plateau: venv ## does more pretraining move the bundled base? (about 25 minutes)
	$(BIN)/python benchmarks/studies/plateau.py $(ARGS)

study-people: venv ## does reinforcement make a better editor of bundled:people? goes on where it stopped (an hour or more)
	$(BIN)/python benchmarks/studies/people.py $(ARGS)

study-untrue: venv ## what do adapters learn from notes that are not true? goes on where it stopped (half an hour)
	$(BIN)/python benchmarks/studies/untrue.py $(ARGS)

study-contain: venv ## does one update put 200 documents into bundled:people? goes on where it stopped (an hour, about)
	$(BIN)/python benchmarks/studies/contain.py $(ARGS)

study-prompt-free: venv ## prompt-free self-training on bundled:planted, five seeds beside real text; goes on where it stopped
	$(BIN)/python benchmarks/studies/prompt_free.py $(ARGS)

study-collapse: venv ## does the collapse alarm ring where a loop collapses, and only there? goes on where it stopped
	$(BIN)/python benchmarks/studies/collapse.py $(ARGS)

study-gate: venv ## how often the gate is wrong, with simulated models (about five minutes)
	PYTHONPATH=tests $(BIN)/python benchmarks/studies/gate.py $(ARGS)

study-controls: venv ## is a gain proved where there is nothing to learn? goes on where it stopped (minutes a run, 60 runs)
	$(BIN)/python benchmarks/studies/controls.py $(ARGS)

clean: ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
