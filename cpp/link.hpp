// SPDX-License-Identifier: Apache-2.0
// One pinned bpf_link of ours: which program it holds on which cgroup.
#pragma once

#include <linux/bpf.h>

#include <optional>
#include <string>
#include <vector>

#include "fd.hpp"

namespace hr {

struct LinkInfo {
    __u64 cgroup_id; // 0 once the cgroup was removed
    __u32 program_id;
};

// What makes two loaded programs the same: the kernel's digest of the
// instructions, the maps that they use, and the knobs that were set.
struct Fingerprint {
    __u8 tag[BPF_TAG_SIZE];
    std::vector<__u32> maps; // ids, sorted, without that of the knobs
    std::vector<char> knobs;

    bool operator==(const Fingerprint &other) const = default;
};

// Nothing if there is no such pin; raises kernel_error.
std::optional<LinkInfo> link_info(const Fd &link);
Fingerprint fingerprint(int program_fd);
Fd program_by_id(__u32 id);
std::string program_name(__u32 id);

} // namespace hr
