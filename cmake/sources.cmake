# SPDX-License-Identifier: Apache-2.0
# The vendored libraries' tarballs: what cmake/vendor.json lists has to lie in third_party/; whatever does not is fetched now.
file(READ "${PROJECT_SOURCE_DIR}/cmake/vendor.json" HOSTREACH_MANIFEST)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS cmake/vendor.json)

# vendored_value(<variable> <library> <key>...): one value of the manifest.
function(vendored_value variable library)
  string(JSON value GET "${HOSTREACH_MANIFEST}" libraries ${library} ${ARGN})
  set(${variable} "${value}" PARENT_SCOPE)
endfunction()

set(missing "")
foreach(library IN ITEMS zlib elfutils libbpf)
  vendored_value(tarball ${library} tarball)
  if(NOT EXISTS "${PROJECT_SOURCE_DIR}/third_party/${tarball}")
    list(APPEND missing ${library})
  endif()
endforeach()
if(missing)
  list(JOIN missing ", " missing)
  message(STATUS "third_party/ lacks ${missing}: fetching the sources from Debian (scripts/fetch-third-party)")
  execute_process(
    COMMAND "${PROJECT_SOURCE_DIR}/scripts/fetch-third-party"
    RESULT_VARIABLE failed
    ERROR_VARIABLE reason ERROR_STRIP_TRAILING_WHITESPACE)
  if(failed)
    if(NOT reason)
      set(reason "scripts/fetch-third-party: ${failed}; it needs python3")
    endif()
    message(FATAL_ERROR "${reason}")
  endif()
endif()
