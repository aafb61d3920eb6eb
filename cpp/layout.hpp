// SPDX-License-Identifier: Apache-2.0
// The shared layouts as C++ sees them, proven to have no hidden padding.
#pragma once

#include <linux/types.h>

#include <type_traits>

#include "hostreach.h"

namespace hr {

static_assert(std::has_unique_object_representations_v<hr_key>);
static_assert(std::has_unique_object_representations_v<hr_record>);
static_assert(std::has_unique_object_representations_v<hr_details>);
static_assert(std::has_unique_object_representations_v<hr_member>);
static_assert(std::has_unique_object_representations_v<hr_backend>);
static_assert(std::has_unique_object_representations_v<hr_line>);
static_assert(std::has_unique_object_representations_v<hr_hint>);
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
static_assert(sizeof(hr_details) % sizeof(__u32) == 0 && sizeof(hr_member) % sizeof(__u32) == 0);

} // namespace hr
