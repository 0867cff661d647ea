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
.PHONY: help demo test sanitize cpp cppslow cppaarch64 lint types cuda tensorrt aarch64 fix clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /make \1\t/p' Makefile | expand -t 14

demo: $(VENV)/installed-export,cpu  ## build a bundle from the testbed's checkpoint, then answer questions about its clips
	@$(BIN)/python testbed/demo.py --bundle $(BUNDLE)

# Two processes of one thread each: the models are tiny, and threads would only wait for each other. worksteal: neighbours
# stay in one process, and what their files build is built once.
test: $(VENV)/installed-dev  ## run the fast tests (no GPU, no network)
	@echo "==> pytest: every test that is neither slow nor needs a GPU"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu and not tensorrt and not cpp"

# The kernels know nothing of ONNX Runtime, so a program of their own can run them under the sanitizers.
sanitize: build/kernel_tests build/kernel_tests_aarch64  ## run the native kernels under AddressSanitizer and UBSan
	@echo "==> every instruction set of this machine, with sanitizers"
	@build/kernel_tests

KERNELS := $(filter-out plugins/cpu/ort_%,$(NATIVE))
KERNEL_TESTS := tests/plugins/kernel_tests.cpp $(wildcard tests/plugins/*_tests.h) tests/plugins/kernel_checks.h
CXXFLAGS := -std=c++17 -O2 -Wall -Wextra -Werror

build/kernel_tests: $(KERNEL_TESTS) $(KERNELS)
	@mkdir -p build
	@$(CXX) $(CXXFLAGS) -g -fsanitize=address,undefined -fno-sanitize-recover=all -pthread -o $@ $(filter %.cpp,$^)

# Compiled, and run only where the machine is one, or has an emulator.
AARCH64_CXX ?= aarch64-linux-gnu-g++
build/kernel_tests_aarch64: $(KERNEL_TESTS) $(KERNELS)
	@mkdir -p build
	@$(if $(shell command -v $(AARCH64_CXX)),$(AARCH64_CXX) $(CXXFLAGS) -static -pthread -o $@ $(filter %.cpp,$^),echo "==> no $(AARCH64_CXX): the kernels are not compiled for it")
	@if [ -e $@ ] && command -v qemu-aarch64 > /dev/null; then echo "==> NEON, emulated" && qemu-aarch64 $@; fi

# The headers that libaurora is compiled with; its CMakeLists.txt fetches them where they cannot be installed.
build/cpp-headers:
	@mkdir -p build
	@if [ ! -e /usr/include/nlohmann/json.hpp ] || [ ! -e /usr/include/gtest/gtest.h ] || [ ! -e /usr/include/zlib.h ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "==> apt-get: headers of nlohmann/json, GoogleTest and zlib" && apt-get update -qq >/dev/null \
			&& DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
				nlohmann-json3-dev libgtest-dev zlib1g-dev >/dev/null; \
		else echo "==> no nlohmann-json3-dev, libgtest-dev or zlib1g-dev here: CMake fetches what it can"; fi; fi
	@touch $@

# cmake of this machine, else that of PyPI.
CPP_CMAKE := $(or $(shell command -v cmake),$(BIN)/cmake)
CPP_TOOLS := $(if $(shell command -v cmake),,$(VENV)/installed-dev-cpp)
ONNXRUNTIME_LIBRARY = $(abspath $(wildcard $(VENV)/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*))
CPP_TEST = AURORA_ONNXRUNTIME=$(ONNXRUNTIME_LIBRARY) AURORA_TEST_BUNDLE=$(CURDIR)/$(BUNDLE)

# Arguments: folder in build/, arguments of cmake, and of its build.
define BUILD_CPP
	@$(CPP_CMAKE) -S runtime/cpp -B build/$(1) $(2) >build/$(1).log 2>&1 || { cat build/$(1).log; exit 1; }
	@MAKEFLAGS= $(CPP_CMAKE) --build build/$(1) --parallel 2 $(3) >build/$(1).log 2>&1 || { cat build/$(1).log; exit 1; }
endef

$(BUNDLE): | $(VENV)/installed-dev
	@$(BIN)/aurora-export build testbed/checkpoint --out $@ --quiet

cpp: $(VENV)/installed-dev build/cpp-headers $(CPP_TOOLS) $(BUNDLE)  ## compile libaurora, and run its tests, sanitizers too
	@echo "==> cmake: libaurora, aurora-run and their tests in build/cpp"
	$(call BUILD_CPP,cpp,-DAURORA_TESTS=ON)
	@echo "==> GoogleTest: under AddressSanitizer and UBSan, under ThreadSanitizer, and what a token costs"
	@$(CPP_TEST) LSAN_OPTIONS=suppressions=tests/runtime/cpp/leaks.supp build/cpp/tests/aurora_tests --gtest_brief=1
	@$(CPP_TEST) TSAN_OPTIONS=report_mutex_bugs=0:suppressions=tests/runtime/cpp/threads.supp build/cpp/tests/aurora_threads --gtest_brief=1
	@$(CPP_TEST) build/cpp/tests/aurora_costs --gtest_brief=1
	@echo "==> readers of what strangers send: random changes of the corpus"
	@for reader in external_data manifest npy state_file tokenizer; do \
		build/cpp/tests/fuzz_$$reader -max_total_time=2 tests/runtime/cpp/corpus/$$reader || exit 1; done
	@echo "==> pytest: libaurora beside the Python runtime"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "cpp and not slow" tests/runtime/cpp

cppslow: cpp  ## what takes libaurora minutes: thousands of models and answers, two hours of video
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "cpp and slow" tests/runtime/cpp

lint: $(VENV)/installed-dev  ## check style and format
	@echo "==> ruff: rules and format"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

# mypy finds packages by folder name, and core/ is not called aurora_export: build/types holds links that are.
types: $(VENV)/installed-dev  ## check types
	@echo "==> mypy"
	@rm -rf build/types && mkdir -p build/types/aurora_export
	@cd build/types/aurora_export && ln -s $(addprefix ../../../,core/* $(SUBPACKAGES)) .
	@$(BIN)/mypy build/types/aurora_export testbed gpu_check

# nvcc and cmake of this machine if it has both, else those of PyPI, whose nvcc finds its libraries by LIBRARY_PATH only.
ifneq ($(and $(shell command -v nvcc),$(shell command -v cmake)),)
CUDA_TOOLS :=
CMAKE := cmake
else
CUDA_TOOLS := $(VENV)/installed-dev-cuda
CUDA_WHEELS = $(abspath $(wildcard $(VENV)/lib/python3*/site-packages/nvidia/cu13))
CMAKE = CUDACXX=$(CUDA_WHEELS)/bin/nvcc LIBRARY_PATH=$(CUDA_WHEELS)/lib $(BIN)/cmake
endif

# Arguments: folder in build/, arguments of cmake. What cmake says is shown if it fails.
define BUILD_PLUGINS
	@mkdir -p build
	@$(CMAKE) -S plugins -B build/$(1) $(2) >build/$(1).log 2>&1 || { cat build/$(1).log; exit 1; }
	@MAKEFLAGS= $(CMAKE) --build build/$(1) --parallel 2 >build/$(1).log 2>&1 || { cat build/$(1).log; exit 1; }
endef

cuda: $(CUDA_TOOLS)  ## compile the CUDA kernels for every architecture (nothing runs on a GPU)
	@echo "==> nvcc: operator libraries in build/plugins"
	$(call BUILD_PLUGINS,plugins)

# The library of this target is for tests alone: it is built with our declarations in the place of TensorRT's headers.
OUR_DECLARATIONS := -DTENSORRT_ROOT=$(CURDIR)/tests/plugins/tensorrt_declarations

tensorrt: $(VENV)/installed-dev,dev-tensorrt $(CUDA_TOOLS)  ## smoke-test the TensorRT plugin, no GPU needed
	@echo "==> nvcc: TensorRT plugin for the smoke test"
	$(call BUILD_PLUGINS,plugins-smoke,$(OUR_DECLARATIONS))
	@echo "==> pytest: what needs TensorRT's packages"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "tensorrt and not slow and not gpu"

CUDA_AARCH64 := build/cuda-aarch64

# Wheels, unpacked and never installed: the runtime library, and headers of nvcc and of the compiler driver.
$(CUDA_AARCH64)/unpacked: constraints.txt | $(BIN)/python
	@echo "==> CUDA runtime for aarch64, from PyPI"
	@rm -rf $(CUDA_AARCH64) && mkdir -p $(CUDA_AARCH64)
	@$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_aarch64 \
		--constraint constraints.txt --dest $(CUDA_AARCH64) nvidia-cuda-cccl nvidia-cuda-crt nvidia-cuda-nvcc nvidia-cuda-runtime
	@for wheel in $(CUDA_AARCH64)/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(CUDA_AARCH64); done
	@touch $@

aarch64: $(CUDA_TOOLS) $(CUDA_AARCH64)/unpacked  ## cross-compile kernels and plugin for Orin and Thor (nothing runs)
	@command -v $(AARCH64_CXX) >/dev/null || { echo "no $(AARCH64_CXX): apt install g++-aarch64-linux-gnu" >&2; exit 1; }
	@echo "==> nvcc with $(AARCH64_CXX): build/plugins-aarch64"
	$(call BUILD_PLUGINS,plugins-aarch64,--toolchain $(CURDIR)/plugins/aarch64.cmake $(OUR_DECLARATIONS))

# nvcc and cmake see these; cmake's toolchain file reads them.
aarch64: export AARCH64_CXX := $(AARCH64_CXX)
aarch64: export CUDA_AARCH64_ROOT := $(CURDIR)/$(CUDA_AARCH64)/nvidia/cu13

CPP_AARCH64 := build/onnxruntime-aarch64

$(CPP_AARCH64)/unpacked: constraints.txt | $(BIN)/python
	@rm -rf $(CPP_AARCH64) && mkdir -p $(CPP_AARCH64)
	@$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
		--platform manylinux_2_27_aarch64 --constraint constraints.txt --dest $(CPP_AARCH64) onnxruntime
	@$(BIN)/python -m zipfile -e $(CPP_AARCH64)/onnxruntime*.whl $(CPP_AARCH64)
	@touch $@

cppaarch64: $(VENV)/installed-dev build/cpp-headers $(CPP_TOOLS) $(CPP_AARCH64)/unpacked $(BUNDLE)  ## cross-compile libaurora, and ask under emulation
	@command -v $(AARCH64_CXX) >/dev/null || { echo "no $(AARCH64_CXX): apt install g++-aarch64-linux-gnu" >&2; exit 1; }
	@echo "==> $(AARCH64_CXX): libaurora in build/cpp-aarch64"
	$(call BUILD_CPP,cpp,,--target aurora-run)
	$(call BUILD_CPP,cpp-aarch64,--toolchain $(CURDIR)/runtime/cpp/cmake/aarch64.cmake)
	@$(BIN)/python tests/runtime/cpp/emulated.py $(BUNDLE) build/cpp build/cpp-aarch64 $(CPP_AARCH64)

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
