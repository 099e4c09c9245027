# Every command of the project, each sufficient on a fresh Debian with Rust: it installs what it needs first (tests/setup).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PGWEIR := target/quick/pgweir
SCRIPTS := .ci/run tests/setup tests/versions tests/reference deploy/check deploy/docker/prove

.PHONY: help
help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

.PHONY: demo
demo: ## 1,000 Lambda-like callers in one second, straight to PostgreSQL and through pgweir (ONCE=1: end after the table)
	@tests/setup demo
	cargo build --locked --profile quick --bin pgweir
	$(PGWEIR) demo $(if $(filter-out 0,$(ONCE)),--once)

.PHONY: test
test: test-rust test-clients ## Every test: units, PostgreSQL, the drivers' matrix

.PHONY: test-rust
test-rust: ## The tests in Rust, against a private PostgreSQL
	@tests/setup test
	cargo nextest run --locked
	cargo test --locked --doc

.PHONY: test-clients
test-clients: ## One script through psql, the drivers and the ORMs of Node.js, Python, Java, Rust, Go, Ruby and PHP, directly and through pgweir; then 5,000 at once
	@tests/setup test
	cargo build --locked --bin pgweir
	PGWEIR_BIN=$(CURDIR)/target/debug/pgweir tests/clients/run
	PGWEIR_BIN=$(CURDIR)/target/debug/pgweir tests/clients/run --surge 5000

.PHONY: test-versions
test-versions: ## The core tests against PostgreSQL 14, 16, 17 and 18
	tests/versions

.PHONY: regress
regress: ## PostgreSQL's own regression tests, straight and through pgweir (Debian: apt fetches its source)
	@tests/setup regress
	cargo build --locked --profile quick --bin pgweir
	tests/regress

.PHONY: bench
bench: ## Direct, PgBouncer and pgweir side by side: a table and a chart
	@tests/setup bench
	cargo build --locked --release --bin pgweir
	benches/compare

.PHONY: guard
guard: ## User-space instructions of a transaction and a login, held against the figures of benches/guard.json
	@tests/setup guard
	cargo build --locked --profile quick --bin pgweir
	benches/guard

.PHONY: quota
quota: ## How many workers there are under a container's CPU quota, on a machine of eight CPUs that qemu plays (Debian, x86-64)
	@tests/setup quota
	cargo build --locked --profile quick --bin pgweir
	tests/quota

.PHONY: build
build: ## The release binary, target/release/pgweir
	@tests/setup build
	cargo build --locked --release --bin pgweir

.PHONY: optimised
optimised: ## The release binary laid out by a profile of itself at work, target/optimised/pgweir
	@tests/setup optimise
	benches/optimise

.PHONY: image
image: ## Prove the Dockerfile with buildah over base images made here (root, Debian)
	@tests/setup image
	deploy/docker/prove

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt

.PHONY: lint
lint: check-scripts ## Formatting, clippy and shellcheck, warnings being errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: check-scripts
check-scripts: ## Look through the shell scripts
	@tests/setup lint
	shellcheck $(SCRIPTS)

.PHONY: check-deploy
check-deploy: ## Look through the examples of deploying: CloudFormation, Kubernetes, Prometheus, systemd
	@tests/setup deploy
	deploy/check

.PHONY: docs
docs: ## The API's documentation, warnings being errors
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

.PHONY: deny
deny: ## Licences, duplicate versions and sources of the dependencies
	@tests/setup deny
	cargo deny --locked check bans licenses sources

.PHONY: reference
reference: ## Write the generated pages again: docs/reference/, config/complete.toml
	cargo build --locked --bin pgweir
	tests/reference write

.PHONY: check-reference
check-reference: ## Fail where a generated page differs from what the code prints
	cargo build --locked --bin pgweir
	tests/reference check

.PHONY: clean
clean: ## Remove what was built, and the dependencies of the tests
	rm -rf target .deps tests/postgres/node_modules
