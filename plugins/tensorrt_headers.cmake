# Sets tensorrt_include: the folder of TensorRT's headers, or something false where there are none. TENSORRT_ROOT names it.
set(TENSORRT_ROOT "" CACHE PATH "Where TensorRT is: the folder that holds include/NvInferRuntime.h")
if(TENSORRT_ROOT)
  # Not in the cache: another TENSORRT_ROOT must not find the headers of the one before.
  find_path(tensorrt_include NvInferRuntime.h PATHS ${TENSORRT_ROOT}/include NO_DEFAULT_PATH NO_CACHE)
  if(NOT tensorrt_include)
    message(FATAL_ERROR "TENSORRT_ROOT=${TENSORRT_ROOT}: no include/NvInferRuntime.h there")
  endif()
else()
  find_path(tensorrt_include NvInferRuntime.h NO_CACHE)
endif()
if(tensorrt_include)
  message(STATUS "TensorRT headers: ${tensorrt_include}")
endif()
