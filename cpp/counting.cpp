// SPDX-License-Identifier: Apache-2.0
#include "counting.hpp"

#include <bpf/bpf.h>
#include <sys/socket.h>

#include <algorithm>
#include <functional>
#include <set>
#include <vector>

#include "features.hpp"
#include "iterators.hpp"
#include "open_sockets.hpp"
#include "places.hpp"
#include "shared_array.hpp"

namespace hr {

namespace {

// With busy clients many are in vain.
constexpr int kRounds = 100;
constexpr int kAgreeing = 3;

// Calls visit(id, incarnation) for each socket that is counted: by the iterators
// or, without them, by borrowing every process's sockets. False if this kernel
// has neither.
bool for_each_counted(Iterators *iterators, const Fd &connections,
                      const std::function<void(__u32, __u32)> &visit) {
    if (iterators) {
        for (const hr_socket &socket : iterators->records(HR_SOCKET_COUNTED))
            visit(socket.counted, socket.incarnation);
        return true;
    }
    std::set<__u64> seen; // one socket may be open several times
    return connections && !is_switched_off("pidfd") && for_each_open_socket([&](const Fd &socket) {
               hr_connection record;
               __u64 cookie;
               socklen_t size = sizeof(cookie);
               int fd = socket.get();
               if (!bpf_map_lookup_elem(connections.get(), &fd, &record) && record.incarnation &&
                   !::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) &&
                   seen.insert(cookie).second)
                   visit(record.counted, record.incarnation);
               return true;
           });
}

} // namespace

void add_count(SharedArray<__u64> &counts, std::size_t id, __u64 more) {
    if (counts.is_mapped())
        __atomic_fetch_add(counts.draft() + id, more, __ATOMIC_ACQ_REL);
    else if (more)
        counts.store(id, counts.load(id) + more);
}

std::optional<__u64> count_sockets(const PinDirectory &pin) {
    const Places places(pin);
    std::size_t stored = 0;
    if (!places.hold_all()) { // to load the iterators takes longer than all else
        IteratorCache iterators(false);
        Iterators *found = iterators.get(pin);
        if (!found)
            return std::nullopt;
        stored = found->records(HR_SOCKET_THERE).size();
    }
    return stored + count_connected(places.held());
}

bool recount(const PinDirectory &pin) {
    IteratorCache iterators(false);
    Iterators *found = iterators.get(pin);
    const Fd connections = open_pinned(pin.file("connections"));
    SharedArray<hr_backend> backends(open_pinned(pin.file("backends")), "backends");
    SharedArray<__u64> active(open_pinned(pin.file("active")), "active");
    SharedArray<hr_meta> meta(open_pinned(pin.file("meta")), "meta");
    const std::size_t ids = std::min<std::size_t>(meta.load(0).backends_mark, active.size());
    auto snapshot = [&] {
        active.refresh(ids);
        return std::vector<__u64>(active.data(), active.data() + ids);
    };
    Places places(pin);
    SharedArray<__u64> flags(open_pinned(pin.file("flags")), "flags");
    if (places.sweep()) // they may live, uncounted: then no count tells of them
        flags.store(HR_MOVED, 1);
    // What is missing from a count is believed when several looks in a row find the
    // same: beside clients that come and go, one alone sees what is gone by now, or
    // misses what is new, though the count is the same before and after.
    std::vector<int> agreeing(ids);
    std::vector<__u64> missing(ids);
    for (int round = 0, unsettled = 1; unsettled && round < kRounds; round++) {
        std::vector<__u64> before = snapshot(), counted(ids);
        auto count = [&](__u32 id, __u32 incarnation) {
            if (id < counted.size() && backends.load(id).incarnation == incarnation)
                counted[id]++;
        };
        if (!for_each_counted(found, connections, count))
            return false;
        for (const HeldPlace &each : places.held())
            if (each.connection.incarnation)
                count(each.connection.counted, each.connection.incarnation);
        std::vector<__u64> after = snapshot();
        unsettled = 0;
        for (std::size_t id = 0; id < counted.size(); id++) {
            if (agreeing[id] == kAgreeing)
                continue;
            const __u64 now_missing = counted[id] - after[id];
            const bool agrees = before[id] == after[id] && now_missing == missing[id];
            agreeing[id] = agrees ? agreeing[id] + 1 : 0;
            missing[id] = now_missing;
            if (agreeing[id] == kAgreeing || round == kRounds - 1)
                add_count(active, id, now_missing);
            unsettled += agreeing[id] < kAgreeing;
        }
        if (unsettled && round == kRounds - 1) // no count tells for sure where none is open
            flags.store(HR_MOVED, 1);
    }
    return true;
}

} // namespace hr
