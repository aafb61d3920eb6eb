// SPDX-License-Identifier: Apache-2.0
#include "local_addresses.hpp"

#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "error.hpp"
#include "netlink.hpp"

namespace hr {

namespace {

// As long as the kernel's own: one dump is in as few pieces as can be.
constexpr std::size_t kBuffer = 1 << 15;

[[noreturn]] void fail(int err) { raise_errno("network", "list the addresses", err); }

void request(const Fd &socket) {
    struct {
        nlmsghdr header;
        ifaddrmsg about;
    } message = {};
    message.header.nlmsg_len = sizeof(message);
    message.header.nlmsg_type = RTM_GETADDR;
    message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.about.ifa_family = AF_UNSPEC;
    if (::send(socket.get(), &message, sizeof(message), 0) < 0)
        fail(errno);
}

// Its own address: where there is a peer, IFA_ADDRESS is the peer's.
std::optional<hr_ip> address_in(const nlmsghdr *message) {
    const auto *about = static_cast<const ifaddrmsg *>(NLMSG_DATA(message));
    const std::size_t size = about->ifa_family == AF_INET    ? sizeof(in_addr)
                             : about->ifa_family == AF_INET6 ? sizeof(in6_addr)
                                                             : 0;
    const void *found = nullptr;
    auto left = static_cast<int>(IFA_PAYLOAD(message));
    for (const rtattr *each = IFA_RTA(about); RTA_OK(each, left); each = RTA_NEXT(each, left)) {
        const bool is_local = each->rta_type == IFA_LOCAL;
        if (size && RTA_PAYLOAD(each) == size &&
            (is_local || (each->rta_type == IFA_ADDRESS && !found)))
            found = RTA_DATA(each);
        if (is_local)
            break;
    }
    if (!found)
        return std::nullopt;
    hr_ip ip = {};
    if (size == sizeof(in6_addr)) {
        std::memcpy(ip.ip, found, size);
        if (IN6_IS_ADDR_LOOPBACK(static_cast<const in6_addr *>(found)))
            return std::nullopt;
    } else {
        ip.ip[2] = htonl(0xffff);
        std::memcpy(&ip.ip[3], found, size);
        if (ntohl(ip.ip[3]) >> 24 == IN_LOOPBACKNET)
            return std::nullopt;
    }
    return ip;
}

} // namespace

std::vector<hr_ip> some_addresses(std::size_t most) {
    Fd socket = open_netlink(NETLINK_ROUTE);
    if (!socket)
        fail(errno);
    const unsigned left_out = ::if_nametoindex("kube-ipvs0");
    request(socket);
    std::vector<hr_ip> addresses;
    alignas(nlmsghdr) char buffer[kBuffer];
    for (std::size_t seen = 0; seen < most;) {
        const ssize_t size = receive_from_kernel(socket, buffer, sizeof(buffer));
        if (size < 0)
            fail(errno);
        auto left = static_cast<unsigned>(size);
        for (const auto *each = reinterpret_cast<const nlmsghdr *>(buffer); NLMSG_OK(each, left);
             each = NLMSG_NEXT(each, left)) {
            if (each->nlmsg_type == NLMSG_DONE)
                return addresses;
            if (each->nlmsg_type == NLMSG_ERROR)
                fail(-static_cast<const nlmsgerr *>(NLMSG_DATA(each))->error);
            if (each->nlmsg_type != RTM_NEWADDR)
                continue;
            seen++;
            const auto *about = static_cast<const ifaddrmsg *>(NLMSG_DATA(each));
            if (const auto ip = address_in(each); ip && about->ifa_index != left_out)
                addresses.push_back(*ip);
        }
    }
    return addresses;
}

} // namespace hr
