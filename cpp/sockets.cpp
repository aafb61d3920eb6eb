// SPDX-License-Identifier: Apache-2.0
#include "sockets.hpp"

#include <bpf/bpf.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "diag.hpp"
#include "error.hpp"
#include "features.hpp"
#include "netns.hpp"
#include "open_sockets.hpp"
#include "places.hpp"

namespace hr {

namespace {

// A walk may miss a socket while others come and go (before Linux 6.17), so it
// is repeated for as long as it ends something.
constexpr int kRounds = 8;
// From the connect hook to the peer's address in the socket it is microseconds,
// unless the task is put aside between.
constexpr std::chrono::milliseconds kOnItsWay{20};

// Sockets that are to be ended, or nearly so: by what they remember, and not yet
// by where they are.
struct Candidates {
    std::vector<hr_socket> due; // for sure; only if the iterators told
    std::map<__u64, std::vector<hr_origin>> by_cookie;
    std::map<__u32, __u32> by_netns; // how many are in each
    Namespaces open;                 // those of them that are open already
    std::map<__u64, __u32> placed;   // by a namespace's cookie: how many were found by theirs
    bool on_their_way = false;       // some are not connected, or not yet
};

// Which sockets are to be ended, by how they got to their peer.
class Rule {
  public:
    // Those of backends that are gone; or of these, as if they were.
    Rule(const Tables &tables, const std::set<__u32> *as_if_gone)
        : tables_(tables), as_if_gone_(as_if_gone) {}

    bool is_due(const hr_origin &origin) const {
        if (!origin.given_port || origin.backend >= tables_.backends.size())
            return false;
        const hr_backend backend = tables_.backends.load(origin.backend);
        if (as_if_gone_)
            return as_if_gone_->contains(origin.backend) &&
                   backend.incarnation == origin.incarnation;
        return hr_is_due(&backend, &origin);
    }
    // In the words of iterators, which know backends that are gone themselves.
    bool is_due(const hr_socket &socket) const {
        return as_if_gone_ ? is_due(socket.origin) : socket.flags & HR_SOCKET_DUE;
    }
    __u32 wanted() const {
        return as_if_gone_ ? HR_SOCKET_THERE : HR_SOCKET_DUE | HR_SOCKET_ON_ITS_WAY;
    }

  private:
    const Tables &tables_;
    const std::set<__u32> *as_if_gone_;
};

Candidates ask_iterators(Iterators &iterators, const Rule &rule) {
    Candidates found;
    for (const hr_socket &socket : iterators.records(rule.wanted())) {
        if (!rule.is_due(socket)) {
            found.on_their_way = true;
            continue;
        }
        found.due.push_back(socket);
        if (socket.cookie)
            found.by_cookie[socket.cookie].push_back(socket.origin);
        found.by_netns[socket.netns]++;
    }
    return found;
}

// What end_mptcp() has to know of an MPTCP socket: its own address, and where it went.
std::optional<hr_socket> look_above(const Fd &socket) {
    int protocol = 0;
    socklen_t size = sizeof(protocol);
    sockaddr_storage own = {};
    socklen_t length = sizeof(own);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PROTOCOL, &protocol, &size) ||
        protocol != IPPROTO_MPTCP ||
        ::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&own), &length))
        return std::nullopt;
    hr_socket above = {};
    above.protocol = IPPROTO_MPTCP;
    if (own.ss_family == AF_INET) {
        const auto &v4 = reinterpret_cast<const sockaddr_in &>(own);
        above.local_ip[2] = htonl(0xffff);
        above.local_ip[3] = v4.sin_addr.s_addr;
        above.local_port = v4.sin_port;
    } else {
        const auto &v6 = reinterpret_cast<const sockaddr_in6 &>(own);
        std::memcpy(above.local_ip, &v6.sin6_addr, sizeof(above.local_ip));
        above.local_port = v6.sin6_port;
    }
    return above;
}

// Without iterators: borrow every process's sockets and read what they remember.
// False if this kernel has no way to do so.
bool ask_processes(int connections, const Rule &rule, Candidates *found) {
    return for_each_open_socket([&](const Fd &socket) {
        hr_connection record;
        __u64 cookie;
        socklen_t size = sizeof(cookie);
        int fd = socket.get();
        if (bpf_map_lookup_elem(connections, &fd, &record) ||
            (!rule.is_due(record.latest) && !rule.is_due(record.before)) ||
            ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) ||
            !found->by_cookie.emplace(cookie, std::vector{record.latest, record.before}).second)
            return true;
        Fd ns = namespace_of(socket);
        struct stat about;
        if (ns && !::fstat(ns.get(), &about)) {
            found->by_netns[static_cast<__u32>(about.st_ino)]++;
            if (std::optional<hr_socket> above = look_above(socket)) {
                above->cookie = cookie;
                above->netns = static_cast<__u32>(about.st_ino);
                for (const hr_origin &origin : {record.latest, record.before}) {
                    above->origin = origin;
                    if (rule.is_due(origin))
                        found->due.push_back(*above);
                }
            }
            found->open.emplace(static_cast<std::uint32_t>(about.st_ino), std::move(ns));
        }
        return true;
    });
}

// What is kept by the socket's cookie. Whether it is connected, only its namespace tells.
void ask_places(const Places &places, const Rule &rule, Candidates *found) {
    auto is_due = [&](const hr_connection &connection) {
        return rule.is_due(connection.latest) || rule.is_due(connection.before);
    };
    for (const HeldPlace &each : places.held(is_due)) {
        found->by_cookie[each.cookie] = {each.connection.latest, each.connection.before};
        found->placed[each.netns]++;
        found->on_their_way = true;
    }
}

// What sockets had no room for, or all where the kernel gives them none: these
// are known by their cookies alone, so every namespace has to be searched.
std::vector<SpiltConnection> ask_overflow(const PinDirectory &pin, const Tables &tables,
                                          const Rule &rule) {
    if (!tables.flags.load(HR_OVERFLOW_USED))
        return {};
    // where arrays are not mapped, each question is a system call
    std::map<std::pair<__u32, __u32>, bool> known;
    return spilt_connections(pin, [&](const hr_origin &origin) {
        auto [answer, is_new] = known.try_emplace({origin.backend, origin.incarnation});
        if (is_new)
            answer->second = rule.is_due(origin);
        return answer->second;
    });
}

// How the socket got to its peer; null if by no service. By its cookie or, where it had none when
// it was found, by its address.
const hr_origin *find_origin(const Candidates &found, const DiagSocket &socket, __u32 netns) {
    if (auto known = found.by_cookie.find(socket.cookie()); known != found.by_cookie.end()) {
        auto origin = std::ranges::find_if(
            known->second, [&](const hr_origin &each) { return leads_to(each, socket); });
        return origin == known->second.end() ? nullptr : &*origin;
    }
    for (const hr_socket &each : found.due)
        if (!each.cookie && each.netns == netns && each.protocol == socket.protocol &&
            each.local_port == socket.id.idiag_sport &&
            !std::memcmp(each.local_ip, socket.local_ip, sizeof(each.local_ip)) &&
            leads_to(each.origin, socket))
            return &each.origin;
    return nullptr;
}

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
