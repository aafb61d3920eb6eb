// SPDX-License-Identifier: Apache-2.0
// Arrays shared with the programs by mmap(2), and hashes walked in batches.
#pragma once

#include <cstddef>
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
};

// Raises kernel_error.
MapInfo map_info(int fd, const std::string &name);

// The memory of a mapped array; raises kernel_error.
class Mapping {
  public:
    Mapping() = default;
    Mapping(int fd, std::size_t bytes, const std::string &name);
    Mapping(Mapping &&other) noexcept;
    Mapping &operator=(Mapping &&other) noexcept;
    ~Mapping();

    void *data() const { return data_; }

  private:
    void *data_ = nullptr;
    std::size_t bytes_ = 0;
};

// An mmapable ARRAY of T, whose size must be a multiple of 8.
template <typename T>
class MappedArray {
    static_assert(sizeof(T) % 8 == 0, "the kernel pads elements to 8 bytes");

  public:
    MappedArray() = default;
    MappedArray(Fd fd, const std::string &name) : fd_(std::move(fd)) {
        size_ = map_info(fd_.get(), name).max_entries;
        memory_ = Mapping(fd_.get(), size_ * sizeof(T), name);
    }

    int fd() const { return fd_.get(); }
    std::size_t size() const { return size_; }
    T *data() const { return static_cast<T *>(memory_.data()); }
    T &operator[](std::size_t i) const { return data()[i]; }

  private:
    Fd fd_;
    Mapping memory_;
    std::size_t size_ = 0;
};

// Stores that a program may read at the same moment: one instruction each, and
// nothing written before may appear after.
template <typename T>
void publish(T &where, T value) {
    __atomic_store_n(&where, value, __ATOMIC_RELEASE);
}
template <typename T>
T observe(const T &where) {
    return __atomic_load_n(&where, __ATOMIC_ACQUIRE);
}

// Calls `visit` for each element; elements deleted or added meanwhile may be
// missed. Raises kernel_error.
void for_each_service(int fd, __u32 max_entries,
                      const std::function<void(const hr_key &, __u32 index)> &visit);

} // namespace hr
