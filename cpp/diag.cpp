// SPDX-License-Identifier: Apache-2.0
#include "diag.hpp"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.hpp"

namespace hr {

namespace {

// As bpf/sockets.bpf.c has it in has_peer().
constexpr __u32 kTcpStates = 1U << TCP_ESTABLISHED | 1U << TCP_SYN_SENT | 1U << TCP_CLOSE_WAIT |
                             1U << TCP_FIN_WAIT1 | 1U << TCP_FIN_WAIT2;
constexpr __u32 kUdpStates = 1U << TCP_ESTABLISHED;

const void *payload(const rtattr *attribute) {
    return reinterpret_cast<const char *>(attribute) + RTA_LENGTH(0);
}

// The first attribute of this type among `size` bytes of them.
const rtattr *attribute(const void *first, std::size_t size, unsigned type) {
    auto *each = static_cast<const rtattr *>(first);
    int left = static_cast<int>(size);
    for (; RTA_OK(each, left); each = RTA_NEXT(each, left))
        if ((each->rta_type & NLA_TYPE_MASK) == type)
            return each;
    return nullptr;
}

// The record lies three attributes deep; we asked for one map's.
const hr_connection *record_in(const void *first, std::size_t size) {
    const rtattr *outer = attribute(first, size, INET_DIAG_SK_BPF_STORAGES);
    for (unsigned inner : {unsigned{SK_DIAG_BPF_STORAGE}, unsigned{SK_DIAG_BPF_STORAGE_MAP_VALUE}})
        if (outer)
            outer = attribute(payload(outer), RTA_PAYLOAD(outer), inner);
    if (!outer || RTA_PAYLOAD(outer) < sizeof(hr_connection))
        return nullptr;
    return static_cast<const hr_connection *>(payload(outer));
}

void to_ip(__u8 family, const __be32 (&from)[4], __u32 (&to)[4]) {
    if (family == AF_INET6) {
        std::copy(std::begin(from), std::end(from), to);
        return;
    }
    to[0] = to[1] = 0;
    to[2] = htonl(0xffff);
    to[3] = from[0];
}

} // namespace

SockDiag::SockDiag(int connections)
    : socket_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)),
      connections_(connections) {
    if (!socket_)
        raise_errno("sockets", "ask the kernel for them", errno);
}

void SockDiag::request(__u16 type, __u16 flags, const inet_diag_req_v2 &about, int map) {
    struct {
        nlmsghdr header;
        inet_diag_req_v2 about;
        rtattr storages; // which holds
        rtattr storage;
        __u32 map;
    } message = {};
    const bool with_map = flags & NLM_F_DUMP;
    message.header.nlmsg_len = with_map ? sizeof(message) : NLMSG_LENGTH(sizeof(inet_diag_req_v2));
    message.header.nlmsg_type = type;
    message.header.nlmsg_flags = static_cast<__u16>(NLM_F_REQUEST | flags);
    message.about = about;
    message.storages.rta_type = INET_DIAG_REQ_SK_BPF_STORAGES | NLA_F_NESTED;
    message.storages.rta_len = RTA_LENGTH(RTA_LENGTH(sizeof(__u32)));
    message.storage.rta_type = SK_DIAG_BPF_STORAGE_REQ_MAP_FD;
    message.storage.rta_len = RTA_LENGTH(sizeof(__u32));
    message.map = static_cast<__u32>(map);
    if (::send(socket_.get(), &message, message.header.nlmsg_len, 0) < 0)
        raise_errno("sockets", "ask the kernel for them", errno);
}

int SockDiag::receive(const std::function<void(const inet_diag_msg &, std::size_t)> &visit) {
    alignas(nlmsghdr) char buffer[1 << 15];
    for (;;) {
        ssize_t size = ::recv(socket_.get(), buffer, sizeof(buffer), 0);
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            raise_errno("sockets", "hear of them from the kernel", errno);
        auto left = static_cast<unsigned>(size);
        for (auto *each = reinterpret_cast<nlmsghdr *>(buffer); NLMSG_OK(each, left);
             each = NLMSG_NEXT(each, left)) {
            // both begin with a negative errno, or 0
            if (each->nlmsg_type == NLMSG_ERROR || each->nlmsg_type == NLMSG_DONE)
                return -*static_cast<int *>(NLMSG_DATA(each));
            visit(*static_cast<inet_diag_msg *>(NLMSG_DATA(each)),
                  NLMSG_PAYLOAD(each, sizeof(inet_diag_msg)));
        }
    }
}

int SockDiag::dump(__u8 family, __u16 protocol, int map, std::vector<DiagSocket> *found) {
    inet_diag_req_v2 about = {};
    about.sdiag_family = family;
    about.sdiag_protocol = static_cast<__u8>(protocol);
    about.idiag_states = protocol == IPPROTO_TCP ? kTcpStates : kUdpStates;
    request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, about, map);
    return receive([&](const inet_diag_msg &told, std::size_t rest) {
        const hr_connection *record = record_in(&told + 1, rest);
        if (!found || !record || !told.idiag_inode) // nobody has it open any more
            return;
        DiagSocket socket = {told.idiag_family, protocol, told.id, *record, {}, {}};
        to_ip(told.idiag_family, told.id.idiag_dst, socket.peer_ip);
        to_ip(told.idiag_family, told.id.idiag_src, socket.local_ip);
        found->push_back(socket);
    });
}

bool SockDiag::shows_records() {
    // no such map: a kernel that knows the attribute says so, others pass over it
    return dump(AF_INET, IPPROTO_UDP, socket_.get(), nullptr) != 0;
}

std::vector<DiagSocket> SockDiag::connected(__u16 protocol) {
    std::vector<DiagSocket> found;
    for (__u8 family : {AF_INET, AF_INET6})
        if (int err = dump(family, protocol, connections_, &found); err && err != ENOENT)
            raise_errno("sockets", "hear of them from the kernel", err);
    return found;
}

int SockDiag::end(const DiagSocket &socket) {
    inet_diag_req_v2 about = {};
    about.sdiag_family = socket.family;
    about.sdiag_protocol = static_cast<__u8>(socket.protocol);
    about.idiag_states = ~0U;
    about.id = socket.id;
    request(SOCK_DESTROY, NLM_F_ACK, about, -1);
    return receive([](const inet_diag_msg &, std::size_t) {});
}

} // namespace hr
