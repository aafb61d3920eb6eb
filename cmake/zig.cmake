# SPDX-License-Identifier: Apache-2.0
# A toolchain file: zig's clang, which links against any older glibc, so that a module that is built here runs on the userlands of
# the oldest kernels. scripts/release-wheel sets the environment: HOSTREACH_ZIG, the zig program; HOSTREACH_ARCH; HOSTREACH_GLIBC.
if(NOT DEFINED ENV{HOSTREACH_ZIG})
  message(FATAL_ERROR "HOSTREACH_ZIG is not set: use scripts/release-wheel")
endif()
set(arch "$ENV{HOSTREACH_ARCH}")
set(zig_folder "${CMAKE_BINARY_DIR}/zig")
if(NOT CMAKE_HOST_SYSTEM_PROCESSOR STREQUAL arch)
  set(CMAKE_SYSTEM_NAME Linux)
  set(CMAKE_SYSTEM_PROCESSOR "${arch}")
endif()

# zig_tool(<variable> <subcommand and its arguments>...): a program of its own, for the vendored libraries' makefiles too.
function(zig_tool variable name)
  set(${variable} "${zig_folder}/${name}" PARENT_SCOPE)
  list(JOIN ARGN " " arguments)
  file(CONFIGURE OUTPUT "${zig_folder}/${name}" CONTENT "#!/bin/sh\nexec '$ENV{HOSTREACH_ZIG}' ${name} ${arguments} \"$@\"\n" @ONLY)
  file(CHMOD "${zig_folder}/${name}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
endfunction()

set(target -target "${arch}-linux-gnu.$ENV{HOSTREACH_GLIBC}")
zig_tool(CMAKE_C_COMPILER cc ${target})
zig_tool(CMAKE_CXX_COMPILER c++ ${target})
zig_tool(CMAKE_AR ar)
zig_tool(CMAKE_RANLIB ranlib)

# zig does not look into /usr/include, where Debian's Python.h includes <x86_64-linux-gnu/python3.11/pyconfig.h>. Only that is
# shown to it: the C library's headers have to be zig's. For another machine Python.h asks by that one's name, and gets the host's:
# where both are little-endian and of 64 bits they say the same of every type.
set(multiarch "${CMAKE_HOST_SYSTEM_PROCESSOR}-linux-gnu")
file(MAKE_DIRECTORY "${zig_folder}/include")
file(CREATE_LINK "/usr/include/${multiarch}" "${zig_folder}/include/${arch}-linux-gnu" SYMBOLIC)
set(CMAKE_CXX_FLAGS_INIT "-isystem ${zig_folder}/include -D_Bool=bool") # clang's C++ lacks _Bool, which bpftool's skeletons use
set(CMAKE_LIBRARY_ARCHITECTURE "${multiarch}") # where the BPF programs find asm/types.h
