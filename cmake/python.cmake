# SPDX-License-Identifier: Apache-2.0
find_package(Python QUIET COMPONENTS Interpreter Development.Module)
if(NOT Python_Development.Module_FOUND)
  message(FATAL_ERROR "the header Python.h is missing: apt-get install python3-dev")
endif()
set(PYBIND11_FINDPYTHON ON)
find_package(pybind11 2.13 CONFIG REQUIRED)
