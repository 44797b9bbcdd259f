# Everything a developer runs. Cargo is called through scripts/env.sh, which decides where its output goes and which
# RocksDB it links; call it the same way for anything that is not here: scripts/env.sh cargo …

SHELL := /bin/bash
.DEFAULT_GOAL := help

# What `run` builds: `release`, or `dev` to compile faster and run slower.
PROFILE ?= release
# Further arguments: make run ARGS="--http-addr 127.0.0.1:9000", make test ARGS="-p millrace-wal"
ARGS ?=
# Kills per store of `make crash`.
ROUNDS ?= 200
# Rounds of `make jepsen`; empty for five minutes.
jepsen: ROUNDS :=
# Seeds of `make sim`: the first, and the one behind the last; empty for the runs in jepsen/sim/bank.
SEEDS ?=
# Seconds per target of `make fuzz`.
SECONDS_EACH ?= 60

CARGO := scripts/env.sh cargo

.PHONY: help
help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what the machine lacks besides Rust
	@scripts/deps.sh build

.PHONY: run
run: deps ## Build and start a node: data in ./millrace-data, HTTP on 127.0.0.1:8080
	$(CARGO) run --locked --profile $(PROFILE) -p millrace-server --bin millrace -- dev $(ARGS)

.PHONY: build
build: deps ## Build the release binary and say where it is
	$(CARGO) build --locked --release -p millrace-server
	@scripts/env.sh bash -c 'echo "$$CARGO_TARGET_DIR/release/millrace"'

.PHONY: test
test: ## All tests, with a short crash run on a local directory and on a real S3 server
	@scripts/test.sh $(ARGS)

.PHONY: check
check: deps ## Formatting and lints, as strict as it gets
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: fix
fix: deps ## Mend formatting and what clippy can mend
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

.PHONY: crash
crash: ## kill -9 under load, ROUNDS times on a local directory and on a real S3 server
	@scripts/crash.sh $(ROUNDS)

.PHONY: jepsen
jepsen: deps ## Faults on a live cluster, judged by what clients saw: ROUNDS=100, or ARGS="--minutes 10 …" (docs/testing.md)
	$(CARGO) build --locked --release -p millrace-server --bin millrace -p millrace-jepsen --bin millrace-jepsen
	@scripts/env.sh bash -c '"$$CARGO_TARGET_DIR/release/millrace-jepsen" live \
	  --millrace "$$CARGO_TARGET_DIR/release/millrace" $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)'

.PHONY: sim
sim: deps ## A simulated cluster under faults, for the bank of runs or SEEDS=100..200 ARGS="--seconds 60" (docs/testing.md)
	$(CARGO) build --locked --profile sim -p millrace-sim
	@scripts/env.sh bash -c '"$$CARGO_TARGET_DIR/sim/millrace-sim" bank --jobs "$$(nproc)" \
	  $(if $(SEEDS),--seeds $(SEEDS),--dir jepsen/sim/bank) $(ARGS)'

.PHONY: bugs
bugs: deps ## Break the rules of the design one by one, and see that the simulator finds each
	$(CARGO) build --locked --profile sim -p millrace-sim --features bugs
	@scripts/env.sh bash -c '"$$CARGO_TARGET_DIR/sim/millrace-sim" bugs --jobs "$$(nproc)" $(ARGS)'

.PHONY: model
model: deps ## Every order of the steps in which a channel changes hands, or ARGS="--drop RULE" (docs/testing.md)
	$(CARGO) run --locked -p millrace-model -- seal $(ARGS)

.PHONY: bench
bench: deps ## Measure beside `s2 lite` (needs the `s2` command, see docs/benchmarks.md)
	$(CARGO) build --locked --release -p millrace-server
	@scripts/env.sh scripts/bench.sh $(ARGS)

.PHONY: fuzz
fuzz: deps ## Each fuzz target for SECONDS_EACH (needs nightly Rust and cargo-fuzz)
	@scripts/fuzz.sh $(SECONDS_EACH)

.PHONY: clean
clean: ## Remove Cargo's output; RocksDB and the S3 server stay in the cache
	cargo clean --target-dir "$$(source scripts/env.sh; echo "$$CARGO_TARGET_DIR")"
