// SPDX-License-Identifier: Apache-2.0
// What hostreach.h said before version 2, as far as it differs. (Version 2 had three
// flags, and none who listen.)
#pragma once

#include <linux/types.h>

namespace hr {

// `meta`. All that programs wrote into it is in `flags` now.
struct hr_meta_v1 {
    __u32 abi; // 1
    __u32 max_services;
    __u32 max_backends;
    __u32 max_slots;
    __u32 next_services; // while tables grew, what they grew to
    __u32 next_backends;
    __u32 next_slots;
    __u32 addresses_given;
    __u64 generation;
    __u32 services_mark;
    __u32 backends_mark;
    __u32 slots_mark;
    __u32 overflow_used;
    __u32 moved;
    __u32 pad;
    __u64 host_netns;
    __u32 exempt_levels;
    __u32 ends_due;
};

static_assert(sizeof(hr_meta_v1) == 80);

} // namespace hr
