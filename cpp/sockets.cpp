// SPDX-License-Identifier: Apache-2.0
#include "sockets.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "candidates.hpp"
#include "features.hpp"

namespace hr {

namespace {

// A walk may miss a socket while others come and go (before Linux 6.17), so it
// is repeated for as long as it ends something.
constexpr int kRounds = 8;
// From the connect hook to the peer's address in the socket it is microseconds,
// unless the task is put aside between.
constexpr std::chrono::milliseconds kOnItsWay{20};

hr_socket describe(const DiagSocket &socket, const hr_origin &origin, __u32 netns) {
    hr_socket told = {};
    told.cookie = socket.cookie();
    told.netns = netns;
    told.protocol = socket.protocol;
    told.flags = HR_SOCKET_THERE | HR_SOCKET_DUE;
    std::copy(std::begin(socket.local_ip), std::end(socket.local_ip), told.local_ip);
    told.local_port = socket.id.idiag_sport;
    told.origin = origin;
    return told;
}

class Ending {
  public:
    Ending(const PinDirectory &pin, const Tables &tables, Iterators *iterators, bool dry_run,
           LookedFor *looked_for = nullptr, const std::set<__u32> *as_if_gone = nullptr)
        : pin_(pin), tables_(tables), rule_(tables, as_if_gone), dry_run_(dry_run),
          looked_for_(looked_for), connections_(open_pinned(pin.file("connections"))), places_(pin),
          iterators_(iterators) {}

    EndResult run() {
        const bool by_bpf = iterators_ && iterators_->can_end();
        result_.method = by_bpf ? "bpf" : "netlink";
        if (!by_bpf && is_switched_off("sock_diag"))
            give_up("this kernel has no way to end sockets");
        if (!result_.method.empty())
            end_overflowed();
        bool waited = false;
        for (int round = 0; round < kRounds && !result_.method.empty(); round++) {
            std::size_t before = result_.sockets.size();
            Candidates found = look();
            if (dry_run_ && iterators_) {
                result_.sockets.insert(result_.sockets.end(), found.due.begin(), found.due.end());
                found = {};
            }
            ask_places(places_, rule_, &found);
            visit(found);
            if (dry_run_)
                break;
            if (result_.sockets.size() > before)
                continue;
            if (waited || !found.on_their_way)
                break;
            std::this_thread::sleep_for(kOnItsWay);
            waited = true;
        }
        result_.namespaces = static_cast<__u32>(visited_.size());
        return std::move(result_);
    }

  private:
    void give_up(const std::string &why) {
        result_.method.clear();
        result_.problem = why;
    }

    // By netlink, for a socket without storage is none that a program would know.
    // Twice, for one may be on its way.
    void end_overflowed() {
        if (is_switched_off("sock_diag"))
            return;
        for (int round = 0; round < 2; round++) {
            const std::vector<SpiltConnection> spilt = ask_overflow(pin_, tables_, rule_);
            if (spilt.empty())
                return;
            Candidates found;
            for (const auto &[key, origin] : spilt)
                found.by_cookie[key.cookie].push_back(origin);
            if (round)
                std::this_thread::sleep_for(kOnItsWay);
            std::set<__u32> closed = visit_namespaces(find_all_namespaces(), [&](__u32 netns) {
                visited_.insert(netns);
                end_by_netlink(found, netns);
            });
            closed_ = static_cast<__u32>(closed.size());
            if (dry_run_)
                return;
            if (round && !closed_ && result_.problem.empty())
                looked_for_->add(pin_, spilt);
        }
    }

    Candidates look() {
        Candidates found;
        if (iterators_)
            found = ask_iterators(*iterators_, rule_);
        else if (!connections_)
            return found;
        else if (is_switched_off("pidfd") || !ask_processes(connections_.get(), rule_, &found))
            give_up("this kernel does not tell which sockets are a service's");
        return found;
    }

    // Only the namespaces that have candidates.
    void visit(Candidates &found) {
        std::set<__u32> wanted;
        for (const auto &[netns, count] : found.by_netns)
            wanted.insert(netns);
        Namespaces searched = iterators_ ? find_namespaces(wanted) : std::move(found.open);
        std::set<__u64> missing;
        for (const auto &[cookie, count] : found.placed)
            missing.insert(cookie);
        Namespaces namespaces = find_namespaces_by_cookie(missing);
        namespaces.merge(searched);
        std::set<__u32> closed = visit_namespaces(namespaces, [&](__u32 netns) {
            visited_.insert(netns);
            if (result_.method == "bpf" && !dry_run_)
                end_by_walking();
            else
                end_by_netlink(found, netns);
            end_mptcp(found, netns);
        });
        result_.unreachable = closed_; // how many sockets are in those, nobody can tell
        result_.left = 0;
        for (const auto &[netns, count] : found.by_netns) {
            if (namespaces.count(netns) && !closed.count(netns))
                continue;
            result_.unreachable++;
            result_.left += count;
        }
        for (const auto &[cookie, count] : found.placed)
            if (cookie && missing.contains(cookie)) {
                result_.unreachable++;
                result_.left += count;
            }
    }

    void end_by_walking() {
        for (__u16 protocol : {IPPROTO_TCP, IPPROTO_UDP})
            for (const hr_socket &socket : iterators_->walk(protocol, true))
                result_.sockets.push_back(socket);
    }

    void end_by_netlink(const Candidates &found, __u32 netns) {
        SockDiag diag;
        for (__u8 protocol : {IPPROTO_TCP, IPPROTO_UDP})
            for (const DiagSocket &socket : diag.connected(protocol)) {
                const hr_origin *origin = find_origin(found, socket, netns);
                if (!origin || !rule_.is_due(*origin))
                    continue;
                int err = dry_run_ ? 0 : diag.end(socket);
                if (!err)
                    result_.sockets.push_back(describe(socket, *origin, netns));
                else if (err != ENOENT)
                    result_.problem =
                        std::string("the kernel ends no sockets: ") + std::strerror(err);
            }
    }

    // The record is the MPTCP socket's, but what can be ended is the TCP socket
    // below it, which has the same two addresses.
    void end_mptcp(const Candidates &found, __u32 netns) {
        auto is_below = [&](const hr_socket &above, const DiagSocket &socket) {
            return above.protocol == IPPROTO_MPTCP && above.netns == netns &&
                   above.local_port == socket.id.idiag_sport &&
                   !std::memcmp(above.local_ip, socket.local_ip, sizeof(above.local_ip)) &&
                   leads_to(above.origin, socket);
        };
        if (std::none_of(found.due.begin(), found.due.end(),
                         [](const hr_socket &socket) { return socket.protocol == IPPROTO_MPTCP; }))
            return;
        SockDiag diag;
        for (const DiagSocket &socket : diag.connected(IPPROTO_TCP))
            for (const hr_socket &above : found.due)
                if (is_below(above, socket) && (dry_run_ || !diag.end(socket)))
                    result_.sockets.push_back(above);
    }

    const PinDirectory &pin_;
    const Tables &tables_;
    const Rule rule_;
    const bool dry_run_;
    LookedFor *const looked_for_; // null for a dry run
    Fd connections_;              // none where sockets remember nothing
    const Places places_;
    Iterators *const iterators_; // null: the kernel has none
    EndResult result_;
    std::set<__u32> visited_;
    __u32 closed_ = 0; // namespaces that could not be searched for overflowed sockets
};

} // namespace

EndResult end_sockets(const PinDirectory &pin, Tables &tables, IteratorCache &cache,
                      LookedFor &looked_for, bool dry_run) {
    const __u64 before = tables.flags.load(HR_ENDS_DUE);
    EndResult result = Ending(pin, tables, cache.get(pin), dry_run, &looked_for).run();
    if (dry_run)
        return result;
    // unless a writer has asked for more meanwhile
    if (tables.flags.is_mapped()) {
        tables.flags.exchange(HR_ENDS_DUE, before, 0);
    } else if (PinDirectory lock(pin.path()); lock.try_lock()) {
        tables.flags.exchange(HR_ENDS_DUE, before, 0);
    }
    return result;
}

EndResult find_sockets(const PinDirectory &pin, const Tables &tables, IteratorCache &cache,
                       const std::set<__u32> &backends) {
    return Ending(pin, tables, cache.get(pin), true, nullptr, &backends).run();
}

} // namespace hr
