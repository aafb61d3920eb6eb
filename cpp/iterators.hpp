// SPDX-License-Identifier: Apache-2.0
// bpf/sockets.bpf.c, loaded for an instance: reads, and ends, what sockets remember.
#pragma once

#include <memory>
#include <vector>

#include "pin.hpp"
#include "socket_record.hpp"

struct sockets; // the skeleton

namespace hr {

class Iterators {
  public:
    // Raises not_found where there are no tables, program_rejected where the kernel
    // has no such iterators or no BTF, or lets nobody load them, permission_denied,
    // kernel_error.
    // `may_end` false: walk() is not wanted, and its programs are not loaded.
    explicit Iterators(const PinDirectory &pin, bool may_end = true);
    ~Iterators();
    Iterators(const Iterators &) = delete;
    Iterators &operator=(const Iterators &) = delete;

    // Whether walk() can be called: the kernel has bpf_sock_destroy.
    bool can_end() const { return can_end_; }

    // Sockets of all network namespaces with one of these flags, not looked at
    // under their locks. Raises kernel_error, as walk() does.
    std::vector<hr_socket> records(__u32 wanted);

    // The sockets of this protocol in the calling thread's network namespace
    // that are to be ended, each decided under its lock; `end` ends them.
    std::vector<hr_socket> walk(__u16 protocol, bool end);

  private:
    bool try_load(const PinDirectory &pin, bool with_end, bool with_cookie);

    ::sockets *skeleton_ = nullptr;
    bool can_end_ = false;
    std::string log_;
    int load_error_ = 0;
};

// Whether such programs load, on tables of their own: what an instance could do.
struct IteratorFeatures {
    bool records; // Iterators() would not raise program_rejected
    bool walk;    // and can_end() would be true
};

// Takes some 25 ms.
IteratorFeatures probe_iterators();

// Loading takes some 25 ms, for the kernel's BTF is large: once will do.
class IteratorCache {
  public:
    explicit IteratorCache(bool may_end = true) : may_end_(may_end) {}

    // Null where the kernel has no such iterators, or its sockets remember nothing;
    // otherwise raises as Iterators().
    Iterators *get(const PinDirectory &pin);
    void drop();

  private:
    bool may_end_;
    std::unique_ptr<Iterators> iterators_;
    __u32 backends_ = 0; // the map's id: tables may have been replaced
};

} // namespace hr
