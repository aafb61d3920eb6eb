// SPDX-License-Identifier: Apache-2.0
// One who hears of each call that the programs translate or refuse: `trace`.
#pragma once

#include <bpf/libbpf.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "fd.hpp"
#include "layout.hpp"
#include "pin.hpp"
#include "shared_array.hpp"

namespace hr {

// Has one of HR_LISTENERS places: what it wants to hear in `listening`, and a
// ring buffer of its own in `listeners`. Programs send to those who have read of
// late (hr_listener.seen_ns), so one that was killed costs nothing before long,
// and its place is free again.
class Listener {
  public:
    // `wanted` is what hr_listener says of it; `bytes` the buffer's size. The
    // instance must be locked exclusively. Raises refused (the kernel or the
    // attached programs cannot, or all places are taken), not_found.
    Listener(const PinDirectory &pin, const hr_listener &wanted, __u32 bytes);
    ~Listener();
    Listener(const Listener &) = delete;
    Listener &operator=(const Listener &) = delete;

    // What has come, up to `most`; waits up to `timeout_ms` for the first, or until
    // a signal comes.
    std::vector<hr_traced> read(int timeout_ms, std::size_t most);
    // What has found no room.
    __u64 lost() const;
    // False if somebody else has the place, or the tables went: nothing comes any
    // more. After a stop of HR_LISTENER_GONE_NS, say.
    bool is_heard() const;

  private:
    struct Close {
        void operator()(ring_buffer *buffer) const { ring_buffer__free(buffer); }
    };

    void show_up();

    PinDirectory pin_;
    const pid_t process_;
    SharedArray<hr_listener> listening_;
    SharedArray<__u64> flags_;
    Fd listeners_;
    Fd map_;
    __u32 map_id_ = 0;
    __u32 place_ = 0;
    std::unique_ptr<ring_buffer, Close> buffer_;
    std::vector<hr_traced> read_;
};

} // namespace hr
