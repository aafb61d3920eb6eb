// SPDX-License-Identifier: Apache-2.0
// Ending the sockets whose backend is gone.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "iterators.hpp"
#include "overflow.hpp"
#include "socket_record.hpp"
#include "tables.hpp"

namespace hr {

struct EndResult {
    std::vector<hr_socket> sockets; // ended, or that would be
    __u32 namespaces = 0;           // looked into
    __u32 unreachable = 0;          // that could not be
    __u32 left = 0;                 // sockets in those
    std::string method;             // "bpf", "netlink", or "" where this kernel cannot
    std::string problem;            // why not
};

// Ends every socket that a service's connect sent to a backend that is removed
// or down by now, if that backend's service says so: in every network namespace,
// whoever removed the backend and whenever. Never one that is not connected
// there by a service. `dry_run` only finds them. Needs no lock. Raises
// kernel_error.
EndResult end_sockets(const PinDirectory &pin, Tables &tables, IteratorCache &cache,
                      LookedFor &looked_for, bool dry_run);

// Those that would be ended if these backends, by their ids, went and their
// service said so; ends none. Needs no lock. Raises kernel_error.
EndResult find_sockets(const PinDirectory &pin, const Tables &tables, IteratorCache &cache,
                       const std::set<__u32> &backends);

} // namespace hr
