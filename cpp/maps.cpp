// SPDX-License-Identifier: Apache-2.0
#include "maps.hpp"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "error.hpp"
#include "features.hpp"

namespace hr {

MapInfo map_info(int fd, const std::string &name) {
    bpf_map_info info = {};
    __u32 size = sizeof(info);
    if (bpf_map_get_info_by_fd(fd, &info, &size))
        raise_errno(name, "read the map's description", errno);
    return {info.type,        info.id,        info.key_size, info.value_size,
            info.max_entries, info.map_flags, info.name};
}

int add_element(int fd, const void *key, const void *value, __u64 flags) {
    constexpr int kTries = 50;
    for (int i = 1;; i++) {
        if (!bpf_map_update_elem(fd, key, value, flags))
            return 0;
        if (errno != ENOMEM || i == kTries)
            return errno;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

void add_to_set(int fd, const void *key, const std::string &name) {
    const __u32 one = 1;
    int err = add_element(fd, key, &one, BPF_ANY);
    if (err == E2BIG)
        throw Error(Kind::table_full, name,
                    "the table has room for " + std::to_string(map_info(fd, name).max_entries) +
                        " of them",
                    E2BIG);
    if (err)
        raise_errno(name, "write to the table", err);
}

void remove_from_set(int fd, const void *key) { bpf_map_delete_elem(fd, key); }

bool next_key(int fd, const void *key, void *next) { return !bpf_map_get_next_key(fd, key, next); }

namespace {

constexpr __u32 kBatch = 4096;

void for_each_singly(int fd, const std::function<void(const hr_key &, __u32)> &visit) {
    for_each_key<hr_key>(fd, [&](const hr_key &key) {
        __u32 index;
        if (!bpf_map_lookup_elem(fd, &key, &index))
            visit(key, index);
    });
}

} // namespace

void for_each_service(int fd, __u32 max_entries,
                      const std::function<void(const hr_key &, __u32)> &visit) {
    if (is_switched_off("batch"))
        return for_each_singly(fd, visit);
    std::vector<hr_key> keys(std::min(kBatch, std::max(max_entries, 64U)));
    std::vector<__u32> values(keys.size());
    __u32 cursor = 0;
    bool first = true, more = true;
    while (more) {
        __u32 count = static_cast<__u32>(keys.size());
        if (bpf_map_lookup_batch(fd, first ? nullptr : &cursor, &cursor, keys.data(), values.data(),
                                 &count, nullptr)) {
            if (errno == ENOSPC) { // one bucket holds more than a batch
                keys.resize(keys.size() * 2);
                values.resize(keys.size());
                continue;
            }
            if (first && errno == EINVAL) // no such command before Linux 5.6
                return for_each_singly(fd, visit);
            if (errno != ENOENT)
                raise_errno("services", "read the table", errno);
            more = false; // the last batch
        }
        for (__u32 i = 0; i < count; i++)
            visit(keys[i], values[i]);
        first = false;
    }
}

} // namespace hr
