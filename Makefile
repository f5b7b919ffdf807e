# Two commands matter: `make demo` and `make test`. Each makes what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)

.PHONY: demo test test-cluster lint docs rust-test python-test fuzz valgrind torture bench clean help

help:
	@echo "make demo     install, build, train Chichewa students on packaged text, and evaluate them"
	@echo "make test     install, build, lint and run every test of both languages"
	@echo "make lint     formatting, clippy, ruff, mypy, rustdoc, the direction of imports, the native core's stub"
	@echo "make docs     the documentation site, into site/: generated references, executed notebooks, links checked"
	@echo "make fuzz     a minute of random input for each parser, the measures and transport (cargo-fuzz, C++)"
	@echo "make valgrind the native core's portable and AVX2 kernels with every access to memory watched (Linux, valgrind)"
	@echo "make torture  stores under threads, kills, full disks, compaction and flipped bits, with figures"
	@echo "make test-cluster  an index by two machines, namespaces of this one, of which one is lost (Linux, root, Ray)"
	@echo "make bench    every benchmark, into bench/results"
	@echo "make clean    remove what these commands made, but for runs/"

$(BIN)/python:
	@echo "== making $(VENV)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# What extras and groups need is installed once, and again when pyproject.toml changes. The sizes are those of Linux on
# x86-64, whose torch comes with CUDA unless pip is given its CPU index; docs/install.md has a table.
$(VENV)/.installed-%: pyproject.toml $(BIN)/python
	@echo "== installing $*: downloads up to 3.5 GB into $(VENV), which takes 7 GB on disk"
	@echo "   2.5 GB of it are CUDA libraries for torch, 0.3 GB a model and text for the demo; without a GPU, stop this and run"
	@echo "   make $(or $(MAKECMDGOALS),demo) PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
	$(BIN)/python -m pip install --quiet "maturin>=1.8,<2"
	$(BIN)/python tools/requirements.py $* > $(VENV)/requirements-$*.txt
	$(BIN)/python -m pip install --quiet -r $(VENV)/requirements-$*.txt
	@touch $@

$(VENV)/.built: $(RUST) pyproject.toml $(BIN)/python | $(VENV)/.installed-train,demo
	@echo "== building the native core (release)"
	@. $(BIN)/activate && PIP_QUIET=1 maturin develop --release --quiet > $(VENV)/build.txt 2>&1 || { cat $(VENV)/build.txt; exit 1; }
	@touch $@

demo: runs/demo/report.json
	@$(BIN)/python -m optical_rs.train --output runs/demo --report_only 2> /dev/null

# The report is the last thing a run writes; an interrupted run goes on where it was.
runs/demo/report.json: | $(VENV)/.installed-train,demo $(VENV)/.built
	@echo "== training and evaluating (some minutes)"
	@$(BIN)/python -m optical_rs.train --output runs/demo > /dev/null

test: lint rust-test python-test

rust-test:
	@echo "== Rust tests"
	cargo test --quiet --release

python-test: $(VENV)/.installed-train,demo,dev $(VENV)/.built
	@echo "== Python tests"
	$(BIN)/python -m pytest -q

lint: $(VENV)/.installed-train,demo,dev $(VENV)/.built
	@echo "== lint"
	cargo fmt --all --check
	cargo clippy --quiet --all-targets --release -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps
	$(BIN)/ruff format --check --quiet python tests bench tools
	$(BIN)/ruff check --quiet python tests bench tools
	@$(BIN)/lint-imports --no-logo --cache-dir $(VENV)/imports > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }
	$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest --mypy-config-file tools/stubtest.ini optical_rs._core > $(VENV)/stubtest.txt || { cat $(VENV)/stubtest.txt; exit 1; }

# Warnings are errors: a link or an anchor that leads nowhere, a page that no menu has.
docs: $(VENV)/.installed-train,demo,plot,docs $(VENV)/.built
	@echo "== documentation"
	$(BIN)/python tools/pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Without a sanitiser the stable compiler will do; what is looked for are panics and endless loops.
FUZZ_SECONDS ?= 60
fuzz:
	cd rust/fuzz && for target in qrels run evaluate transport; do \
	  cargo fuzz run --fuzz-dir . --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 || exit 1; \
	done

# Valgrind knows no AVX-512, so that the core runs as on a processor without it. VALGRIND_TESTS names tests.
VALGRIND_TESTS ?= similarity:: simd::tests::sum8 simd::tests::transpose simd::check transport::tests::shells transport::buffer
valgrind:
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --quiet --error-exitcode=1" \
	  cargo test --release -p optical-core --lib -- --test-threads 1 $(VALGRIND_TESTS)

torture: $(VENV)/.installed-train,demo $(VENV)/.built
	$(BIN)/python tools/torture.py

test-cluster: $(VENV)/.installed-train,demo,export,ray $(VENV)/.built
	$(BIN)/python tools/cluster.py $(CLUSTER)

bench: $(VENV)/.installed-train,demo,bench $(VENV)/.built
	@mkdir -p bench/results
	$(BIN)/python bench/transport.py --json bench/results/transport.json
	$(BIN)/python bench/train.py --json bench/results/train.json
	$(BIN)/python bench/ranking.py --json bench/results/ranking.json
	$(BIN)/python bench/similarity.py --json bench/results/similarity.json
	$(BIN)/python bench/similarity_training.py --json bench/results/similarity_training.json
	$(BIN)/python bench/stream.py --json bench/results/stream.json

clean:
	rm -rf $(VENV) target
