// SPDX-License-Identifier: Apache-2.0
#include "diag.hpp"

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.hpp"
#include "netlink.hpp"

namespace hr {

namespace {

// As bpf/sockets.bpf.c has it in has_peer().
constexpr __u32 kTcpStates = 1U << TCP_ESTABLISHED | 1U << TCP_SYN_SENT | 1U << TCP_CLOSE_WAIT |
                             1U << TCP_FIN_WAIT1 | 1U << TCP_FIN_WAIT2;
constexpr __u32 kUdpStates = 1U << TCP_ESTABLISHED;

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

bool leads_to(const hr_origin &origin, const DiagSocket &socket) {
    return origin.given_port && origin.given_port == socket.id.idiag_dport &&
           !std::memcmp(origin.given_ip, socket.peer_ip, sizeof(socket.peer_ip));
}

SockDiag::SockDiag() : socket_(open_netlink(NETLINK_SOCK_DIAG)) {
    if (!socket_)
        raise_errno("sockets", "ask the kernel for them", errno);
}

void SockDiag::request(__u16 type, __u16 flags, const inet_diag_req_v2 &about) {
    struct {
        nlmsghdr header;
        inet_diag_req_v2 about;
    } message = {};
    message.header.nlmsg_len = sizeof(message);
    message.header.nlmsg_type = type;
    message.header.nlmsg_flags = static_cast<__u16>(NLM_F_REQUEST | flags);
    message.about = about;
    if (::send(socket_.get(), &message, sizeof(message), 0) < 0)
        raise_errno("sockets", "ask the kernel for them", errno);
}

int SockDiag::receive(const std::function<void(const inet_diag_msg &)> &visit) {
    alignas(nlmsghdr) char buffer[1 << 15];
    for (;;) {
        const ssize_t size = receive_from_kernel(socket_, buffer, sizeof(buffer));
        if (size < 0)
            raise_errno("sockets", "hear of them from the kernel", errno);
        auto left = static_cast<unsigned>(size);
        for (auto *each = reinterpret_cast<nlmsghdr *>(buffer); NLMSG_OK(each, left);
             each = NLMSG_NEXT(each, left)) {
            // both begin with a negative errno, or 0
            if (each->nlmsg_type == NLMSG_ERROR || each->nlmsg_type == NLMSG_DONE)
                return -*static_cast<int *>(NLMSG_DATA(each));
            visit(*static_cast<inet_diag_msg *>(NLMSG_DATA(each)));
        }
    }
}

std::vector<DiagSocket> SockDiag::connected(__u8 protocol) {
    return list(protocol, protocol == IPPROTO_TCP ? kTcpStates : kUdpStates)
        .value_or(std::vector<DiagSocket>());
}

std::optional<std::vector<DiagSocket>> SockDiag::open(__u8 protocol) { return list(protocol, ~0U); }

std::optional<std::vector<DiagSocket>> SockDiag::list(__u8 protocol, __u32 states) {
    std::vector<DiagSocket> found;
    for (__u8 family : {AF_INET, AF_INET6}) {
        inet_diag_req_v2 about = {};
        about.sdiag_family = family;
        about.sdiag_protocol = protocol;
        about.idiag_states = states;
        request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, about);
        int err = receive([&](const inet_diag_msg &told) {
            if (!told.idiag_inode)
                return; // nobody has it open any more
            DiagSocket socket = {told.idiag_family, protocol, told.id, {}, {}};
            to_ip(told.idiag_family, told.id.idiag_dst, socket.peer_ip);
            to_ip(told.idiag_family, told.id.idiag_src, socket.local_ip);
            found.push_back(socket);
        });
        if (err == ENOENT)
            return std::nullopt;
        if (err)
            raise_errno("sockets", "hear of them from the kernel", err);
    }
    return found;
}

int SockDiag::end(const DiagSocket &socket) {
    inet_diag_req_v2 about = {};
    about.sdiag_family = socket.family;
    about.sdiag_protocol = socket.protocol;
    about.idiag_states = ~0U;
    about.id = socket.id;
    request(SOCK_DESTROY, NLM_F_ACK, about);
    return receive([](const inet_diag_msg &) {});
}

bool SockDiag::can_end() {
    auto ignore = [](const inet_diag_msg &) {};
    for (__u8 protocol : {IPPROTO_TCP, IPPROTO_UDP}) {
        inet_diag_req_v2 about = {};
        about.sdiag_family = AF_INET;
        about.sdiag_protocol = protocol;
        request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, about); // all in no state: none
        if (receive(ignore))                             // ENOENT where it has no module for them
            return false;
        request(SOCK_DESTROY, NLM_F_ACK, about); // that with no ports: none either
        if (receive(ignore) != ENOENT)
            return false;
    }
    return true;
}

} // namespace hr
