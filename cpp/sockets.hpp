// SPDX-License-Identifier: Apache-2.0
// Ending the sockets whose backend is gone, and counting those that are there.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "iterators.hpp"
#include "socket_record.hpp"
#include "tables.hpp"

namespace hr {

struct EndResult {
    std::vector<hr_socket> sockets; // ended, or that would be
    __u32 namespaces = 0;           // looked into
    __u32 unreachable = 0;          // that could not be
    std::optional<__u32> left;      // sockets in those; unknown by netlink alone
    std::string method;             // "bpf", "netlink", or "" where this kernel cannot
    std::string problem;            // why not
};

// Ends every socket that a service's connect sent to a backend that is removed
// or down by now, if that backend's service says so: in every network namespace,
// whoever removed the backend and whenever. Never one that is not connected
// there by a service. `dry_run` only finds them. Needs no lock. Raises
// kernel_error.
EndResult end_sockets(const PinDirectory &pin, const Tables &tables, IteratorCache &cache,
                      bool dry_run);

// Sockets that are open and connected to where a service's connect sent them.
// Nothing where the kernel does not tell.
std::optional<__u64> count_sockets(const PinDirectory &pin);

// Counts the open connections of every backend anew. To be called while sockets
// are uncounted when they close, but nothing counts new ones. False where the
// kernel does not tell: the counts stay as they are.
bool recount(const PinDirectory &pin);

} // namespace hr
