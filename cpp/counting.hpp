// SPDX-License-Identifier: Apache-2.0
// How many sockets are there.
#pragma once

#include <optional>

#include "layout.hpp"
#include "pin.hpp"
#include "shared_array.hpp"

namespace hr {

// To a count that programs add to as well, below zero too; where it is not mapped,
// what one adds at the same moment is lost.
void add_count(SharedArray<__u64> &counts, std::size_t id, __u64 more);

// Sockets that are open and connected to where a service's connect sent them.
// Nothing where the kernel does not tell.
std::optional<__u64> count_sockets(const PinDirectory &pin);

// Counts the open connections of every backend anew. To be called while sockets
// are uncounted when they close, and best while nothing counts new ones. False
// where the kernel does not tell: the counts stay as they are.
bool recount(const PinDirectory &pin);

} // namespace hr
