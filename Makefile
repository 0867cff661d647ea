# Everything here works on a fresh clone: what a target needs is installed first, into .venv, at the pinned versions.

PYTHON ?= $(shell for name in python3.11 python3; do $$name -c "" 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
SUBPACKAGES := $(filter-out core,$(patsubst %/__init__.py,%,$(wildcard */__init__.py)))
BUNDLE := build/testbed.aurora
NATIVE := $(sort $(wildcard plugins/cpu/*.cpp plugins/cpu/*.h plugins/*/*_cpu.cpp plugins/*/*_cpu.h plugins/*/*_kernels.h))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test sanitize lint types fix clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 14

demo: $(VENV)/installed-export,cpu  ## build a bundle from the testbed's checkpoint, then answer questions about its clips
	@$(BIN)/python testbed/demo.py --bundle $(BUNDLE)

# Two processes of one thread each: the models are tiny, and threads would only wait for each other.
test: $(VENV)/installed-dev  ## run the fast tests (no GPU, no network)
	@echo "==> pytest: every test that is neither slow nor needs a GPU"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow and not gpu"

# The kernels know nothing of ONNX Runtime, so a program of their own can run them under the sanitizers.
sanitize: build/kernel_tests build/kernel_tests_aarch64  ## run the native kernels under AddressSanitizer and UBSan
	@echo "==> every instruction set of this machine, with sanitizers"
	@build/kernel_tests

KERNELS := $(filter-out plugins/cpu/ort_%,$(NATIVE))
CXXFLAGS := -std=c++17 -O2 -Wall -Wextra -Werror

build/kernel_tests: tests/plugins/kernel_tests.cpp $(KERNELS)
	@mkdir -p build
	@$(CXX) $(CXXFLAGS) -g -fsanitize=address,undefined -fno-sanitize-recover=all -pthread -o $@ $(filter %.cpp,$^)

# Compiled, and run only where the machine is one, or has an emulator.
AARCH64_CXX := $(shell command -v aarch64-linux-gnu-g++)
build/kernel_tests_aarch64: tests/plugins/kernel_tests.cpp $(KERNELS)
	@mkdir -p build
	@$(if $(AARCH64_CXX),$(AARCH64_CXX) $(CXXFLAGS) -static -pthread -o $@ $(filter %.cpp,$^),echo "==> no aarch64-linux-gnu-g++: the kernels are not compiled for it")
	@if [ -e $@ ] && command -v qemu-aarch64 > /dev/null; then echo "==> NEON, emulated" && qemu-aarch64 $@; fi

lint: $(VENV)/installed-dev  ## check style and format
	@echo "==> ruff: rules and format"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

# mypy finds packages by folder name, and core/ is not called aurora_export: build/types holds links that are.
types: $(VENV)/installed-dev  ## check types
	@echo "==> mypy"
	@rm -rf build/types && mkdir -p build/types/aurora_export
	@cd build/types/aurora_export && ln -s $(addprefix ../../../,core/* $(SUBPACKAGES)) .
	@$(BIN)/mypy build/types/aurora_export testbed

fix: $(VENV)/installed-dev  ## mend what the linter and formatter can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:  ## remove everything that was built or installed here
	rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	@echo "==> $(PYTHON): new virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# The stamp is renewed when the pins or the requirements change; % is the list of extras.
$(VENV)/installed-%: setup.py constraints.txt $(NATIVE) | $(BIN)/python
	@echo "==> installing aurora-export[$*] and its pinned requirements into $(VENV)"
	@$(PIP_INSTALL) setuptools
	@PYTHONWARNINGS=ignore $(PIP_INSTALL) --no-build-isolation --editable '.[$*]'
	@touch '$@'
