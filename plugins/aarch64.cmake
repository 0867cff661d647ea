# Toolchain file: the libraries for Orin and Thor, compiled on another machine.
#
#   CUDA_AARCH64_ROOT=... cmake -S plugins -B build/plugins-aarch64 --toolchain aarch64.cmake
#
# CUDA_AARCH64_ROOT holds include/ and lib/ of the CUDA runtime for aarch64; `make aarch64` takes them from PyPI.
# AARCH64_CXX names the cross compiler, aarch64-linux-gnu-g++ if it is not set.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(cuda $ENV{CUDA_AARCH64_ROOT})
if(NOT EXISTS ${cuda}/lib/libcudart_static.a)
  message(FATAL_ERROR "CUDA_AARCH64_ROOT=${cuda}: no lib/libcudart_static.a there")
endif()
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
if(DEFINED ENV{AARCH64_CXX})
  set(CMAKE_CXX_COMPILER $ENV{AARCH64_CXX})
endif()
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CXX_FLAGS_INIT "-isystem ${cuda}/include")
set(CMAKE_CUDA_FLAGS_INIT "-I${cuda}/include -I${cuda}/include/cccl -L${cuda}/lib")
set(CMAKE_CUDA_ARCHITECTURES 87-real 110-real)
