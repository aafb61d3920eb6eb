# SPDX-License-Identifier: Apache-2.0
# bpf/<name>.bpf.c -> object -> <name>.skel.h in the build folder.
set(HOSTREACH_BPF_CPU v2 CACHE STRING "BPF instruction set; v2 runs on every kernel that hostreach supports")
option(HOSTREACH_BPF_WERROR "Warnings in BPF programs are errors" ON)
mark_as_advanced(HOSTREACH_BPF_WERROR)

# clang -target bpf knows no multiarch folder, where Debian has asm/types.h.
set(bpf_flags
  -target bpf -O2 -g -mcpu=${HOSTREACH_BPF_CPU} -std=gnu11 -Wall $<$<BOOL:${HOSTREACH_BPF_WERROR}>:-Werror>
  "-ffile-prefix-map=${PROJECT_SOURCE_DIR}/="
  "-I${PROJECT_SOURCE_DIR}/bpf" -isystem "${VENDORED_PREFIX}/include")
if(CMAKE_LIBRARY_ARCHITECTURE)
  list(APPEND bpf_flags -idirafter "/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}")
endif()

# hostreach_bpf_skeleton(<target> <name>): build bpf/<name>.bpf.c and let <target> include <name>.skel.h.
function(hostreach_bpf_skeleton target name)
  set(folder "${PROJECT_BINARY_DIR}/bpf")
  set(object "${folder}/${name}.bpf.o")
  set(skeleton "${folder}/${name}.skel.h")
  file(MAKE_DIRECTORY "${folder}")
  # A killed build must not leave half a file under the final name: each result is written aside, then renamed.
  add_custom_command(
    OUTPUT "${object}"
    COMMAND "${HOSTREACH_CLANG}" ${bpf_flags} -MD -MF "${object}.d" -MT "${object}"
            -c "${PROJECT_SOURCE_DIR}/bpf/${name}.bpf.c" -o "${object}.compiled"
    COMMAND "${HOSTREACH_BPFTOOL}" gen object "${object}.linked" "${object}.compiled" # drops DWARF, keeps BTF
    COMMAND "${CMAKE_COMMAND}" -E rename "${object}.linked" "${object}"
    DEPENDS "bpf/${name}.bpf.c" libbpf
    DEPFILE "${object}.d"
    COMMENT "Compiling bpf/${name}.bpf.c"
    COMMAND_EXPAND_LISTS VERBATIM)
  add_custom_command(
    OUTPUT "${skeleton}"
    COMMAND sh -c "exec \"$0\" gen skeleton \"$1\" name \"$2\" > \"$3\"" "${HOSTREACH_BPFTOOL}" "${object}" "${name}" "${skeleton}.new"
    COMMAND "${CMAKE_COMMAND}" -E rename "${skeleton}.new" "${skeleton}"
    DEPENDS "${object}"
    COMMENT "Generating ${name}.skel.h"
    VERBATIM)
  target_sources(${target} PRIVATE "${skeleton}")
  target_include_directories(${target} SYSTEM PRIVATE "${folder}")
endfunction()
