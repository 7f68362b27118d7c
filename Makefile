# `make up` starts a fleet of three capsules on this machine; `make test` proves that it works.
SHELL := bash
NODES ?= 3
# qemu boots what `make image` made, in virtual machines.
SUBSTRATE ?= netns
CARGO ?= cargo
# PROFILE=dev builds faster and runs slower.
PROFILE ?= release
BIN := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# Either profile's program knows the fleet, whichever started it.
BUILT = $(firstword $(wildcard $(BIN)/testbed target/release/testbed target/debug/testbed))
export PATH := $(CURDIR)/target/tools/bin:$(PATH):/usr/sbin:/sbin

# `make image` makes the appliance. VERSION orders updates; RELEASE_KEY (a minisign secret key) signs them,
# TRUST lists further public keys, PACKAGES further packages of Debian, FIRMWARE is a folder of it.
GIT_COUNT = $(shell git rev-list --count HEAD 2>/dev/null)
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)$(if $(GIT_COUNT),+$(GIT_COUNT).g$(shell git rev-parse --short HEAD))
IMAGE := target/image$(if $(filter dev,$(PROFILE)),-dev)
NEXT := $(IMAGE)-next
STATIC := --target x86_64-unknown-linux-gnu --target-dir target/static
INITRAMFS := target/static/x86_64-unknown-linux-gnu/$(notdir $(BIN))/capsule-initramfs

.PHONY: help setup build up down image image-next env check fmt lint deny test soak fuzz bench docs clean-fleet

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:
	@scripts/setup

up: setup ## build, start NODES capsules (3), adopt them, apply docs/examples, show the fleet
	@$(CARGO) build --profile $(PROFILE) --quiet --bins
	@$(BIN)/testbed up --substrate $(SUBSTRATE) --nodes $(NODES)

down: ## stop that fleet and remove every trace of it
	@if [ -n "$(BUILT)" ]; then $(BUILT) down; else echo "nothing was built, so nothing is up"; fi

# Both releases are of the same materials.
BUILD_IMAGE = $(BIN)/capsule-images --initramfs $(INITRAMFS) \
  $(if $(RELEASE_KEY),--release-key '$(RELEASE_KEY)') $(if $(FIRMWARE),--firmware '$(FIRMWARE)') \
  $(addprefix --trust ,$(TRUST)) $(addprefix --package ,$(PACKAGES))

image: setup ## build the appliance: a disk to flash or boot, an update bundle, a list of what is in them
	@$(CARGO) build --profile $(PROFILE) --quiet --bins
	@RUSTFLAGS=-Ctarget-feature=+crt-static $(CARGO) build --profile $(PROFILE) --quiet --package capsule-initramfs $(STATIC)
	@$(BUILD_IMAGE) --agent $(BIN)/capsuled --image-version '$(VERSION)' --output $(IMAGE)

# For tests: the release after that one, whose agent does harm where its capsule's name says so.
image-next: image
	@rm -rf $(NEXT)-contents
	@cp -r images/contents $(NEXT)-contents
	@install -D --strip $(BIN)/capsuled $(NEXT)-contents/files/usr/lib/capsule/agent
	@$(BUILD_IMAGE) --agent $(BIN)/saboteur --contents $(NEXT)-contents \
	  --image-version '$(VERSION)$(if $(findstring +,$(VERSION)),.,+)next' --output $(NEXT)

env: ## settings for a shell that operates it: eval "$(make -s env)"
	@$(or $(BUILT),$(BIN)/testbed) env

check: setup fmt lint deny ## formatting, lints, licences

fmt:
	@$(CARGO) fmt --all --check

lint:
	@$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

# Advisories need a database from the network: `cargo deny check advisories` where there is one.
deny:
	@$(CARGO) deny --log-level error check bans licenses sources

# A failed scenario shows logs, events and network; its error is the last line, not a backtrace.
test: export RUST_LIB_BACKTRACE := 0
test: setup ## every test: unit, property, scenario (needs root), a minute of fuzzing
	@$(CARGO) build --workspace --bins --tests --quiet
	@$(MAKE) --no-print-directory image-next PROFILE=dev
	@$(CARGO) nextest run --workspace --no-fail-fast
	@scripts/fuzz 60

soak: setup ## a thousand power cuts, spread over updates: takes hours
	@$(CARGO) build --workspace --bins --tests --quiet
	@$(MAKE) --no-print-directory image-next PROFILE=dev
	@CUTS=1000 $(CARGO) nextest run --profile soak --package testbed --test appliance power_cuts

bench: ## measure against peers in one interleaved run
	@scripts/setup bench
	@$(CARGO) build --profile $(PROFILE) --quiet --bins
	@$(BIN)/testbed bench
