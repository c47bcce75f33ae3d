# What a contributor does, in one word each; `make help` lists it. The scripts do the work and say what is missing.

.PHONY: help run build test bench compare setup plugins lint clean
.NOTPARALLEL:

# A workspace of plugins is checked on the host, in a target folder of its own (see scripts/build-plugins).
PLUGINS := --manifest-path plugins/Cargo.toml
PLUGINS_TARGET := --target-dir target/plugins-check

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: setup ## set up, build, and start a relay that works at once (loopback only, its state in var/)
	scripts/build-plugins
	cargo build --profile trial
	target/trial/gatepost run

build: setup ## leave target/release/gatepost (optimised as one: slow to build) and target/plugins/NAME.wasm
	scripts/build-plugins
	cargo build --release

test: setup lint ## everything that must pass: formatting, clippy, all tests, with real peers
	scripts/setup-tests
	scripts/build-plugins
	@[ ! -e tests/guests/Cargo.toml ] || scripts/build-plugins --from tests/guests --out target/guests
	scripts/build-examples
	cargo test --workspace
	cargo test --workspace $(PLUGINS) $(PLUGINS_TARGET)

lint: ## formatting, clippy, and (where cargo-deny is installed) licences and sources
	cargo fmt --all --check
	cargo fmt --all --check $(PLUGINS)
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --all-targets $(PLUGINS) $(PLUGINS_TARGET) -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "lint: cargo-deny is not installed, so licences and sources are not checked"; fi

bench: setup ## criterion benches: session core, a hook call, a spool commit
	scripts/build-plugins
	scripts/build-plugins --from tests/guests --out target/guests
	cargo bench --workspace

compare: build ## throughput, CPU and memory beside Postfix, on this machine, in one run
	scripts/setup-tests compare
	benches/compare/run

setup: ## what building needs; installs it where it can, says what to install elsewhere
	scripts/setup

plugins: setup ## only the plugins
	scripts/build-plugins

clean: ## remove what was built (not var/)
	cargo clean
