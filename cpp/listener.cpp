// SPDX-License-Identifier: Apache-2.0
#include "listener.hpp"

#include <bpf/bpf.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "error.hpp"
#include "features.hpp"
#include "maps.hpp"

namespace hr {

namespace {

constexpr char kNotHere[] = "this kernel has no ring buffer that programs can fill (Linux 5.8 has)";

__u64 now_ns() {
    timespec now = {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<__u64>(now.tv_sec) * 1'000'000'000ULL + static_cast<__u64>(now.tv_nsec);
}

bool is_gone(const hr_listener &listener) {
    const __u64 seen = observe(listener.seen_ns);
    return !seen || now_ns() > seen + HR_LISTENER_GONE_NS;
}

// A buffer is a power of two of whole pages.
__u32 round_up(__u32 bytes) {
    __u32 size = static_cast<__u32>(::sysconf(_SC_PAGESIZE));
    while (size < bytes)
        size *= 2;
    return size;
}

Fd open_table(const PinDirectory &pin, const char *name) {
    Fd fd = open_pinned(pin.file(name));
    if (!fd) // made by the object for kernels without socket storage
        throw Error(Kind::refused, pin.path(), kNotHere);
    return fd;
}

int keep(void *kept, void *data, size_t size) {
    hr_traced traced = {};
    std::memcpy(&traced, data, std::min(size, sizeof(traced)));
    static_cast<std::vector<hr_traced> *>(kept)->push_back(traced);
    return 0;
}

} // namespace

Listener::Listener(const PinDirectory &pin, const hr_listener &wanted, __u32 bytes)
    : pin_(pin.path()), process_(::getpid()) {
    if (!probe_features().ring_buffer)
        throw Error(Kind::refused, pin.path(), kNotHere);
    listeners_ = open_table(pin, "listeners");
    listening_ = {open_table(pin, "listening"), "listening"};
    flags_ = {open_table(pin, "flags"), "flags"};
    if (!listening_.is_mapped()) // as it is on every kernel with ring buffers
        throw Error(Kind::refused, pin.path(), kNotHere);
    while (place_ < listening_.size() && !is_gone(listening_[place_]))
        place_++;
    if (place_ == listening_.size())
        throw Error(Kind::refused, pin.path(),
                    std::to_string(listening_.size()) + " listen already, and no more can at once");
    map_ = Fd(bpf_map_create(BPF_MAP_TYPE_RINGBUF, "hr_listener", 0, 0, round_up(bytes), nullptr));
    if (!map_)
        raise_errno(pin.path(), "make a ring buffer", errno);
    map_id_ = map_info(map_.get(), "ring buffer").id;
    buffer_.reset(ring_buffer__new(map_.get(), keep, &read_, nullptr));
    if (!buffer_)
        raise_errno(pin.path(), "read the ring buffer", errno);

    // Not before the last one's buffer is out of the way, and all who saw it.
    hr_listener &mine = listening_.draft()[place_];
    publish(mine.seen_ns, __u64{0});
    const __u32 fd = static_cast<__u32>(map_.get());
    if (bpf_map_update_elem(listeners_.get(), &place_, &fd, BPF_ANY))
        raise_errno(pin.path(), "listen", errno);
    mine.lost = 0;
    mine.cgroup = wanted.cgroup;
    mine.cgroup_level = wanted.cgroup_level;
    mine.pid = wanted.pid;
    mine.service = wanted.service;
    mine.silent = wanted.silent;
    show_up();
}

// The kernel keeps no buffer that nobody reads.
Listener::~Listener() {
    __u32 there = 0;
    if (process_ != ::getpid()) // who forked goes on listening
        return;
    if (bpf_map_lookup_elem(listeners_.get(), &place_, &there) || there != map_id_)
        return;
    bpf_map_delete_elem(listeners_.get(), &place_);
    publish(listening_.draft()[place_].seen_ns, __u64{0});
    // One who comes just now raises it again when he reads.
    if (std::all_of(listening_.data(), listening_.data() + listening_.size(), is_gone))
        flags_.store(HR_LISTENED, __u64{0});
}

// The flag comes last: whoever sees it, sees us.
void Listener::show_up() {
    const __u64 now = now_ns();
    publish(listening_.draft()[place_].seen_ns, now);
    flags_.store(HR_LISTENED, now);
}

std::vector<hr_traced> Listener::read(int timeout_ms, std::size_t most) {
    show_up();
    read_.clear();
    int came = ring_buffer__consume_n(buffer_.get(), most);
    if (came == 0) {
        pollfd wait = {ring_buffer__epoll_fd(buffer_.get()), POLLIN, 0};
        if (::poll(&wait, 1, timeout_ms) > 0)
            came = ring_buffer__consume_n(buffer_.get(), most);
    }
    if (came < 0)
        raise_errno(pin_.path(), "read the ring buffer", -came);
    return std::move(read_);
}

__u64 Listener::lost() const { return listening_.load(place_).lost; }

bool Listener::is_heard() const {
    __u32 there = 0;
    Fd pinned = open_pinned(pin_.file("listeners"));
    return pinned &&
           map_info(pinned.get(), "listeners").id == map_info(listeners_.get(), "listeners").id &&
           bpf_map_lookup_elem(listeners_.get(), &place_, &there) == 0 && there == map_id_;
}

} // namespace hr
