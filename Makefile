# Corral. `make` or `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Tests start hundreds of interpreters: without bytecode each takes twice the processor time to import what it needs.
unexport PYTHONDONTWRITEBYTECODE

PREPARE := deploy/quickstart/prepare.sh
BIN := .venv/bin
PYTEST := $(BIN)/pytest
# Labs of hypervisors need root: by sudo where that is there.
AS_ROOT := deploy/quickstart/as_root.sh
# Tests that boot guests share one worker, so that they run one after the other beside the rest; tests/conftest.py orders.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## install what is missing, start on this machine's libvirt, deploy two groups, serve (ARGS=--once: then clean up and stop)
	@deploy/quickstart/run.sh $(ARGS)

.PHONY: down
down: ## remove everything that `make run` made
	@deploy/quickstart/run.sh down

.PHONY: prepare
prepare: ## install what `make run` needs, and start nothing
	@$(PREPARE) system runtime tools guest

.PHONY: guest
guest: ## build the default guest image into .cache/guest
	@$(PREPARE) guest

.PHONY: tools
tools: ## install grpcurl into .venv, promtool and Prometheus into .cache/tools
	@$(PREPARE) tools promtool

.PHONY: dev
dev: ## install what tests and checks need
	@$(PREPARE) system dev clients postgres guest browser promtool engine packaging metal registry mpi

.PHONY: test
test: dev lint ## every check, and every test but the long ones
	@$(AS_ROOT) $(PYTEST) $(PARALLEL) -m 'not slow' $(ARGS)

.PHONY: test-slow
test-slow: dev ## the long tests that `make test` leaves out
	@$(AS_ROOT) $(PYTEST) $(PARALLEL) -m slow $(ARGS)

# Apart from `make test`: being measured, the tests take 1.6 times the processor time.
COVERAGE := $(BIN)/coverage
.PHONY: coverage
coverage: dev ## which lines of the source the tests of `make test` run: a file a line, the barest first, the sum last
	@rm -rf .cache/coverage
	@$(AS_ROOT) $(COVERAGE) run -m pytest $(PARALLEL) -m 'not slow' $(ARGS)
	@$(COVERAGE) combine --quiet
	@$(COVERAGE) report --sort=cover

.PHONY: lint
lint: ## style, types, import rules, protobuf rules
	@$(BIN)/mypy & types=$$!; failed=0; \
	$(BIN)/ruff check --quiet . || failed=1; \
	$(BIN)/ruff format --check --quiet . || failed=1; \
	PYTHONPATH=.:protos $(BIN)/lint-imports --no-logo || failed=1; \
	$(BIN)/python protos/generate.py lint || failed=1; \
	wait $$types || failed=1; \
	exit $$failed

.PHONY: unit
unit: ## the tests that start no guest (ARGS: more for pytest)
	@$(PYTEST) $(PARALLEL) -m 'not qemu and not slow' $(ARGS)

.PHONY: test-qemu
test-qemu: ## the tests on real QEMU guests in a private lab
	@$(AS_ROOT) $(PYTEST) -m 'qemu and not slow' $(ARGS)

.PHONY: contract
contract: dev ## every outside client against a service on simulated hosts, a line each
	@$(PYTEST) -q tests/contract $(ARGS)

.PHONY: history
history: ## many clients of three processes on a nearly full fleet, checked for double allocation (ARGS=--claims=1000000 --races=10000)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.concurrency $(ARGS)

.PHONY: baremetal
baremetal: ## a group of a virtual machine and two machines of bare metal (BIOS, UEFI) behind real BMC emulators, and a hypervisor cut off and fenced: figures; as root
	@$(PREPARE) dev metal guest
	@$(AS_ROOT) $(PYTEST) -q -s $(addprefix tests/baremetal/,test_baremetal.py cut_off.py disks.py) $(ARGS)

DEVICE_RACES ?= 6
DEVICE_KILLS ?= 6
.PHONY: devices
devices: ## devices by real VFIO in a hypervisor in software: given, shared by nobody, pulled, huge pages, virtual functions; as root
	@$(PREPARE) dev guest
	@$(AS_ROOT) env DEVICE_RACES=$(DEVICE_RACES) DEVICE_KILLS=$(DEVICE_KILLS) $(PYTEST) -q -s $(addprefix tests/devices/,checks.py races.py kills.py reboots.py) $(ARGS)

KILLS ?= 200
SEEDS ?= 1000
.PHONY: simulate
simulate: ## the control plane under virtual time and faults (SEEDS=n, SEED=k: one with its timeline, PLANTS=1: planted bugs)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $$(nproc) $(if $(SEED),--seed $(SEED)) $(if $(PLANTS),--plants) $(ARGS)

.PHONY: faults
faults: ## real kills of the service, libvirtd, QEMU and PostgreSQL in a private lab (KILLS=n); as root
	@PYTHONPATH=.:protos $(BIN)/python -m tests.faults --kills $(KILLS) $(ARGS)

.PHONY: serving
serving: ## llama.cpp's own server over three real hypervisors: answers, figures, every fault healed (ARGS=--only worker-machine-killed); as root
	@PYTHONPATH=.:protos $(BIN)/python -m tests.serving $(ARGS)

.PHONY: bench
bench: ## from the call to all Running beside raw libvirt threads, in one run (ARGS=--rounds 5 --guests 1,4,8); as root
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.launch_bench $(ARGS)

.PHONY: bench-api
bench-api: ## throughput and latency of unary calls and streams, a thousand watchers, the service's start (ARGS=--calls 4000)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.api_bench $(ARGS)

.PHONY: bench-page
bench-page: ## the page's first paint and how soon it shows a change (ARGS=--hosts 1000 --members 10000 --seeded --shots DIRECTORY)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.page_bench $(ARGS)

.PHONY: bench-metrics
bench-metrics: ## what metrics cost a call, and a scrape of a thousand hosts (ARGS=--hosts 1000)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.metrics_bench $(ARGS)

.PHONY: bench-bulkhead
bench-bulkhead: ## deploys on three hosts while the fourth answers and while it hangs
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.bulkhead_bench $(ARGS)

.PHONY: bench-placement
bench-placement: ## the planner's figures beside greedy rules, naive models and real peers, table and plot in .cache/bench; 15 min (QUICK=1: 3)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.placement_bench --peers --plot --out .cache/bench $(if $(QUICK),--quick) $(ARGS)

.PHONY: bench-store
bench-store: ## claims on SQLite that share a commit, with a commit each, and by the bare driver (ARGS=--clients 48); ARGS=--postgresql: changes of groups by three replicas, fsync on
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.store_bench $(ARGS)

.PHONY: bench-staging
bench-staging: ## an image's way to a host by the driver and by virsh vol-upload, in turns, MiB/s; as root (ARGS="--mib 512 --rate 12")
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.staging_bench $(ARGS)

.PHONY: bench-scale
bench-scale: ## a large fleet as one service: filled, at rest, watched, read, planned on, drained, started again; at half and at full size, growth drawn in .cache/bench (ARGS=--hosts 1000 --members 10000)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.scale_bench --plot .cache/bench/scale.png $(ARGS)

.PHONY: bench-counts
bench-counts: ## transactions, statements, fsyncs, hops and tasks of a deploy, counted on both databases (ARGS=--why)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.counts_bench $(ARGS)

.PHONY: bench-planner
bench-planner: ## CPU time of a plan around the search: reading the fleet and telling it to a planner process (ARGS=--hosts 10000)
	@PYTHONPATH=.:protos $(BIN)/python -m tests.bench.planner_bench $(ARGS)

PACKAGES := .cache/packages
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
.PHONY: package
package: ## build the Debian package into .cache/packages, as root, with what deploy/debian/control's Build-Depends names
	@mkdir -p $(PACKAGES)
	@$(AS_ROOT) deploy/debian/build.sh $(PACKAGES)

.PHONY: image
image: package ## build the container image localhost/corral:VERSION from that package, with buildah, as root (BASE=mmdebstrap: its base too)
	@$(AS_ROOT) deploy/container/build.sh $(PACKAGES)/corral_$(VERSION)_*.deb localhost/corral:$(VERSION) $(BASE)

.PHONY: protos
protos: ## generate the Python code and the reference of corral.v1
	@$(BIN)/python protos/generate.py

.PHONY: protos-archive
protos-archive: ## pack the contract with all that it imports into dist/corral-protos.tar.gz, for callers in any language
	@$(BIN)/python protos/generate.py archive dist/corral-protos.tar.gz

.PHONY: coverage-table
coverage-table: ## write protos/COVERAGE.md: which tests call which RPC
	@PYTHONPATH=.:protos $(BIN)/python -m tests.protos.coverage_table

.PHONY: release-contract
release-contract: ## keep the definitions as those of the last release, which `make lint` lets nothing be taken from
	@$(BIN)/python protos/generate.py release

.PHONY: requirements
requirements: ## pin the newest allowed versions of all requirements, with hashes
	@deploy/requirements/pin.sh
