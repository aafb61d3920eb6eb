// SPDX-License-Identifier: Apache-2.0
// The hooks that hostreach knows, which program goes on each, and where its link is pinned.
#pragma once

#include <bpf/libbpf.h>

#include <span>
#include <string>

#include "datapath.hpp"
#include "features.hpp"
#include "skeleton.hpp"

namespace hr {

struct Hook {
    const char *name;
    bpf_attach_type type;
    bool (*is_wanted)(const Wanted &, const Features &);
    bpf_program *(*program)(const Skeleton &);
};

// In the order of attaching: what ends a socket's count and shows the service's
// address again is there before anything is translated. Detaching goes the
// other way.
std::span<const Hook> all_hooks();

std::string link_path(const PinDirectory &pin, const Hook &hook);
Fd open_link(const PinDirectory &pin, const Hook &hook);

} // namespace hr
