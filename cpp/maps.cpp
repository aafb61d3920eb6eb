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

bool look_up(int fd, const void *key, void *value) { return !bpf_map_lookup_elem(fd, key, value); }

Batches::Batches(int fd, __u32 max_entries, std::size_t key_size, std::size_t value_size,
                 const std::string &name)
    : fd_(fd), key_size_(key_size), value_size_(value_size), name_(name) {
    constexpr __u32 kBatch = 4096;
    resize(std::min(kBatch, std::max(max_entries, 64U)));
}

void Batches::resize(std::size_t elements) {
    elements_ = elements;
    keys_.resize(elements * key_size_);
    values_.resize(elements * value_size_);
}

std::optional<__u32> Batches::next() {
    if (is_switched_off("batch"))
        return std::nullopt;
    while (!is_last_) {
        __u32 count = static_cast<__u32>(elements_);
        if (bpf_map_lookup_batch(fd_, is_first_ ? nullptr : &cursor_, &cursor_, keys_.data(),
                                 values_.data(), &count, nullptr)) {
            if (errno == ENOSPC) { // one bucket holds more than a batch
                resize(elements_ * 2);
                continue;
            }
            if (is_first_ && errno == EINVAL)
                return std::nullopt;
            if (errno != ENOENT)
                raise_errno(name_, "read the table", errno);
            is_last_ = true;
        }
        is_first_ = false;
        if (count)
            return count;
    }
    return 0;
}

void for_each_service(int fd, __u32 max_entries,
                      const std::function<void(const hr_key &, __u32)> &visit) {
    for_each_element<hr_key, __u32>(
        fd, max_entries, "services", [](const hr_key &) { return true; }, visit);
}

} // namespace hr
