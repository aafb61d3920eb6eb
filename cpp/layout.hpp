// SPDX-License-Identifier: Apache-2.0
// The shared layouts as C++ sees them, proven to have no hidden padding.
#pragma once

#include <linux/types.h>

#include <algorithm>
#include <bit>
#include <type_traits>

#include "hostreach.h"
#include "remembered.h"
#include "traced.h"

namespace hr {

static_assert(std::has_unique_object_representations_v<hr_key>);
static_assert(std::has_unique_object_representations_v<hr_record>);
static_assert(std::has_unique_object_representations_v<hr_details>);
static_assert(std::has_unique_object_representations_v<hr_member>);
static_assert(std::has_unique_object_representations_v<hr_backend>);
static_assert(std::has_unique_object_representations_v<hr_line>);
static_assert(std::has_unique_object_representations_v<hr_hints> && sizeof(hr_hints) == 64);
static_assert(std::has_unique_object_representations_v<hr_origin>);
static_assert(std::has_unique_object_representations_v<hr_connection>);
static_assert(std::has_unique_object_representations_v<hr_place> && sizeof(hr_place) == 128);
static_assert(std::has_unique_object_representations_v<hr_datagrams>);
static_assert(std::has_unique_object_representations_v<hr_more_datagrams>);
static_assert(std::has_unique_object_representations_v<hr_overflow_key>);
static_assert(std::has_unique_object_representations_v<hr_allowed_key>);
static_assert(std::has_unique_object_representations_v<hr_affinity_key>);
static_assert(std::has_unique_object_representations_v<hr_affinity>);
static_assert(std::has_unique_object_representations_v<hr_meta>);
static_assert(std::has_unique_object_representations_v<hr_network>);
static_assert(std::has_unique_object_representations_v<hr_knobs>);
static_assert(std::has_unique_object_representations_v<hr_traced>);
static_assert(std::has_unique_object_representations_v<hr_listener>);

static_assert(sizeof(hr_key) == 20 && sizeof(hr_record) == 32 && sizeof(hr_backend) == 32);
// ids have room beside HR_ROW, and indexes in a hint: no capacity is above 2^24
static_assert((1U << 24) + HR_SLOTS_PER_SERVICE < HR_HINT_INDEX && HR_HINT_INDEX < HR_NO_ID);
static_assert(sizeof(hr_details) % sizeof(__u32) == 0 && sizeof(hr_member) % sizeof(__u32) == 0);

// Selection slots of both families.
constexpr __u32 slot_count(__u64 set) {
    return static_cast<__u32>(set >> HR_SET_COUNT_SHIFT & HR_SET_COUNT_MASK) +
           static_cast<__u32>(set >> HR_SET_COUNT6_SHIFT & HR_SET_COUNT_MASK);
}

// hr_record.first of the set, which begins at `slot`.
constexpr __u32 first_of(__u64 set, const __u32 *slot) {
    const __u32 count = slot_count(set);
    if (count == 0)
        return HR_NO_ID;
    for (__u32 i = 1; i < count; i++)
        if (slot[i] != slot[0] + i)
            return slot[0];
    return slot[0] | HR_ROW;
}

// On how many lines so many services' hints are to be, less one: two on each, while there are
// lines, for by chance some have more. Where that changes, each is left elsewhere when the
// service is called next.
constexpr __u32 hint_mask(__u32 services) {
    return std::clamp(std::bit_ceil(services / 2), 8U, __u32{HR_HINT_LINES}) - 1;
}

} // namespace hr
