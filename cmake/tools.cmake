# SPDX-License-Identifier: Apache-2.0
# What the build needs of the system, each missing thing named with the Debian package that has it.

# require_tool(<variable> <package> <name>...): find a program, also in /usr/sbin, where Debian has bpftool.
function(require_tool variable package)
  find_program(${variable} NAMES ${ARGN} PATHS /usr/sbin /usr/local/sbin)
  if(NOT ${variable})
    list(GET ARGN 0 name)
    message(FATAL_ERROR "${name} is missing: apt-get install ${package}")
  endif()
endfunction()

# require_header(<package> <header>): look where the C compiler will; multiarch folders included.
function(require_header package header)
  file(GLOB found "/usr/include/${header}" "/usr/include/*-linux-*/${header}")
  if(NOT found AND NOT CMAKE_CROSSCOMPILING)
    message(FATAL_ERROR "the header ${header} is missing: apt-get install ${package}")
  endif()
endfunction()

require_tool(HOSTREACH_CLANG clang clang clang-20 clang-19 clang-18 clang-17 clang-16 clang-15 clang-14)
require_tool(HOSTREACH_BPFTOOL bpftool bpftool)
require_tool(HOSTREACH_MAKE make make gmake)
if(NOT DEFINED ENV{CC} AND NOT CMAKE_C_COMPILER)
  require_tool(HOSTREACH_CC gcc cc gcc)
endif()
if(NOT DEFINED ENV{CXX} AND NOT CMAKE_CXX_COMPILER)
  require_tool(HOSTREACH_CXX g++ c++ g++)
endif()
require_header(libc6-dev stdio.h)
require_header(linux-libc-dev linux/bpf.h)
require_header(linux-libc-dev asm/types.h)
