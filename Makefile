# Everything here works on a fresh Debian machine with rustup's cargo and root or sudo: system packages are installed when missing.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c

DOCENT := target/release/docent
DATA ?=
KEEP ?=
PREV ?= HEAD~1

.PHONY: help setup build demo test quality bench bench-training bench-failover bench-drain test-upgrade check

help: ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: ## Install missing system packages
	@.ci/setup

build: setup ## Build the one binary
	cargo build --release --locked -p docent

demo: build ## Start six processes, import, train, recommend from every node. DATA=DIR for MovieLens, KEEP=1 to leave it running
	$(DOCENT) demo $(if $(DATA),--data "$(DATA)") $(if $(KEEP),--keep)

test: setup ## The whole test suite, real clusters included
	if cargo nextest --version >/dev/null 2>&1; then
	  cargo nextest run --release --locked --workspace --profile ci
	else
	  cargo test --release --locked --workspace --lib --bins --tests -- --test-threads 2
	fi
	# The tests' own build has made these programs.
	$(SMOKE)

quality: build ## Every data set through a three-node cluster, our metrics beside the independent judge's
	cargo run --release --locked -p docent-chaos --bin docent-quality -- $(ARGS)

bench: build ## Import, idle and query figures of a three-node cluster
	cargo run --release --locked -p docent-chaos --bin docent-bench -- $(ARGS)

bench-training: build ## Gowalla trained on one node, on three, and with implicit from PyPI, side by side
	.ci/implicit target/implicit
	cargo run --release --locked -p docent-chaos --bin docent-bench-training -- $(ARGS)

bench-failover: build ## 30 rounds of kill -9 of the node that leads most shards, under load, beside Debian's etcd
	command -v etcd >/dev/null || .ci/etcd target/etcd
	PATH="$$PATH:$(CURDIR)/target/etcd/usr/bin" cargo run --release --locked -p docent-chaos --bin docent-failover -- $(ARGS)

test-upgrade: build ## Upgrade a cluster of another commit's docent to this one under load, member by member. PREV=REF (default HEAD~1)
	tree=target/previous/tree
	git worktree remove --force "$$tree" 2>/dev/null || true
	git worktree prune
	git worktree add --force --detach "$$tree" "$(PREV)"
	trap 'git worktree remove --force "$$tree"' EXIT
	(cd "$$tree" && CARGO_TARGET_DIR="$(CURDIR)/target/previous/build" cargo build --release --locked -p docent)
	DOCENT_PREVIOUS="$(CURDIR)/target/previous/build/release/docent" cargo test --release --locked -p docent-chaos --test it -- upgrade:: --nocapture --test-threads 1

bench-drain: build ## Drains of the node that leads most shards, and its return, under load
	cargo run --release --locked -p docent-chaos --bin docent-failover -- --drain $(ARGS)

# What a machine does not allow (network namespaces without root) is told by the smoke and fails `make chaos` alone.
SMOKE := target/release/docent-chaos suite --profile smoke --may-skip --time-limit 900 --regressions chaos-tests/sim/regressions.txt
.PHONY: build-chaos chaos chaos-smoke
build-chaos: build
	cargo build --release --locked -p docent-sim -p docent-chaos --bin docent-sim --bin docent-chaos

chaos: build-chaos ## 200 simulated clusters and every lab scenario once: at most 30 minutes on two cores. ARGS="--help"
	target/release/docent-chaos suite --regressions chaos-tests/sim/regressions.txt $(ARGS)

chaos-smoke: build-chaos ## A dozen simulated clusters and three short lab scenarios; a part of `make test`
	$(SMOKE)

.PHONY: proof
proof: build ## A Python sceptic judges a cluster that loses a node. VICTIM=2, KEEP=DIR; SABOTAGE=ack-before-quorum must turn red
	proof=(cargo run --release --locked -p docent-chaos --bin docent-proof -- $(if $(VICTIM),--victim "$(VICTIM)") $(if $(KEEP),--keep "$(KEEP)"))
	if [ -z "$(SABOTAGE)" ]; then exec "$${proof[@]}"; fi
	$(MAKE) build-sabotage
	DOCENT_SABOTAGE="$(SABOTAGE)" "$${proof[@]}" --binary target/sabotage/docent

.PHONY: build-sabotage sabotage
build-sabotage: setup ## Build docent and its simulation with known bugs: target/sabotage; DOCENT_SABOTAGE=NAME chooses one
	mkdir -p target/sabotage
	DOCENT_SABOTAGE_BUILD=yes cargo build --release --locked -p docent -p docent-sim --features docent/sabotage,docent-sim/sabotage
	# Both builds have one name: out of the way with these, before anybody takes them for the others.
	# After a build that had nothing to do both are links to one file, which mv refuses.
	rm -f target/sabotage/docent target/sabotage/docent-sim
	mv target/release/docent target/release/docent-sim target/sabotage
	target/sabotage/docent --version | grep SABOTAGE
	cargo build --release --locked -p docent

sabotage: build-sabotage ## Prove the provers: each known bug must be caught. ARGS="--bug NAME" for one
	cargo build --release --locked -p docent-chaos --bin docent-chaos
	# It runs the docent that lies beside it.
	cp target/release/docent-chaos target/sabotage
	cargo run --release --locked -p docent-chaos --bin docent-sabotage -- --json target/sabotage/table.json $(ARGS)

check: setup ## Lints and formatting
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
