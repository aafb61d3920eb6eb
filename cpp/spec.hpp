// SPDX-License-Identifier: Apache-2.0
// A service as a user describes it, and its block of `slots`.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "address.hpp"

namespace hr {

struct BackendSpec {
    Endpoint endpoint;
    __u16 weight = 1;
    __u8 state = HR_ACTIVE;

    bool operator==(const BackendSpec &) const = default;
};

// A cgroup, by the id that it had when the service was written; 0 if there is none now.
struct Subtree {
    std::string path;
    __u64 id = 0;
    __u8 level = 0;

    bool operator==(const Subtree &other) const {
        return path == other.path && (id == other.id || !id || !other.id);
    }
};

struct ServiceSpec {
    hr_key key = {};
    std::string name;  // at most 255 bytes
    std::string owner; // at most 255 bytes
    __u8 algorithm = HR_RANDOM;
    __u8 on_removal = HR_BY_PROTOCOL;
    bool host_only = false;
    __u32 affinity_ms = 0;
    Subtree subtree;    // no path: everywhere
    std::string ranges; // of its clients' addresses, "10.0.0.0/8,fd00::/8"; empty: all
    std::vector<BackendSpec> backends;

    // What becomes of a backend's sockets when it goes. A connected UDP socket would
    // never learn of it; TCP does.
    bool resets_sockets() const;
};

// A block read back. `ids` runs beside `spec.backends`.
struct Block {
    ServiceSpec spec;
    std::vector<__u32> ids;
    __u32 base = 0;
    __u32 selection = 0; // slots
    __u32 words = 0;     // the whole block
};

struct Selection;

// Words of the largest block: slots for both families, members, details, and a
// name, an owner, a path and ranges of the greatest length.
constexpr __u32 kLargestBlock = 2 * HR_SLOTS_PER_SERVICE + 2 * HR_SLOTS_PER_SERVICE + 6 + 2176;

// How many words encode_block() will give.
__u32 block_words(const ServiceSpec &spec, std::size_t selection);

// The block's words; `ids` are the backends' in the order of `spec.backends`.
std::vector<__u32> encode_block(const ServiceSpec &spec, const std::vector<__u32> &ids,
                                const Selection &selection);

// The word that publishes such a block at `base`.
__u64 set_word(const ServiceSpec &spec, __u32 base, const Selection &selection);

// A block where it lies, for those who need not all of it.
struct BlockView {
    __u64 set;
    __u32 base = 0;
    __u32 selection = 0; // slots
    __u32 words = 0;     // the whole block
    hr_details details;
    const __u32 *members = nullptr; // details.members times hr_member
    const char *text = nullptr;     // name, owner, path and ranges, one behind the other

    hr_member member(std::size_t i) const {
        hr_member member;
        std::memcpy(&member, members + i * (sizeof(member) / sizeof(*members)), sizeof(member));
        return member;
    }
    std::string_view name() const { return {text, details.name_length}; }
    std::string_view owner() const { return {name().end(), details.owner_length}; }
    std::string_view path() const { return {owner().end(), details.path_length}; }
    std::string_view ranges() const { return {path().end(), details.ranges_length}; }
    __u8 algorithm() const { return set >> HR_SET_ALGORITHM_SHIFT & HR_SET_ALGORITHM_MASK; }
};

// The block that `record` publishes. Raises kernel_error if the table says what no
// writer wrote.
BlockView view_block(const hr_record &record, const __u32 *words, std::size_t size,
                     std::size_t backend_entries);

// The same, read back.
Block decode_block(const hr_record &record, const __u32 *words, std::size_t size,
                   const hr_backend *backends, std::size_t backend_entries);

// Does the block say what the spec says, all but the key?
bool says_the_same(const ServiceSpec &spec, const BlockView &block, const hr_backend *backends);

} // namespace hr
