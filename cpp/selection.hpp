// SPDX-License-Identifier: Apache-2.0
// Which backend stands in which selection slot.
#pragma once

#include <vector>

#include "spec.hpp"

namespace hr {

// Positions in ServiceSpec::backends, one for each slot: those for IPv4
// clients, then those for IPv6 clients.
struct Selection {
    std::vector<__u32> v4;
    std::vector<__u32> v6;

    std::size_t size() const { return v4.size() + v6.size(); }
};

// Only candidates get slots: active backends of weight above 0 or, if there are
// none of the family, draining ones. The weights' rule is told in full, and
// kept a second time for models, in python/hostreach/slots.py; a Maglev table
// gives each candidate turns by its weight (Eisenbud et al., "Maglev: A Fast and
// Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
Selection select(const ServiceSpec &spec);

// How many slots that has; quicker.
std::size_t selection_size(const ServiceSpec &spec);

// Slots of each backend, in the order of spec.backends.
std::vector<__u32> shares(const ServiceSpec &spec);

// How many slots each of these weights gets, none of them 0.
std::vector<__u32> slot_counts(const std::vector<__u16> &weights,
                               __u32 limit = HR_SLOTS_PER_SERVICE);

} // namespace hr
