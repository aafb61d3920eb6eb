// SPDX-License-Identifier: Apache-2.0
#include "maps.hpp"

#include <bpf/bpf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "error.hpp"

namespace hr {

MapInfo map_info(int fd, const std::string &name) {
    bpf_map_info info = {};
    __u32 size = sizeof(info);
    if (bpf_map_get_info_by_fd(fd, &info, &size))
        raise_errno(name, "read the map's description", errno);
    return {info.type, info.id, info.key_size, info.value_size, info.max_entries};
}

Mapping::Mapping(int fd, std::size_t bytes, const std::string &name) : bytes_(bytes) {
    data_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data_ == MAP_FAILED) {
        data_ = nullptr;
        raise_errno(name, "map the table into memory", errno);
    }
}

Mapping::Mapping(Mapping &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

Mapping &Mapping::operator=(Mapping &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Mapping::~Mapping() {
    if (data_)
        ::munmap(data_, bytes_);
}

namespace {

constexpr __u32 kBatch = 4096;

} // namespace

void for_each_service(int fd, __u32 max_entries,
                      const std::function<void(const hr_key &, __u32)> &visit) {
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
