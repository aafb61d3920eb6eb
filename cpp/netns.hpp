// SPDX-License-Identifier: Apache-2.0
// Network namespaces: found wherever something holds them, and entered.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>

#include "fd.hpp"

namespace hr {

// By the inode that the kernel numbers them with.
using Namespaces = std::map<std::uint32_t, Fd>;

// Those with these inodes, as far as they can be found and opened. In turn: our
// own, every process's, what is mounted, every thread's, and what is open
// somewhere or has a socket open; no further than needed.
Namespaces find_namespaces(std::set<std::uint32_t> wanted);
// All that can be, which means to look at everything that every process has open.
Namespaces find_all_namespaces();

// Those that processes are in, and what is mounted: all that a client is likely
// to be in, and quickly found.
Namespaces find_inhabited_namespaces();

// Whether it was made in the user namespace that we are in.
bool is_ours(const Fd &ns);

// Calls visit(inode) on a thread that is in each of these. Returns those that
// could not be entered. Rethrows what `visit` throws.
std::set<std::uint32_t> visit_namespaces(const Namespaces &namespaces,
                                         const std::function<void(std::uint32_t)> &visit);

} // namespace hr
