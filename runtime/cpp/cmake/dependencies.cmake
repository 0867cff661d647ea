# Headers of nlohmann/json and, for tests, GoogleTest: the system's, or fetched at a pinned version.
include(FetchContent)

if(AURORA_SYSTEM_LIBRARIES STREQUAL "ON")
  find_package(nlohmann_json 3.10 REQUIRED)
elseif(AURORA_SYSTEM_LIBRARIES STREQUAL "AUTO")
  find_package(nlohmann_json 3.10 QUIET)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  FetchContent_Declare(nlohmann_json
    URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
    URL_HASH SHA256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
  FetchContent_MakeAvailable(nlohmann_json)
endif()

if(AURORA_TESTS)
  if(AURORA_SYSTEM_LIBRARIES STREQUAL "ON")
    find_package(GTest REQUIRED)
  elseif(AURORA_SYSTEM_LIBRARIES STREQUAL "AUTO")
    find_package(GTest QUIET)
  endif()
  if(NOT TARGET GTest::gtest_main)
    set(INSTALL_GTEST OFF)
    FetchContent_Declare(googletest
      URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
      URL_HASH SHA256=8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7)
    FetchContent_MakeAvailable(googletest)
  endif()
endif()

# Reads and writes packed states; without it they are refused with a message that says so.
find_package(ZLIB QUIET)
