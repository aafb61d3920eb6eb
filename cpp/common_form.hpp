// SPDX-License-Identifier: Apache-2.0
// Services as files mostly say them, checked here at once: there may be half a million backends.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace hr {

// For each of a decoded document's services its plain values (python/hostreach/plain.py), or None
// where it is not as plain as that: whether it is right, and what is wrong, the models then say.
// So nothing may be taken here that they would refuse or write in another way.
pybind11::list common_form(pybind11::list services, const std::string &owner);

// Keys of all dicts in this value and below, which lists and dicts alone make deeper.
std::size_t count_keys(pybind11::handle value);

} // namespace hr
