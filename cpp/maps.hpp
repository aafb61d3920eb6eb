// SPDX-License-Identifier: Apache-2.0
// What is known of a map, and hashes walked in batches.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

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

// Adds an element to a hash that takes its memory when it needs it, or replaces it.
// Since Linux 6.1 a burst of such may find an allocator empty that is filled a
// moment later (bpf_mem_alloc, by irq_work): it is tried again. 0 or an errno.
int add_element(int fd, const void *key, const void *value, __u64 flags);

// for_each_service() for a hash of any kind, one system call an element.
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

// Makes the keys of a hash these, all with the value 1. What is there and stays is
// not touched. Raises table_full, kernel_error.
template <typename K>
void replace_set(int fd, const std::vector<K> &wanted, const std::string &name);

void add_to_set(int fd, const void *key, const std::string &name);
void remove_from_set(int fd, const void *key);

template <typename K>
void replace_set(int fd, const std::vector<K> &wanted, const std::string &name) {
    auto bytes = [](const K &key) {
        return std::string(reinterpret_cast<const char *>(&key), sizeof(key));
    };
    std::set<std::string> keep, there;
    for_each_key<K>(fd, [&](const K &key) { there.insert(bytes(key)); });
    for (const K &key : wanted)
        keep.insert(bytes(key));
    auto remove_stale = [&] {
        for (const std::string &key : there)
            if (!keep.count(key))
                remove_from_set(fd, key.data());
    };
    if (keep.size() > there.size()) // it may be full: then room is made first
        remove_stale();
    for (const std::string &key : keep)
        if (!there.count(key))
            add_to_set(fd, key.data(), name);
    remove_stale();
}

} // namespace hr
