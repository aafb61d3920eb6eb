// SPDX-License-Identifier: Apache-2.0
#include "candidates.hpp"

#include <bpf/bpf.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "open_sockets.hpp"

namespace hr {

namespace {

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

} // namespace

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

} // namespace hr
