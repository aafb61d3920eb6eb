// SPDX-License-Identifier: Apache-2.0
// A service as a user describes it, and its block of `slots`.
#pragma once

#include <string>
#include <vector>

#include "address.hpp"

namespace hr {

struct BackendSpec {
    Endpoint endpoint;
    __u16 weight = 1;
    __u8 state = HR_ACTIVE;

    bool operator==(const BackendSpec &) const = default;
};

struct ServiceSpec {
    hr_key key = {};
    std::string name;  // at most 255 bytes
    std::string owner; // at most 255 bytes
    __u8 algorithm = HR_RANDOM;
    std::vector<BackendSpec> backends;
};

// A block read back. `ids` runs beside `spec.backends`.
struct Block {
    ServiceSpec spec;
    std::vector<__u32> ids;
    __u32 base = 0;
    __u32 selection = 0; // slots
    __u32 words = 0;     // the whole block
};

// How many slots each weight gets: exact after division by the greatest common
// divisor if at most `limit` are needed, else the largest remainders of `limit`
// slots with at least one for each weight above 0. The rule is told in full, and
// kept a second time for `svc show`, in python/hostreach/slots.py.
std::vector<__u32> slot_counts(const std::vector<BackendSpec> &backends,
                               __u32 limit = HR_SLOTS_PER_SERVICE);

// How many words encode_block() will give.
__u32 block_words(const ServiceSpec &spec, __u32 selection);

// The block's words; `ids` are the backends' in the order of `spec.backends`.
// `counts` are slot_counts() of them.
std::vector<__u32> encode_block(const ServiceSpec &spec, const std::vector<__u32> &ids,
                                const std::vector<__u32> &counts);

// Reads the block that `record` publishes. Raises kernel_error if the table
// says what no writer wrote.
Block decode_block(const hr_record &record, const __u32 *words, std::size_t size,
                   const hr_backend *backends, std::size_t backend_entries);

} // namespace hr
