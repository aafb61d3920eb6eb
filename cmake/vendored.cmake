# SPDX-License-Identifier: Apache-2.0
# libbpf, libelf and zlib as position-independent static libraries, built from third_party/ into the build folder, so that they
# are built once. (Debian 12's own libbpf.a and libelf.a are not position-independent.) Target: vendored.
include(ExternalProject)
include(ProcessorCount)
ProcessorCount(cores)
math(EXPR cores "${cores} + 1")

set(VENDORED_PREFIX "${PROJECT_BINARY_DIR}/third_party")
set(make "${HOSTREACH_MAKE}" -j${cores})
file(MAKE_DIRECTORY "${VENDORED_PREFIX}/include") # an imported include folder has to exist when CMake runs

# vendored_library(<name> <list of the archives it makes> <ExternalProject_Add's own arguments>...)
function(vendored_library name archives)
  vendored_value(tarball ${name} tarball)
  vendored_value(sha256 ${name} sha256)
  list(TRANSFORM archives PREPEND "${VENDORED_PREFIX}/lib/")
  ExternalProject_Add(${name}
    URL "${PROJECT_SOURCE_DIR}/third_party/${tarball}"
    URL_HASH SHA256=${sha256}
    DOWNLOAD_EXTRACT_TIMESTAMP ON # or make would want autoconf
    PREFIX "${VENDORED_PREFIX}/steps/${name}"
    SOURCE_DIR "${VENDORED_PREFIX}/src/${name}"
    BUILD_IN_SOURCE ON
    BUILD_BYPRODUCTS ${archives}
    LOG_CONFIGURE ON LOG_BUILD ON LOG_INSTALL ON LOG_OUTPUT_ON_FAILURE ON
    ${ARGN})
  vendored_licences(${name})
endfunction()

# The libraries' licences travel in the wheel, beside the project's own.
function(vendored_licences name)
  if(NOT SKBUILD_METADATA_DIR)
    return()
  endif()
  vendored_value(count ${name} licence_files)
  string(JSON count LENGTH "${count}")
  math(EXPR last "${count} - 1")
  foreach(index RANGE ${last})
    vendored_value(file ${name} licence_files ${index})
    install(FILES "${VENDORED_PREFIX}/src/${name}/${file}" DESTINATION "${SKBUILD_METADATA_DIR}/licenses/third_party/${name}")
  endforeach()
endfunction()

set(environment "${CMAKE_COMMAND}" -E env "CC=${CMAKE_C_COMPILER}" "AR=${CMAKE_AR}")

vendored_library(zlib libz.a
  CONFIGURE_COMMAND ${environment} "CFLAGS=-O2 -fPIC" ./configure --static --prefix=${VENDORED_PREFIX}
  BUILD_COMMAND ${make} libz.a
  INSTALL_COMMAND ${CMAKE_COMMAND} -E copy libz.a ${VENDORED_PREFIX}/lib/libz.a
  COMMAND ${CMAKE_COMMAND} -E copy zlib.h zconf.h ${VENDORED_PREFIX}/include)

if(CMAKE_CROSSCOMPILING)
  set(elfutils_host "--host=${CMAKE_SYSTEM_PROCESSOR}-linux-gnu")
endif()
# libelf alone, and libeu, which it calls.
vendored_library(elfutils "libelf.a;libeu.a"
  DEPENDS zlib
  CONFIGURE_COMMAND ${environment} "CFLAGS=-O2" "CPPFLAGS=-I${VENDORED_PREFIX}/include" "LDFLAGS=-L${VENDORED_PREFIX}/lib"
    ./configure --quiet ${elfutils_host} --disable-debuginfod --disable-libdebuginfod --disable-nls --without-bzlib --without-lzma --without-zstd
  BUILD_COMMAND ${make} -C lib
  COMMAND ${make} -C libelf libelf_pic.a
  INSTALL_COMMAND ${CMAKE_COMMAND} -E copy libelf/libelf_pic.a ${VENDORED_PREFIX}/lib/libelf.a
  COMMAND ${CMAKE_COMMAND} -E copy lib/libeu.a ${VENDORED_PREFIX}/lib/libeu.a
  COMMAND ${CMAKE_COMMAND} -E copy libelf/libelf.h libelf/gelf.h ${VENDORED_PREFIX}/include)

set(libbpf_make ${environment} "CFLAGS=-O2 -fPIC -I${VENDORED_PREFIX}/include"
  ${make} -C src BUILD_STATIC_ONLY=1 NO_PKG_CONFIG=1 PREFIX=${VENDORED_PREFIX} LIBDIR=${VENDORED_PREFIX}/lib)
vendored_library(libbpf libbpf.a
  DEPENDS elfutils
  CONFIGURE_COMMAND ${CMAKE_COMMAND} -E true
  BUILD_COMMAND ${libbpf_make} all
  INSTALL_COMMAND ${libbpf_make} install)

add_library(vendored INTERFACE)
add_dependencies(vendored libbpf)
target_include_directories(vendored SYSTEM INTERFACE "${VENDORED_PREFIX}/include")
target_link_libraries(vendored INTERFACE
  "${VENDORED_PREFIX}/lib/libbpf.a" "${VENDORED_PREFIX}/lib/libelf.a" "${VENDORED_PREFIX}/lib/libeu.a" "${VENDORED_PREFIX}/lib/libz.a")
