// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

namespace hr {

void bind_table(pybind11::module_ &module);
void bind_datapath(pybind11::module_ &module);
void bind_sockets(pybind11::module_ &module);

} // namespace hr
