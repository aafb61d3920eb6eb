// SPDX-License-Identifier: Apache-2.0
#include "shared_array.hpp"

#include <bpf/bpf.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "error.hpp"

namespace hr {

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

void read_element(int fd, __u32 index, void *value, const std::string &name) {
    if (bpf_map_lookup_elem(fd, &index, value))
        raise_errno(name, "read the table", errno);
}

void write_element(int fd, __u32 index, const void *value, const std::string &name) {
    if (bpf_map_update_elem(fd, &index, value, BPF_ANY))
        raise_errno(name, "write to the table", errno);
}

} // namespace hr
