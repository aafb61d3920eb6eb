// SPDX-License-Identifier: Apache-2.0
// What is known of a map, and hashes walked in batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
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

// Calls `visit` for each element of a hash whose key is wanted; elements deleted or
// added meanwhile may be missed. Raises kernel_error.
template <typename K, typename V>
void for_each_element(int fd, __u32 max_entries, const std::string &name,
                      const std::function<bool(const K &)> &is_wanted,
                      const std::function<void(const K &, const V &)> &visit);

// The same of all `services`.
void for_each_service(int fd, __u32 max_entries,
                      const std::function<void(const hr_key &, __u32 index)> &visit);

// Adds an element to a hash that takes its memory when it needs it, or replaces it.
// Since Linux 6.1 a burst of such may find an allocator empty that is filled a
// moment later (bpf_mem_alloc, by irq_work): it is tried again. 0 or an errno.
int add_element(int fd, const void *key, const void *value, __u64 flags);

// Calls `visit` for each key of a hash, one system call an element.
template <typename K>
void for_each_key(int fd, const std::function<void(const K &)> &visit);

bool next_key(int fd, const void *key, void *next);

// A part of a hash, many elements in one system call.
class Batches {
  public:
    Batches(int fd, __u32 max_entries, std::size_t key_size, std::size_t value_size,
            const std::string &name);
    // The next one's elements, 0 at the end; nothing where the kernel has no such
    // call (before Linux 5.6). Raises kernel_error.
    std::optional<__u32> next();
    const void *key(__u32 i) const { return keys_.data() + i * key_size_; }
    const void *value(__u32 i) const { return values_.data() + i * value_size_; }

  private:
    void resize(std::size_t elements);

    int fd_;
    std::size_t key_size_, value_size_, elements_ = 0;
    std::string name_;
    std::vector<std::byte> keys_, values_;
    __u32 cursor_ = 0;
    bool is_first_ = true, is_last_ = false;
};

bool look_up(int fd, const void *key, void *value);

template <typename K, typename V>
void for_each_element(int fd, __u32 max_entries, const std::string &name,
                      const std::function<bool(const K &)> &is_wanted,
                      const std::function<void(const K &, const V &)> &visit) {
    K key;
    V value;
    Batches batches(fd, max_entries, sizeof(K), sizeof(V), name);
    std::optional<__u32> count;
    while ((count = batches.next()) && *count)
        for (__u32 i = 0; i < *count; i++) {
            std::memcpy(&key, batches.key(i), sizeof(key));
            if (!is_wanted(key))
                continue;
            std::memcpy(&value, batches.value(i), sizeof(value));
            visit(key, value);
        }
    if (!count)
        for_each_key<K>(fd, [&](const K &each) {
            if (is_wanted(each) && look_up(fd, &each, &value))
                visit(each, value);
        });
}

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
