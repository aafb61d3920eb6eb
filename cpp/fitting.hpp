// SPDX-License-Identifier: Apache-2.0
// What is changed in a program's instructions before this kernel loads it.
#pragma once

#include <linux/bpf.h>

#include <vector>

#include "layout.hpp"

namespace hr {

struct Fitting {
    // Their calls give 0. An instruction that a verifier does not know it refuses before it
    // looks whether it is ever reached.
    std::vector<int> missing_helpers;
    bool lacks_exchange = false;
    __s32 cast_number = 0; // of bpf_rdonly_cast; 0: it is not to be called
    hr_knobs knobs = {};
};

// True if it changed something.
bool fit(std::vector<bpf_insn> &code, const Fitting &fitting);

} // namespace hr
