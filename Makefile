# Mayfly on one machine. Every target installs what it needs by itself and does nothing twice:
#   make demo    build, start, deploy the example, call it twice, stop
#   make demo-kubernetes  the same in a cluster: a real API server, kubectl apply, an edit under load, kubectl delete
#   make image   Mayfly's own image as an OCI layout: dist/mayfly.oci
#   make test    every test, Python and Rust
#   make prove   the tests at full size: 1,000 clones, 10,000 calls, 1,000,000 races, 200 kills, 1 GiB of output; about an hour
#   make check   formatting, lint, types, layers, generated files, fast tests: under a minute
#   make fuzz    the fuzzers of the monitor, half an hour each (FUZZ_SECONDS=1800)
#   make languages  docs/languages.md: unmodified programs of many languages, 200 calls each; packages come from their registries
#   make bench   every contender beside every other, about 15 minutes; docs/performance.md is made of it. make bench-quick: 2 minutes
#   make build   leaves mayfly and mayfly-monitor in .venv/bin
#   make up      build, then serve from the user's data directory
#   make lint / make fmt / make wheel / make clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PATH := $(HOME)/.cargo/bin:$(PATH)

# The same flags as setuptools-rust passes, from the same directory: both share one build under monitor/target.
CARGO_FLAGS     := --locked --manifest-path monitor/Cargo.toml --config monitor/.cargo/config.toml
MONITOR_SOURCES := $(shell find monitor \( -name target -o -name fuzz \) -prune -o -type f -print 2>/dev/null)

# What the demo needs of the system, and what the tests need besides.
RUN_PACKAGES  := umoci
TEST_PACKAGES := crun runc runsc skopeo docker-registry busybox-static apache2-utils musl-tools openssl iproute2 curl

# Side by side, each with its output in one piece; all of them run, whatever one finds.
CHECKS := check-format check-style check-types check-layers check-crds check-rust-format check-rust-style
SIDE_BY_SIDE := $(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target

# Most of a test's time is waiting. Each worker keeps to its stretch of the tests, so that a module's fixtures are made once, until it has no more.
TWO_WORKERS := -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo demo-kubernetes image test prove languages fuzz bench bench-quick check rust lint fmt build up wheel clean packages test-packages check-tests $(CHECKS)

help:
	@sed -n 's/^#   //p' Makefile

demo: build
	$(BIN)/python scripts/demo.py

demo-kubernetes: build test-packages
	$(BIN)/python -m scripts.demo_kubernetes

image: build
	@mkdir -p dist
	$(BIN)/python scripts/project_image.py dist/mayfly.oci:latest

# Both suites always run; pytest comes last so that its summary closes the output.
test: build test-packages $(VENV)/.dev
	@status=0; \
	cargo test $(CARGO_FLAGS) --release || status=1; \
	$(BIN)/python -m pytest $(TWO_WORKERS) || status=1; \
	exit $$status

# What `make test` does a little of, in full; the figures that come out are the last lines of each part. What measures times or ratios runs alone.
PROOF       := THREADED_CALLS=3600 KILLS=200 MONITOR_KILLS=50 UPDATES=40 OUTPUT_MIB=1024 SPINNING=100 OPENS=1000000 CLONES=1000 \
               RESIDUE_CALLS=10000 SNAPSHOT_KILLS=100 SEQUENCES=20000 RACES=1000000 FLIPS=200000 API_RESTARTS=20 REST_SECONDS=300 IMAGES=2000
PROOF_ALONE := GONE_MS=1000 NEIGHBOUR_CALLS=300 OPENS=1000000
PROOF_TESTS := hazards downloader/test_process.py downloader/test_on_a_cluster.py \
               $(patsubst %,system/test_%.py,cluster isolation registry kills updates bad_functions bad_calls) \
               $(patsubst %,monitor/test_%.py,threaded_calls randomness snapshot_files time sequences network)
LANGUAGE_CALLS := 200

prove: build test-packages $(VENV)/.dev
	$(PROOF:%=MAYFLY_TEST_%) $(BIN)/python -m pytest $(TWO_WORKERS) --timeout=3600 -m "not alone" $(PROOF_TESTS:%=tests/%)
	$(PROOF_ALONE:%=MAYFLY_TEST_%) $(BIN)/python -m pytest -m alone
	$(MAKE) --no-print-directory languages

# One after the other: the times in the table are those of a program that has the machine for itself.
languages: build test-packages $(VENV)/.dev
	MAYFLY_TEST_LANGUAGE_CALLS=$(LANGUAGE_CALLS) MAYFLY_TEST_LANGUAGE_PAGE=docs/languages.md $(BIN)/python -m pytest -s tests/languages

# libFuzzer's flags need an unstable compiler option, so the stable compiler is told to take it. Without the address sanitizer, whose shadow lies
# where a guest's memory does; the monitor's own handler of faults is part of what is tested.
FUZZERS      := calls program snapshot call control
FUZZ_SECONDS ?= 1800
FUZZ_FLAGS   := -max_total_time=$(FUZZ_SECONDS) -handle_segv=0 -handle_bus=0 -handle_fpe=0 -rss_limit_mb=2048 -timeout=20
FUZZ_TARGET  := x86_64-unknown-linux-gnu

fuzz: rust
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	cd monitor/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir . --sanitizer none --target $(FUZZ_TARGET)
	@cd monitor/fuzz && for fuzzer in $(FUZZERS); do \
	    mkdir -p corpus/$$fuzzer findings/$$fuzzer; \
	    echo "fuzzing $$fuzzer for $(FUZZ_SECONDS) s"; \
	    target/$(FUZZ_TARGET)/release/$$fuzzer $(FUZZ_FLAGS) -artifact_prefix=findings/$$fuzzer/ corpus/$$fuzzer seeds/$$fuzzer findings/$$fuzzer \
	        >corpus/$$fuzzer.log 2>&1 || { tail -n 30 corpus/$$fuzzer.log; exit 1; }; \
	    grep -aE '^(Done|system calls made)' corpus/$$fuzzer.log | tail -n 2; \
	done

check: $(VENV)/.dev
	@$(SIDE_BY_SIDE) check-tests $(CHECKS)

lint: $(VENV)/.dev
	@$(SIDE_BY_SIDE) $(CHECKS)

check-format:
	$(BIN)/ruff format --check .
check-style:
	$(BIN)/ruff check .
check-types:
	$(BIN)/mypy
check-layers:
	$(BIN)/lint-imports
check-crds:
	$(BIN)/python -m faas_resources.crds --check
check-rust-format:
	cargo fmt --check --manifest-path monitor/Cargo.toml
check-rust-style:
	@$(PYTHON) scripts/rust_modules.py --check
	cargo clippy $(CARGO_FLAGS) --release --all-targets --quiet -- -D warnings
check-tests:
	$(BIN)/python -m pytest -q $(TWO_WORKERS) -m "not slow and not system and not cluster"

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cargo fmt --manifest-path monitor/Cargo.toml

build: packages $(VENV)/.runtime $(BIN)/mayfly-monitor

# On a machine that does nothing else. Node and Go are measured where they are installed.
BENCH_PACKAGES := crun runc runsc skopeo docker-registry
BENCH_PYTHON   := .[bench]

bench bench-quick: build $(VENV)/.bench
	@scripts/system-packages $(BENCH_PACKAGES)
	$(BIN)/python -m bench --mode $(if $(findstring quick,$@),quick,full)

$(VENV)/.bench: pyproject.toml $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '$(BENCH_PYTHON)'
	@touch $@

up: build
	$(BIN)/mayfly up

# build/lib keeps modules that are gone from the tree, and setuptools would pack them.
wheel: $(VENV)/.runtime
	rm -rf build/lib build/bdist.*
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info monitor/target .mypy_cache .ruff_cache .pytest_cache .hypothesis

packages:
	@scripts/system-packages $(RUN_PACKAGES)

test-packages:
	@scripts/system-packages $(TEST_PACKAGES)

$(VENV)/bin/pip:
	@scripts/system-packages python3-venv
	$(PYTHON) -c 'import sys; sys.exit("Mayfly needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# Said in one line, before pip says it in a hundred.
rust:
	@command -v cargo >/dev/null || { echo "Rust 1.88 or newer is needed to build the monitor: install it (rustup, or the package cargo), then run make again." >&2; exit 1; }

# The editable install puts the console script in place, and the monitor too (setuptools-rust builds it).
$(VENV)/.runtime: pyproject.toml | rust $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

# Renamed into place: a monitor that runs keeps its file.
$(BIN)/mayfly-monitor: $(MONITOR_SOURCES) | $(VENV)/.runtime
	cargo build $(CARGO_FLAGS) --release
	@built=$$(ls -t monitor/target/release/mayfly-monitor monitor/target/*/release/mayfly-monitor 2>/dev/null | head -n 1); \
	install -m 755 "$$built" $@.new && mv -f $@.new $@
