// SPDX-License-Identifier: Apache-2.0
// Loaded programs, by id and by descriptor.
#pragma once

#include <linux/bpf.h>

#include <string>
#include <vector>

#include "fd.hpp"

namespace hr {

// What makes two loaded programs the same: the kernel's digest of the
// instructions, the maps that they use, and the knobs that were set.
struct Fingerprint {
    __u8 tag[BPF_TAG_SIZE];
    std::vector<__u32> maps; // ids, sorted, without that of the knobs
    std::vector<char> knobs;

    bool operator==(const Fingerprint &other) const = default;
};

// Raises kernel_error.
Fingerprint fingerprint(int program_fd);
// -1 if it is gone.
Fd program_by_id(__u32 id);
// Empty if it is gone.
std::string program_name(__u32 id);
// Raises kernel_error.
__u32 program_id(const Fd &program);

} // namespace hr
