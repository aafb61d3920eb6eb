// SPDX-License-Identifier: Apache-2.0
// Services as python/hostreach/plain.py describes them: one tuple of plain values each.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "spec.hpp"

namespace hr {

hr_key make_key(const std::string &address, __u16 port, const std::string &protocol);

// Raises TypeError for what is no such tuple, invalid_input for what no service can be.
ServiceSpec from_plain(pybind11::handle service);
std::vector<ServiceSpec> from_plain_list(pybind11::handle services);

pybind11::object to_plain(const Block &block);
// Frontend, name, owner, algorithm and the number of backends.
pybind11::object to_row(const hr_key &key, const BlockView &block);

} // namespace hr
