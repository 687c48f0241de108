# Every target works in a fresh clone: it needs make and a Python of 3.11 or newer, and sets up .venv by itself.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

# The first that starts, is new enough and can make an environment. A shim for a version that is not there does not start.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	if $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$python; break; fi; done)
VENV_PYTHON := .venv/bin/python
PEERS_PYTHON := .venv-peers/bin/python
BENCH_PYTHON := .venv-bench/bin/python
# What `make bench` leaves out: what NumPy takes minutes for.
BENCH ?= ^(?!.*(Model.*numpy.*w4a8|LargeMatrix.*numpy))
ASV := cd asv_bench && env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE ../$(BENCH_PYTHON) -m asv

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-18s %s\n", $$1, $$2 }'

.PHONY: python
python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "no Python of 3.11 or newer with venv and ensurepip was found; install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
		exit 1; fi

.PHONY: venv
venv: python ## set up .venv with everything that development needs
	@"$(PYTHON)" scripts/environment.py dev

.PHONY: test
test: lint ## lint, type-check and run the tests that take seconds
	$(VENV_PYTHON) -m pytest -m "not slow" -n auto --maxprocesses 4

.PHONY: test-slow
test-slow: python ## run the tests that take minutes, or need real models or transformers
	@"$(PYTHON)" scripts/environment.py peers
	$(PEERS_PYTHON) -m pytest -m slow

.PHONY: lint
lint: venv ## ruff and mypy, changing nothing
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

.PHONY: format
format: venv ## let ruff rewrite what it can
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

.PHONY: demo
demo: python ## run a real model that comes from PyPI, and check its logits against the golden
	@"$(PYTHON)" scripts/environment.py demo
	$(VENV_PYTHON) -m lepton_ref.demo

.PHONY: bench
bench: python ## time, memory and error by op, format, precision and backend: .asv/html; BENCH=. is all, BENCH=Ops some
	@"$(PYTHON)" scripts/environment.py bench
	@$(ASV) machine --yes > /dev/null
	$(ASV) run --show-stderr --bench '$(BENCH)' --set-commit-hash "$$(git rev-parse HEAD)"
	$(ASV) publish
	$(BENCH_PYTHON) asv_bench/offline_site.py .asv/html

.PHONY: peers
peers: python ## llama.cpp, transformers and onnxruntime beside us in one run; takes an hour, and to compile llama.cpp
	@"$(PYTHON)" scripts/environment.py bench
	@"$(PYTHON)" scripts/environment.py peers
	$(if $(LLAMA_CPP_PYTHON),,@"$(PYTHON)" scripts/environment.py llama)
	$(BENCH_PYTHON) scripts/peers.py --measure $(if $(LLAMA_CPP_PYTHON),--llama-cpp $(LLAMA_CPP_PYTHON))

.PHONY: bench-round-once
bench-round-once: python ## what the proof costs: reference beside float32 BLAS, and what was repaired
	@"$(PYTHON)" scripts/environment.py demo
	$(VENV_PYTHON) asv_bench/round_once.py

.PHONY: docs
docs: venv ## write the generated parts of docs/ from the code and from what is recorded
	$(VENV_PYTHON) scripts/normative_table.py
	$(VENV_PYTHON) scripts/ambiguous_figure.py
	$(VENV_PYTHON) scripts/format_pages.py
	$(VENV_PYTHON) scripts/format_table.py
	$(VENV_PYTHON) scripts/beside_llama_cpp.py
	$(VENV_PYTHON) scripts/peers.py

.PHONY: docs-formats
docs-formats: python ## measure every storage format on a real model, where it is not recorded yet; takes an hour
	@"$(PYTHON)" scripts/environment.py demo
	$(VENV_PYTHON) scripts/format_table.py --measure $(if $(LLAMA_CPP_PYTHON),--llama-cpp $(LLAMA_CPP_PYTHON))

.PHONY: docs-figures
docs-figures: python ## count what float64 cannot decide on a real model, and draw it
	@"$(PYTHON)" scripts/environment.py demo
	$(VENV_PYTHON) scripts/ambiguous_figure.py --measure

.PHONY: figures
figures: python ## measure how far we are from float64 on the real models, and write the README's table
	@"$(PYTHON)" scripts/environment.py peers
	$(PEERS_PYTHON) scripts/readme_figures.py --measure

.PHONY: golden
golden: python ## make every golden anew, from transformers and llama.cpp
	@"$(PYTHON)" scripts/environment.py golden
	$(PEERS_PYTHON) golden/regenerate.py

.PHONY: clean
clean: ## remove the environments, caches and build products
	rm -rf .venv .venv-peers .venv-bench .venv-llama .asv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
