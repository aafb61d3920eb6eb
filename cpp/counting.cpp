// SPDX-License-Identifier: Apache-2.0
#include "counting.hpp"

#include <vector>

#include "iterators.hpp"
#include "shared_array.hpp"

namespace hr {

namespace {

constexpr int kRounds = 8;

} // namespace

void add_count(SharedArray<__u64> &counts, std::size_t id, __u64 more) {
    if (counts.is_mapped())
        __atomic_fetch_add(counts.draft() + id, more, __ATOMIC_ACQ_REL);
    else if (more)
        counts.store(id, counts.load(id) + more);
}

std::optional<__u64> count_sockets(const PinDirectory &pin) {
    IteratorCache iterators;
    Iterators *found = iterators.get(pin);
    if (!found)
        return std::nullopt;
    return found->records(HR_SOCKET_THERE).size();
}

bool recount(const PinDirectory &pin) {
    IteratorCache iterators;
    Iterators *found = iterators.get(pin);
    if (!found)
        return false;
    SharedArray<hr_backend> backends(open_pinned(pin.file("backends")), "backends");
    SharedArray<__u64> active(open_pinned(pin.file("active")), "active");
    auto snapshot = [&] {
        active.refresh(active.size());
        return std::vector<__u64>(active.data(), active.data() + active.size());
    };
    std::vector<bool> settled(active.size());
    // A count that fell while the sockets were gone over is taken again.
    for (int round = 0, unsettled = 1; unsettled && round < kRounds; round++) {
        std::vector<__u64> before = snapshot(), counted(active.size());
        for (const hr_socket &socket : found->records(HR_SOCKET_COUNTED))
            if (socket.counted < counted.size() &&
                backends.load(socket.counted).incarnation == socket.incarnation)
                counted[socket.counted]++;
        std::vector<__u64> after = snapshot();
        unsettled = 0;
        for (std::size_t id = 0; id < counted.size(); id++) {
            if (settled[id])
                continue;
            settled[id] = before[id] == after[id];
            if (settled[id] || round == kRounds - 1)
                add_count(active, id, counted[id] - after[id]);
            else
                unsettled++;
        }
    }
    return true;
}

} // namespace hr
