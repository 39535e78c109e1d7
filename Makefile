# Two commands: `make run` starts the gateway, `make test` passes the tests. Each fetches what is missing.

CARGO_FLAGS ?=
RUNTIME := .runtime/stamp
VENV := .venv/stamp

.PHONY: run test conformance bench fire tools runtime venv postgres

run: tools runtime
	cargo run --package sluice $(CARGO_FLAGS) -- serve

test: tools runtime venv postgres
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- --deny warnings
	cargo test --workspace $(CARGO_FLAGS)

# Replies held against OpenRouter's own description, openapi.json: make conformance REFERENCE=FILE
conformance: tools runtime
	@test -f "$(REFERENCE)" || { echo "missing: REFERENCE=FILE, OpenRouter's openapi.json"; exit 1; }
	REFERENCE=$(abspath $(REFERENCE)) cargo test --package tests --test it $(CARGO_FLAGS) -- --ignored --nocapture conformance

# Added latency, memory and start-up; see docs/benchmarks.md.
bench: tools runtime
	cargo build --release --package sluice --package benches
	target/release/latency

# Every bound of the gateway under fire; see docs/under-fire.md. About half an hour.
fire: tools runtime
	cargo build --release --package sluice --package benches
	target/release/fire

# Names what is missing before anything is built.
tools:
	@command -v cargo >/dev/null || { echo "missing: Rust (https://rustup.rs)"; exit 1; }
	@command -v cc >/dev/null || { echo "missing: a C compiler (cc), for SQLite"; exit 1; }
	@command -v python3 >/dev/null || { echo "missing: python3"; exit 1; }
	@python3 -m pip --version >/dev/null 2>&1 || { echo "missing: pip for python3"; exit 1; }

# Both stores are tested; SLUICE_TEST_POSTGRES=postgres://USER@HOST:PORT names a server that is there already.
postgres:
	@test -n "$$SLUICE_TEST_POSTGRES" || command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	{ export DEBIAN_FRONTEND=noninteractive; as=$$(test $$(id -u) = 0 || echo sudo); \
	$$as apt-get update -q && $$as apt-get install -qy --no-install-recommends postgresql; } || \
	{ echo "missing: PostgreSQL (initdb, postgres, psql), for the tests of that store"; exit 1; }

runtime: $(RUNTIME)
$(RUNTIME): models/fetch_runtime.py
	python3 models/fetch_runtime.py
	@mkdir -p .runtime && touch $@

venv: $(VENV)
$(VENV): tests/clients/requirements.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
