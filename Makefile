# Every target works on a fresh Debian 12 machine as root. `make demo` and `make test` install what they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 $$HOME/.pyenv/versions/3.11.*/bin/python3.11; do command -v $$p >/dev/null && $$p -c 'import ensurepip' 2>/dev/null && { echo $$p; break; }; done)
STAMPS := build/stamps
COMPONENTS := native libcalico components/felix components/cni components/calicoctl components/bird-config components/libnetwork
PACKAGES := etcd-server etcd-client nftables libnftables1 libnghttp2-dev build-essential cmake iproute2 conntrack util-linux curl \
	iputils-ping iptables ipset bird2 firewalld dbus-daemon python3.11-venv python3-dev podman crun containerd containernetworking-plugins busybox-static \
	systemd systemd-container debootstrap docker.io
# While this file is there, no package starts its service: the programs are used by path.
NO_START := /usr/sbin/policy-rc.d
FILES ?=
ONLY ?=
BACKEND ?= nftables
MODE ?= kernel
ARGS ?=
# Test files that run at once (0: in pytest's own process, for a debugger). The slow folders come first, so that none is left over.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help root demo demo-down shell test unit netns lab compat vectors bench lint fmt dist dcos-package dev native proto reference clean

help: ## this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(STAMPS)/apt: Makefile
	@mkdir -p $(STAMPS)
	@missing=""; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing:$$missing"; \
	  [ -e $(NO_START) ] || { trap 'rm -f $(NO_START)' EXIT; printf '#!/bin/sh\nexit 101\n' >$(NO_START); chmod 755 $(NO_START); }; \
	  apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >/dev/null; fi
	@touch $@

$(STAMPS)/venv: $(STAMPS)/apt requirements-dev.txt
	@python="$(PYTHON)"; [ -n "$$python" ] || python=$$(command -v python3.11); \
	[ -x $(BIN)/python ] || { echo "making $(VENV), then the compiled modules: once, one to four minutes"; $$python -m venv $(VENV); }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(STAMPS)/native: $(STAMPS)/venv $(wildcard native/calico_native/*.pxd native/calico_native/*.py* native/calico_native/py/*.py) native/CMakeLists.txt native/pyproject.toml
	@echo "building native"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall ./native
	@touch $@

$(STAMPS)/cni: $(STAMPS)/venv $(wildcard components/cni/shim/* components/cni/calico_cni/*.py) components/cni/CMakeLists.txt components/cni/pyproject.toml
	@echo "building cni"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall ./components/cni
	@touch $@

$(STAMPS)/dists: $(STAMPS)/venv Makefile libcalico/pyproject.toml components/felix/pyproject.toml components/calicoctl/pyproject.toml \
	components/bird-config/pyproject.toml components/libnetwork/pyproject.toml packaging/dcos/pyproject.toml
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps \
	  --config-settings editable_mode=compat -e ./libcalico -e ./components/felix -e ./components/calicoctl -e ./components/bird-config \
	  -e ./components/libnetwork -e ./packaging/dcos
	@touch $@

root:
	@[ "$$(id -u)" = 0 ] || { echo 'this needs root, for network namespaces: run it as root, or with sudo' >&2; exit 1; }

dev: $(STAMPS)/native $(STAMPS)/cni $(STAMPS)/dists ## .venv with everything in it

native: $(STAMPS)/native ## build the compiled modules if a source has changed
	@echo "the compiled modules are up to date in $(VENV)"

demo: root dev ## three hosts, three tasks, one policy, BGP (KEEP=1 leaves them standing)
	@$(BIN)/python -m tests.lab.demo $(if $(KEEP),--keep)

# As typed: make would take a $ of the command for one of its own variables.
shell: override export RUN := $(value RUN)
shell: root dev ## a shell on a host of a demo that was kept: HOST=a2 [RUN='a command instead']
	@$(BIN)/python -m tests.lab.demo --shell "$(or $(HOST),m1)" --run "$$RUN"

demo-down: root dev ## remove a demo that was kept
	@$(BIN)/python -m tests.lab.demo --down

test: root dev ## everything that can be tested here
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lab-hosts lint pants-check
	@$(PYTEST) $(ARGS)

unit: dev ## pure code and services in memory, with fewer examples than `make test` takes
	@$(PYTEST) -m 'not slow' --hypothesis-profile=quick native/tests libcalico/tests components $(ARGS)

netns: dev ## real kernel, in throw-away namespaces
	@$(PYTEST) tests/netns $(ARGS)

lab: dev lab-hosts ## three hosts with real daemons
	@$(PYTEST) tests/lab $(ARGS)

# What the lab boots hosts from, where it is missing: a Debian root, DC/OS's package.
.PHONY: lab-hosts
lab-hosts: root dev
	@$(BIN)/python -m tests.lab.rootfs >/dev/null
	@PYTHONPATH=packaging/runtime /usr/bin/python3.11 -B packaging/dcos/build_package.py --reuse >/dev/null

compat: dev ## what upstream's programs answered
	@$(PYTEST) tests/compat $(ARGS)

vectors: dev ## play vector files: make vectors [FILES="a b"] [BACKEND=nftables|iptables] [MODE=kernel|memory] [ONLY=word]
	@$(BIN)/python -m tests.compat.vectors --backend $(BACKEND) --mode $(MODE) --only "$(ONLY)" $(FILES)

bench: dev ## figures as JSON lines
	@for bench in tests/scale/bench_*.py; do $(BIN)/python -m tests.scale.$$(basename $$bench .py) || exit 1; done

lint: dev ## format, style, types, room order, sizes
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy native libcalico components/felix components/cni components/calicoctl components/bird-config components/libnetwork packaging tests
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tests.house

fmt: dev ## put code in shape
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

proto: dev ## compile the protos
	@cd libcalico && ../$(BIN)/python -m libcalico.rpc.generate

reference: dev ## write the reference pages from the code
	@$(BIN)/python -m tests.house.reference

dcos-package: $(STAMPS)/apt ## DC/OS's package calico, into dist/dcos (FRESH=1: nothing kept from earlier builds)
	@PYTHONPATH=packaging/runtime /usr/bin/python3.11 -B packaging/dcos/build_package.py $(if $(FRESH),--fresh)

dist: $(STAMPS)/venv ## a wheel of every component, each built by itself
	@tests/house/pants.sh package native:: libcalico:: components/felix:: components/cni:: components/calicoctl:: components/bird-config:: components/libnetwork:: packaging/dcos::

.PHONY: deb
deb: root dev ## Debian packages of everything into dist/deb: make deb [VERSION=0.1.0]
	@PYTHONPATH=packaging/runtime:packaging/debian $(BIN)/python -m calico_debian --out dist/deb $(if $(VERSION),--version $(VERSION))

.PHONY: pants-check
pants-check:
	@tests/house/pants.sh check

clean: ## remove what was built
	@rm -rf build dist .pants.d
