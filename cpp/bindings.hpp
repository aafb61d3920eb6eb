// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>

#include "layout.hpp"

namespace hr {

// A frontend: address or "node", port, protocol.
using PyKey = std::tuple<std::string, __u16, std::string>;

// Raises invalid_input.
hr_key to_key(const PyKey &key);

void bind_table(pybind11::module_ &module);
void bind_datapath(pybind11::module_ &module);
void bind_sockets(pybind11::module_ &module);
void bind_trace(pybind11::module_ &module);

} // namespace hr
