// SPDX-License-Identifier: Apache-2.0
// Arrays that programs read while we write: by mmap(2) where the kernel maps
// them (Linux 5.5), by a copy of our own and a system call a change elsewhere.
#pragma once

#include <linux/bpf.h>

#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "maps.hpp"

namespace hr {

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

// One element by system call; raise kernel_error.
void read_element(int fd, __u32 index, void *value, const std::string &name);
void write_element(int fd, __u32 index, const void *value, const std::string &name);

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

// An ARRAY of T, whose size must be a multiple of 8. What [] shows is the truth
// where the array is mapped, and otherwise what was last written or refreshed.
template <typename T>
class SharedArray {
    static_assert(sizeof(T) % 8 == 0, "the kernel pads elements to 8 bytes");

  public:
    SharedArray() = default;
    SharedArray(Fd fd, const std::string &name) : fd_(std::move(fd)), name_(name) {
        MapInfo info = map_info(fd_.get(), name);
        size_ = info.max_entries;
        is_mapped_ = info.flags & BPF_F_MMAPABLE;
        if (is_mapped_)
            memory_ = Mapping(fd_.get(), size_ * sizeof(T), name);
        else
            copy_.resize(size_);
    }

    int fd() const { return fd_.get(); }
    std::size_t size() const { return size_; }
    bool is_mapped() const { return is_mapped_; }

    const T *data() const { return const_cast<SharedArray *>(this)->draft(); }
    const T &operator[](std::size_t i) const { return data()[i]; }

    // As it is in the kernel now: for what programs or other processes write.
    T load(std::size_t i) const {
        T value = data()[i];
        if (!is_mapped_)
            read_element(fd(), static_cast<__u32>(i), &value, name_);
        else if constexpr (std::is_integral_v<T>)
            value = observe(data()[i]);
        return value;
    }

    // Memory for what nobody reads yet; push() it, or let a store() of the same
    // element do so.
    T *draft() { return is_mapped_ ? static_cast<T *>(memory_.data()) : copy_.data(); }
    void push(std::size_t first, std::size_t count) {
        for (std::size_t i = first; !is_mapped_ && i < first + count; i++)
            write_element(fd(), static_cast<__u32>(i), &copy_[i], name_);
    }
    // One field, at once.
    template <typename V, typename Struct = T>
    void store(std::size_t i, V Struct::*field, std::type_identity_t<V> value) {
        publish(draft()[i].*field, value);
        push(i, 1);
    }
    void store(std::size_t i, T value) {
        static_assert(std::is_integral_v<T>, "a struct is stored field by field");
        publish(draft()[i], value);
        push(i, 1);
    }
    // False if it is not `expected` any more. Not mapped, this is no more than a
    // look and a store: then the caller holds the lock.
    bool exchange(std::size_t i, T expected, T value) {
        if (is_mapped_)
            return __atomic_compare_exchange_n(draft() + i, &expected, value, false,
                                               __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
        if (load(i) != expected)
            return false;
        store(i, value);
        return true;
    }
    // What others have written since, of the first `count` elements.
    void refresh(std::size_t count) {
        for (std::size_t i = 0; !is_mapped_ && i < count && i < size_; i++)
            read_element(fd(), static_cast<__u32>(i), &copy_[i], name_);
    }

  private:
    Fd fd_;
    std::string name_;
    Mapping memory_;
    std::vector<T> copy_;
    std::size_t size_ = 0;
    bool is_mapped_ = false;
};

} // namespace hr
