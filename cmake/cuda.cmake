# The CUDA kernels as libsidewinder_cuda.so, which the program opens at run time (kernels/ops/plugin.h).
# The CUDA runtime is linked statically and finds the driver by itself, so the plugin can be opened on
# machines without one.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu)
if(SIDEWINDER_CUDA STREQUAL "OFF")
  message(STATUS "CUDA plugin: not built (SIDEWINDER_CUDA=OFF)")
  return()
endif()
# CMake itself looks for nvcc on the path only.
find_program(SIDEWINDER_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
if(SIDEWINDER_NVCC AND NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  set(CMAKE_CUDA_COMPILER ${SIDEWINDER_NVCC} CACHE FILEPATH "CUDA compiler")
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(SIDEWINDER_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SIDEWINDER_CUDA=ON but nvcc was not found; install the CUDA toolkit or set CUDACXX")
  endif()
  message(STATUS "CUDA plugin: not built (nvcc not found)")
  return()
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90)
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  # CMake 3.25.1 does not know that nvcc has C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

add_library(sidewinder_cuda MODULE ${cuda_sources})
set_target_properties(sidewinder_cuda PROPERTIES
  CUDA_RUNTIME_LIBRARY Static
  CUDA_VISIBILITY_PRESET hidden
  CXX_VISIBILITY_PRESET hidden
  LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
target_include_directories(sidewinder_cuda PRIVATE ${PROJECT_SOURCE_DIR})
# fmt 9 switches constexpr off for nvcc and then does not compile as C++20.
target_compile_definitions(sidewinder_cuda PRIVATE FMT_USE_CONSTEXPR=1)
target_compile_options(sidewinder_cuda PRIVATE -Xcompiler=-Wall,-Wextra,-Werror --Werror=all-warnings)
# By file: the compile options of the other libraries are not for nvcc. What the plugin needs of them
# (shapes and pointers of tensors) is linked in, and hidden from the program that opens it.
target_link_libraries(sidewinder_cuda PRIVATE
  $<TARGET_FILE:sidewinder_kernels> -Wl,--exclude-libs,ALL fmt::fmt Threads::Threads)
add_dependencies(sidewinder_cuda sidewinder_kernels)
install(TARGETS sidewinder_cuda LIBRARY DESTINATION lib)
message(STATUS "CUDA plugin: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
