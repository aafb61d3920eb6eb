// SPDX-License-Identifier: Apache-2.0
// What is known of a map, and hashes walked in batches.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "fd.hpp"
#include "layout.hpp"

namespace hr {

struct MapInfo {
    __u32 type;
    __u32 id;
    __u32 key_size;
    __u32 value_size;
    __u32 max_entries;
    __u32 flags;
    std::string name; // at most 15 characters
};

// Raises kernel_error.
MapInfo map_info(int fd, const std::string &name);

// Calls `visit` for each element; elements deleted or added meanwhile may be
// missed. Raises kernel_error.
void for_each_service(int fd, __u32 max_entries,
                      const std::function<void(const hr_key &, __u32 index)> &visit);

// The same for a hash of any kind, one system call an element.
template <typename K>
void for_each_key(int fd, const std::function<void(const K &)> &visit);

bool next_key(int fd, const void *key, void *next);

template <typename K>
void for_each_key(int fd, const std::function<void(const K &)> &visit) {
    K key, next;
    for (bool more = next_key(fd, nullptr, &next); more; more = next_key(fd, &key, &next)) {
        key = next;
        visit(key);
    }
}

} // namespace hr
