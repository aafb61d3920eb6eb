// SPDX-License-Identifier: Apache-2.0
#include "fitting.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

namespace hr {

namespace {

bool is_cast(const bpf_insn &each) {
    return each.code == (BPF_JMP | BPF_CALL) && each.src_reg == BPF_PSEUDO_KFUNC_CALL;
}

bool is_missing(const bpf_insn &each, const Fitting &fitting) {
    if (each.code == (BPF_JMP | BPF_CALL) && each.src_reg == 0)
        return std::ranges::find(fitting.missing_helpers, each.imm) !=
               fitting.missing_helpers.end();
    if (is_cast(each))
        return !fitting.cast_number;
    return fitting.lacks_exchange && each.code == (BPF_STX | BPF_ATOMIC | BPF_DW) &&
           each.imm == BPF_CMPXCHG;
}

constexpr bpf_insn kNothing = {
    .code = BPF_JMP | BPF_JA, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0};

// There is no other global data.
bool loads_knobs_address(const bpf_insn &each) {
    return each.code == (BPF_LD | BPF_IMM | BPF_DW) && each.src_reg == BPF_PSEUDO_MAP_VALUE;
}

template <typename T>
std::optional<__u32> read_knob(const hr_knobs &knobs, size_t at) {
    T value;
    if (at + sizeof(value) > sizeof(knobs))
        return std::nullopt;
    std::memcpy(&value, reinterpret_cast<const char *>(&knobs) + at, sizeof(value));
    return value;
}

// Nothing if it is no load of a knob.
std::optional<__u32> knob_of(const hr_knobs &knobs, const bpf_insn &load, size_t at) {
    switch (load.code) {
    case BPF_LDX | BPF_MEM | BPF_B:
        return read_knob<__u8>(knobs, at);
    case BPF_LDX | BPF_MEM | BPF_H:
        return read_knob<__u16>(knobs, at);
    case BPF_LDX | BPF_MEM | BPF_W:
        return read_knob<__u32>(knobs, at);
    }
    return std::nullopt;
}

std::vector<bool> jump_targets(const std::vector<bpf_insn> &code) {
    std::vector<bool> targets(code.size());
    for (size_t n = 0; n < code.size(); n++) {
        const __u8 kind = BPF_CLASS(code[n].code), what = BPF_OP(code[n].code);
        if ((kind == BPF_JMP || kind == BPF_JMP32) && what != BPF_CALL && what != BPF_EXIT)
            targets[n + 1 + code[n].off] = true;
    }
    return targets;
}

// A knob as a number where it is read: an address less to load and, below Linux 5.5, where
// the verifier does not know what such a map holds, much less for it to walk. The first address
// stays: by it the map is known as the program's, whose knobs are read there (below Linux 5.10
// nothing else makes it so).
bool write_knobs(std::vector<bpf_insn> &code, const hr_knobs &knobs) {
    const std::vector<bool> targets = jump_targets(code);
    bool changed = false, first = true;
    for (size_t n = 0; n + 2 < code.size(); n++) {
        bpf_insn &load = code[n + 2];
        if (!loads_knobs_address(code[n]))
            continue;
        const bool is_first = std::exchange(first, false);
        if (load.src_reg != code[n].dst_reg || targets[n + 2])
            continue;
        const auto value = knob_of(knobs, load, code[n + 1].imm + load.off);
        if (!value)
            continue;
        if (load.dst_reg == load.src_reg && !is_first)
            code[n] = code[n + 1] = kNothing;
        load = {.code = BPF_ALU | BPF_MOV | BPF_K,
                .dst_reg = load.dst_reg,
                .src_reg = 0,
                .off = 0,
                .imm = static_cast<__s32>(*value)};
        changed = true;
    }
    return changed;
}

} // namespace

bool fit(std::vector<bpf_insn> &code, const Fitting &fitting) {
    bool changed = write_knobs(code, fitting.knobs);
    for (bpf_insn &each : code) {
        if (is_missing(each, fitting)) {
            each = {}; // r0 = 0
            each.code = BPF_ALU64 | BPF_MOV | BPF_K;
        } else if (is_cast(each)) {
            each.imm = fitting.cast_number;
        } else {
            continue;
        }
        changed = true;
    }
    return changed;
}

} // namespace hr
