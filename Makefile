# One profile and one set of features for everything, so that the demo, the tests and the benchmarks share what is built.
CARGO_BUILD = cargo build --release --locked --workspace
TARGET_DIR = $${CARGO_TARGET_DIR:-target}

# The ONNX Runtime to lay: cpu, gpu or openvino. Empty keeps the one that is there.
RUNTIME =

# What the benchmark is told: `--json FILE` writes the figures there too.
BENCH =

# `soak` takes an hour in all. Of it one daemon runs through every fault for so long:
SOAK_SECONDS = 2400

# How many changed files `soak` shows each parser; the slowest reads some 10,000 a second.
FUZZ_CASES = 2000000

# How many times `soak` kills brokers and daemons at random; a hundred take some four minutes.
DELIVERY_ROUNDS = 150

# How many times `soak` kills a daemon amid calls of its API, and how many generated requests it sends.
API_KILLS = 50
API_REQUESTS = 100000

.DEFAULT_GOAL := help
.PHONY: help setup build demo test soak bench bench-serve bench-accuracy check

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: ## Install what is missing: Debian packages, ONNX Runtime (RUNTIME=cpu|gpu|openvino), backbone weights
	@scripts/setup $(RUNTIME)

build: setup ## Build the daemon and the GStreamer plugin
	$(CARGO_BUILD)

demo: build ## Train on thirty synthetic parts, inspect a belt of them, show every decision
	$(TARGET_DIR)/release/linewarden demo

test: build ## Run every test
	G_DEBUG=fatal_warnings cargo test --release --locked --workspace

soak: ## An hour in all: one daemon through every fault for SOAK_SECONDS, in which nothing may grow; the PLC's gate; the broker away for 10 s; brokers and daemons killed DELIVERY_ROUNDS times; 240 parts past two cameras, twice; API_KILLS kills amid calls of the API, API_REQUESTS generated ones; FUZZ_CASES changed files at every parser
	LINEWARDEN_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --release --locked --test soak -- --nocapture
	cargo test --release --locked --test gate -- --nocapture
	LINEWARDEN_OUTAGE_SECONDS=10 cargo test --release --locked --test daemon_run -- a_broker_that_is_gone
	LINEWARDEN_DELIVERY_ROUNDS=$(DELIVERY_ROUNDS) cargo test --release --locked --test delivery -- --nocapture die killed
	LINEWARDEN_PARTS_SECONDS=120 cargo test --release --locked --test parts -- --nocapture two_cameras the_same
	LINEWARDEN_API_KILLS=$(API_KILLS) LINEWARDEN_API_REQUESTS=$(API_REQUESTS) cargo test --release --locked --test api -- --nocapture killed_at generated
	LINEWARDEN_AGENT_MESSAGES=$(API_REQUESTS) cargo test --release --locked --test agent -- --nocapture generated
	LINEWARDEN_FUZZ_CASES=$(FUZZ_CASES) cargo test --release --locked -p linewarden-train --lib -- --nocapture fuzz changed_files

bench: build ## Measure speed, latency and memory
	cargo bench --profile release --locked --workspace --bench line -- $(BENCH)

bench-serve: build ## Measure calls of the REST API and the Edge Agent beside the bare network
	cargo bench --profile release --locked --workspace --bench serve -- $(BENCH)

bench-accuracy: build ## Train on ../shared/data and hold every accuracy against its floor
	cargo bench --profile release --locked --workspace --bench accuracy

check: setup ## Formatting, lints, documentation and dependencies, as CI checks them
	scripts/check
