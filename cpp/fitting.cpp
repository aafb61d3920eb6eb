// SPDX-License-Identifier: Apache-2.0
#include "fitting.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

namespace hr {

namespace {

bool is_cast(const bpf_insn &each) {
    return each.code == (BPF_JMP | BPF_CALL) && each.src_reg == BPF_PSEUDO_KFUNC_CALL;
}

bool calls_helper(const bpf_insn &each) {
    return each.code == (BPF_JMP | BPF_CALL) && each.src_reg == 0;
}

bool is_missing(const bpf_insn &each, const Fitting &fitting) {
    if (calls_helper(each))
        return std::ranges::find(fitting.missing_helpers, each.imm) !=
               fitting.missing_helpers.end();
    if (is_cast(each))
        return !fitting.cast_number;
    return fitting.lacks_exchange && each.code == (BPF_STX | BPF_ATOMIC | BPF_DW) &&
           each.imm == BPF_CMPXCHG;
}

constexpr bpf_insn kNothing = {
    .code = BPF_JMP | BPF_JA, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0};

// There is no other global data: Skeleton::load() looks.
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

// Which byte of the knobs a register points to, where one instruction begins.
using Pointed = std::array<std::optional<size_t>, __MAX_BPF_REG>;

void execute(const std::vector<bpf_insn> &code, size_t at, Pointed *pointed) {
    const bpf_insn &each = code[at];
    switch (BPF_CLASS(each.code)) {
    case BPF_LD:
        (*pointed)[each.dst_reg] = std::nullopt;
        if (loads_knobs_address(each))
            (*pointed)[each.dst_reg] = code[at + 1].imm;
        break;
    case BPF_ALU64:
        (*pointed)[each.dst_reg] = each.code == (BPF_ALU64 | BPF_MOV | BPF_X) && !each.off
                                       ? (*pointed)[each.src_reg]
                                       : std::nullopt;
        break;
    case BPF_ALU:
    case BPF_LDX:
        (*pointed)[each.dst_reg] = std::nullopt;
        break;
    case BPF_STX: // what an atomic operation fetches goes to one of these
        if (BPF_MODE(each.code) == BPF_ATOMIC)
            for (const unsigned reg : {unsigned(each.src_reg), unsigned(each.dst_reg), 0U})
                (*pointed)[reg] = std::nullopt;
        break;
    case BPF_JMP:
        if (BPF_OP(each.code) == BPF_CALL)
            std::fill_n(pointed->begin(), BPF_REG_5 + 1, std::nullopt);
        break;
    }
}

// Where the program may go from there; a call comes back, and its function begins anew.
std::vector<size_t> next(const std::vector<bpf_insn> &code, size_t at) {
    const bpf_insn &each = code[at];
    const bool jumps = BPF_CLASS(each.code) == BPF_JMP || BPF_CLASS(each.code) == BPF_JMP32;
    const __u8 what = BPF_OP(each.code);
    if (jumps && what == BPF_EXIT)
        return {};
    if (jumps && what == BPF_JA)
        return {at + 1 + (BPF_CLASS(each.code) == BPF_JMP32 ? each.imm : each.off)};
    const size_t after = at + (each.code == (BPF_LD | BPF_IMM | BPF_DW) ? 2 : 1);
    if (jumps && what != BPF_CALL)
        return {after, after + each.off};
    return {after};
}

std::vector<size_t> functions(const std::vector<bpf_insn> &code) {
    std::vector<size_t> found = {0};
    for (size_t n = 0; n < code.size(); n++)
        if (code[n].code == (BPF_JMP | BPF_CALL) && code[n].src_reg == BPF_PSEUDO_CALL)
            found.push_back(n + 1 + code[n].imm);
    return found;
}

// What is so on every way to an instruction; nothing where none leads.
std::vector<std::optional<Pointed>> follow(const std::vector<bpf_insn> &code) {
    std::vector<std::optional<Pointed>> known(code.size());
    std::vector<size_t> todo = functions(code);
    for (size_t function : todo)
        known[function] = Pointed();
    while (!todo.empty()) {
        const size_t at = todo.back();
        todo.pop_back();
        Pointed after = *known[at];
        execute(code, at, &after);
        for (size_t to : next(code, at)) {
            if (to >= code.size()) // the kernel refuses it
                continue;
            Pointed both = known[to].value_or(after);
            for (size_t reg = 0; reg < both.size(); reg++)
                if (both[reg] != after[reg])
                    both[reg] = std::nullopt;
            if (known[to] == both)
                continue;
            known[to] = both;
            todo.push_back(to);
        }
    }
    return known;
}

// A knob as a number where it is read: an address less to load and, below Linux 5.5, where
// the verifier does not know what such a map holds, much less for it to walk. The first address
// stays: by it the map is known as the program's, whose knobs are read there (below Linux 5.10
// nothing else makes it so).
bool write_knobs(std::vector<bpf_insn> &code, const hr_knobs &knobs) {
    const auto known = follow(code);
    bool changed = false, first = true;
    for (size_t n = 0; n < code.size(); n++) {
        bpf_insn &each = code[n];
        if (!known[n] || BPF_CLASS(each.code) != BPF_LDX || !(*known[n])[each.src_reg])
            continue;
        const auto value = knob_of(knobs, each, *(*known[n])[each.src_reg] + each.off);
        if (!value)
            continue;
        // nobody else has this address
        if (each.dst_reg == each.src_reg && n >= 2 && loads_knobs_address(code[n - 2]) &&
            code[n - 2].dst_reg == each.dst_reg && !std::exchange(first, false))
            code[n - 2] = code[n - 1] = kNothing;
        each = {.code = BPF_ALU | BPF_MOV | BPF_K,
                .dst_reg = each.dst_reg,
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
        // libbpf put in the old helper where it found no newer one, by a tracing program: these
        // programs may have the newer one all the same, and never the old
        if (calls_helper(each) && each.imm == BPF_FUNC_probe_read) {
            each.imm = BPF_FUNC_probe_read_kernel;
            changed = true;
        }
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
