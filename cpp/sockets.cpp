// SPDX-License-Identifier: Apache-2.0
#include "sockets.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <set>
#include <thread>

#include "diag.hpp"
#include "error.hpp"
#include "features.hpp"
#include "netns.hpp"

namespace hr {

namespace {

// A walk may miss a socket while others come and go (before Linux 6.17), so it
// is repeated for as long as it ends something.
constexpr int kRounds = 8;
// From the connect hook to the peer's address in the socket it is microseconds,
// unless the task is put aside between.
constexpr std::chrono::milliseconds kOnItsWay{20};

bool leads_to(const hr_origin &origin, const DiagSocket &socket) {
    return origin.given_port && origin.given_port == socket.id.idiag_dport &&
           !std::memcmp(origin.given_ip, socket.peer_ip, sizeof(socket.peer_ip));
}

// The same as look() in bpf/sockets.bpf.c, of a connected socket.
std::optional<hr_socket> due(const DiagSocket &socket, const Tables &tables, __u32 netns) {
    const hr_connection &record = socket.record;
    const hr_origin *origin = leads_to(record.latest, socket)   ? &record.latest
                              : leads_to(record.before, socket) ? &record.before
                                                                : nullptr;
    if (!origin || origin->backend >= tables.backends.size() ||
        !hr_is_due(&tables.backends[origin->backend], origin))
        return std::nullopt;
    hr_socket told = {};
    told.cookie = socket.id.idiag_cookie[0] | __u64{socket.id.idiag_cookie[1]} << 32;
    told.netns = netns;
    told.protocol = socket.protocol;
    told.flags = HR_SOCKET_THERE | HR_SOCKET_DUE;
    std::copy(std::begin(socket.local_ip), std::end(socket.local_ip), told.local_ip);
    told.local_port = socket.id.idiag_sport;
    told.counted = record.counted;
    told.incarnation = record.incarnation;
    told.origin = *origin;
    return told;
}

class Ending {
  public:
    Ending(const PinDirectory &pin, const Tables &tables, Iterators *iterators, bool dry_run)
        : tables_(tables), dry_run_(dry_run), connections_(open_pinned(pin.file("connections"))),
          iterators_(iterators) {}

    EndResult run() {
        if (!iterators_ || !iterators_->can_end()) {
            if (!has_netlink())
                return std::move(result_);
            result_.method = "netlink";
        } else {
            result_.method = "bpf";
        }
        if (iterators_)
            run_where_due();
        else
            run_everywhere();
        result_.namespaces = static_cast<__u32>(visited_.size());
        return std::move(result_);
    }

  private:
    bool has_netlink() {
        if (is_switched_off("sock_diag"))
            result_.problem = "this kernel has no way to end sockets";
        else if (!SockDiag(connections_.get()).shows_records())
            result_.problem = "this kernel does not tell which sockets are a service's";
        return result_.problem.empty();
    }

    // The records say which namespaces are worth a visit.
    void run_where_due() {
        for (int round = 0; round < kRounds; round++) {
            std::vector<hr_socket> due, on_their_way;
            for (const hr_socket &socket :
                 iterators_->records(HR_SOCKET_DUE | HR_SOCKET_ON_ITS_WAY))
                (socket.flags & HR_SOCKET_DUE ? due : on_their_way).push_back(socket);
            if (dry_run_) {
                result_.sockets = due;
                note(due);
                return;
            }
            std::set<__u32> namespaces;
            for (const hr_socket &socket : due)
                namespaces.insert(socket.netns);
            std::size_t before = result_.sockets.size();
            unreachable_ = visit(find_namespaces(namespaces), &namespaces);
            left_ = static_cast<__u32>(std::count_if(due.begin(), due.end(), [&](auto &socket) {
                return unreachable_.count(socket.netns);
            }));
            if (result_.sockets.size() == before) {
                if (waited_ || on_their_way.empty())
                    break;
                std::this_thread::sleep_for(kOnItsWay);
                waited_ = true;
            }
        }
        result_.unreachable = static_cast<__u32>(unreachable_.size());
        result_.left = left_;
    }

    void run_everywhere() {
        Namespaces all = find_all_namespaces();
        result_.unreachable = static_cast<__u32>(visit(all, nullptr).size());
    }

    // Returns those that could not be entered, and those of `wanted` not found.
    std::set<__u32> visit(const Namespaces &namespaces, const std::set<__u32> *wanted) {
        std::set<__u32> closed = visit_namespaces(namespaces, [&](__u32 inode) {
            visited_.insert(inode);
            if (result_.method == "bpf")
                end_by_walking();
            else
                end_by_netlink(inode);
        });
        if (wanted)
            for (__u32 inode : *wanted)
                if (!namespaces.count(inode))
                    closed.insert(inode);
        return closed;
    }

    void end_by_walking() {
        for (__u16 protocol : {IPPROTO_TCP, IPPROTO_UDP})
            for (const hr_socket &socket : iterators_->walk(protocol, true))
                result_.sockets.push_back(socket);
    }

    void end_by_netlink(__u32 inode) {
        SockDiag diag(connections_.get());
        for (__u16 protocol : {IPPROTO_TCP, IPPROTO_UDP})
            for (const DiagSocket &socket : diag.connected(protocol)) {
                std::optional<hr_socket> found = due(socket, tables_, inode);
                if (!found)
                    continue;
                int err = dry_run_ ? 0 : diag.end(socket);
                if (!err)
                    result_.sockets.push_back(*found);
                else if (err != ENOENT)
                    result_.problem =
                        std::string("the kernel ends no sockets: ") + std::strerror(err);
            }
    }

    void note(const std::vector<hr_socket> &sockets) {
        for (const hr_socket &socket : sockets)
            visited_.insert(socket.netns);
    }

    const Tables &tables_;
    const bool dry_run_;
    Fd connections_;
    Iterators *const iterators_; // null: only netlink
    EndResult result_;
    std::set<__u32> visited_, unreachable_;
    __u32 left_ = 0;
    bool waited_ = false;
};

} // namespace

EndResult end_sockets(const PinDirectory &pin, const Tables &tables, IteratorCache &cache,
                      bool dry_run) {
    __u32 &ends_due = tables.meta[0].ends_due;
    __u32 before = observe(ends_due);
    EndResult result = Ending(pin, tables, cache.get(pin), dry_run).run();
    // unless a writer has asked for more meanwhile
    if (!dry_run)
        __atomic_compare_exchange_n(&ends_due, &before, 0U, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE);
    return result;
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
    MappedArray<hr_backend> backends(open_pinned(pin.file("backends")), "backends");
    MappedArray<__u64> active(open_pinned(pin.file("active")), "active");
    auto snapshot = [&] {
        return std::vector<__u64>(active.data(), active.data() + active.size());
    };
    std::vector<bool> settled(active.size());
    // A count that fell while the sockets were gone over is taken again.
    for (int round = 0, unsettled = 1; unsettled && round < kRounds; round++) {
        std::vector<__u64> before = snapshot(), counted(active.size());
        for (const hr_socket &socket : found->records(HR_SOCKET_COUNTED))
            if (socket.counted < counted.size() &&
                backends[socket.counted].incarnation == socket.incarnation)
                counted[socket.counted]++;
        std::vector<__u64> after = snapshot();
        unsettled = 0;
        for (std::size_t id = 0; id < counted.size(); id++) {
            if (settled[id])
                continue;
            settled[id] = before[id] == after[id];
            if (settled[id] || round == kRounds - 1)
                __atomic_fetch_add(&active[id], counted[id] - after[id], __ATOMIC_ACQ_REL);
            else
                unsettled++;
        }
    }
    return true;
}

} // namespace hr
