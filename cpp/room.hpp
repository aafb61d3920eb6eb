// SPDX-License-Identifier: Apache-2.0
// How much of an instance's tables services take.
#pragma once

#include <string>

#include "spec.hpp"
#include "tables.hpp"

namespace hr {

struct Used {
    __u64 services = 0;
    __u64 backends = 0;
    __u64 slots = 0;
    __u64 words = 0; // of `slots`, with all that stands beside the selection

    void add(const BlockView &block);
    void add(const ServiceSpec &spec);
    void take(const BlockView &block);
    // Raises table_full, which names `where`, unless it fits.
    void check(const Capacities &room, __u64 words_there, const std::string &where) const;
};

} // namespace hr
