# One library per folder; sources are found, so that adding a file edits no build file.

function(sidewinder_sources output folder)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.cpp)
  set(${output} ${sources} PARENT_SCOPE)
endfunction()

# sidewinder_library(folder dependency...)
function(sidewinder_library folder)
  sidewinder_sources(sources ${folder})
  if(NOT sources)
    file(WRITE ${PROJECT_BINARY_DIR}/empty.cpp "")
    set(sources ${PROJECT_BINARY_DIR}/empty.cpp)
  endif()
  add_library(sidewinder_${folder} STATIC ${sources})
  target_link_libraries(sidewinder_${folder} PUBLIC sidewinder_flags)
  foreach(dependency ${ARGN})
    target_link_libraries(sidewinder_${folder} PUBLIC sidewinder_${dependency})
  endforeach()
endfunction()

# kernels/cpu/isa is compiled once per instruction-set level, each in a namespace of its own.
function(sidewinder_kernels)
  sidewinder_sources(sources kernels)
  file(GLOB isa_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cpu/isa/*.cpp)
  if(isa_sources)
    list(REMOVE_ITEM sources ${isa_sources})
  endif()
  add_library(sidewinder_kernels STATIC ${sources})
  target_link_libraries(sidewinder_kernels PUBLIC
    sidewinder_flags fmt::fmt Threads::Threads ${CMAKE_DL_LIBS}
    PRIVATE spdlog::spdlog nlohmann_json::nlohmann_json hdf5::hdf5 PkgConfig::XXHASH)
  if(SIDEWINDER_SANITIZE)
    # Its unrolled packs take GCC 12 several minutes per level with checks, five seconds without.
    set_source_files_properties(${PROJECT_SOURCE_DIR}/kernels/cpu/isa/causal_conv.cpp
      PROPERTIES COMPILE_OPTIONS "-fno-sanitize=all")
  endif()
  if(isa_sources)
    sidewinder_isa_level(generic "" ${isa_sources})
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      set(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512)
      sidewinder_isa_level(avx2 "-mavx2;-mfma;-mf16c" ${isa_sources})
      sidewinder_isa_level(avx512 "${avx512}" ${isa_sources})
      sidewinder_isa_level(avx512_bf16 "${avx512};-mavx512bf16" ${isa_sources})
      # Tile registers serve matrix products and their limit; the model of them serves tests.
      set(tiles ${isa_sources})
      list(FILTER tiles INCLUDE REGEX "/(gemm|peak)\\.cpp$")
      sidewinder_isa_level(avx512_amx
        "${avx512};-mavx512bf16;-mamx-tile;-mamx-bf16;-DSIDEWINDER_AMX" ${tiles})
      sidewinder_isa_level(amx_model "${avx512};-mavx512bf16;-DSIDEWINDER_AMX_MODEL" ${tiles})
    endif()
  endif()
endfunction()

# sidewinder_isa_level(level flags source...)
function(sidewinder_isa_level level flags)
  add_library(sidewinder_isa_${level} OBJECT ${ARGN})
  target_link_libraries(sidewinder_isa_${level} PRIVATE sidewinder_flags)
  # -O3 in every configuration: without optimisation the vector code is uselessly slow. Not with
  # sanitizers, whose checks in unrolled code take minutes to compile.
  set(optimise -O3)
  if(SIDEWINDER_SANITIZE)
    set(optimise -O1)
  endif()
  # GCC 12 warns of uninitialised values inside its own AVX-512 headers (GCC bug 105593).
  target_compile_options(sidewinder_isa_${level} PRIVATE ${optimise} -fno-math-errno -fno-trapping-math
    -Wno-maybe-uninitialized -Wno-uninitialized ${flags})
  target_compile_definitions(sidewinder_isa_${level} PRIVATE SIDEWINDER_ISA=isa_${level})
  target_sources(sidewinder_kernels PRIVATE $<TARGET_OBJECTS:sidewinder_isa_${level}>)
endfunction()

# The compiler and the libraries with their versions, for `sidewinder doctor`.
function(sidewinder_built_with output)
  set(text "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
  foreach(library "HDF5 ${HDF5_VERSION}" "SentencePiece ${SENTENCEPIECE_VERSION}"
      "toml++ ${TOMLPLUSPLUS_VERSION}" "CLI11 ${CLI11_VERSION}" "fmt ${fmt_VERSION}"
      "spdlog ${spdlog_VERSION}" "nlohmann-json ${nlohmann_json_VERSION}" "xxHash ${XXHASH_VERSION}"
      "zlib ${ZLIB_VERSION_STRING}" "xz ${LIBLZMA_VERSION_STRING}" "zstd ${ZSTD_VERSION}")
    string(APPEND text ", ${library}")
  endforeach()
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

function(sidewinder_program)
  sidewinder_sources(sources tools)
  list(FILTER sources EXCLUDE REGEX "/tools/sidewinder.cpp$")
  # A library, so that tests can call commands.
  if(NOT sources)
    set(sources ${PROJECT_BINARY_DIR}/empty.cpp)
  endif()
  add_library(sidewinder_tools STATIC ${sources})
  target_link_libraries(sidewinder_tools PUBLIC sidewinder_recipes CLI11::CLI11
    nlohmann_json::nlohmann_json)
  sidewinder_built_with(built_with)
  target_compile_definitions(sidewinder_tools PUBLIC SIDEWINDER_VERSION="${PROJECT_VERSION}"
    PRIVATE SIDEWINDER_BUILT_WITH="${built_with}")
  add_executable(sidewinder ${PROJECT_SOURCE_DIR}/tools/sidewinder.cpp)
  target_link_libraries(sidewinder PRIVATE sidewinder_tools)
  install(TARGETS sidewinder RUNTIME DESTINATION bin)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/recipes/ DESTINATION share/sidewinder/recipes
    FILES_MATCHING PATTERN "*.toml")
endfunction()
