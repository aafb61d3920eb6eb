// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/types.h>

namespace hr {

// BPF_F_PREORDER of linux/bpf.h, Linux 6.15: programs of a cgroup that run before
// those of its descendants, and so before all others. Older headers lack it.
constexpr __u32 kPreorder = 1U << 6;

} // namespace hr
