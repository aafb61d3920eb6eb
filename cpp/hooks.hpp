// SPDX-License-Identifier: Apache-2.0
// The hooks that hostreach knows, and when a program of ours goes on each.
#pragma once

#include <linux/bpf.h>

#include <span>
#include <string>

#include "features.hpp"

namespace hr {

struct Wanted {
    bool tcp;
    bool udp;
    bool protect_binds; // of the ports that services have on this node's addresses
    bool first;         // before other programs on the same hooks
};

struct Hook {
    const char *name; // as in the section "cgroup/NAME" and the program "hr_NAME"
    bpf_prog_type program_type;
    bpf_attach_type type;
    bool (*is_wanted)(const Wanted &, const Features &);

    std::string program() const { return std::string("hr_") + name; }
};

// In the order of attaching: what ends a socket's count and shows the service's
// address again is there before anything is translated. Detaching goes the
// other way.
std::span<const Hook> all_hooks();

} // namespace hr
