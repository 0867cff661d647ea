# Toolchain file: 64-bit Arm on Linux, compiled on another machine. AARCH64_CXX names the cross compiler.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
if(DEFINED ENV{AARCH64_CXX})
  set(CMAKE_CXX_COMPILER $ENV{AARCH64_CXX})
endif()
string(REGEX REPLACE "g\\+\\+" "gcc" CMAKE_C_COMPILER ${CMAKE_CXX_COMPILER})
