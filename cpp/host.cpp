// SPDX-License-Identifier: Apache-2.0
#include "host.hpp"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <set>
#include <thread>

#include "error.hpp"
#include "fd.hpp"
#include "features.hpp"
#include "maps.hpp"

namespace hr {

namespace {

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

__u64 own_cookie() {
    if (is_switched_off("netns_cookie"))
        return 0;
    Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    __u64 cookie = 0;
    socklen_t size = sizeof(cookie);
    if (!socket)
        raise_errno("network namespace", "open a socket", errno);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size))
        return 0;
    return cookie;
}

bool is_loopback(int family, const void *address) {
    if (family == AF_INET)
        return (ntohl(static_cast<const in_addr *>(address)->s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(static_cast<const in6_addr *>(address));
}

} // namespace

__u64 netns_cookie(const std::optional<std::string> &path) {
    if (!path)
        return own_cookie();
    Fd ns(::open(path->c_str(), O_RDONLY | O_CLOEXEC));
    if (!ns && (errno == ENOENT || errno == ENOTDIR))
        throw Error(Kind::invalid_input, *path, "no such network namespace", errno);
    if (!ns)
        raise_errno(*path, "open the network namespace", errno);
    // a thread of its own, so that nobody else is moved
    __u64 cookie = 0;
    int err = 0;
    std::thread([&] {
        if (::setns(ns.get(), CLONE_NEWNET))
            err = errno;
        else
            cookie = own_cookie();
    }).join();
    if (err == EINVAL)
        throw Error(Kind::invalid_input, *path, "no network namespace", err);
    if (err)
        raise_errno(*path, "enter the network namespace", err);
    return cookie;
}

std::vector<std::string> local_addresses() {
    ifaddrs *list = nullptr;
    if (::getifaddrs(&list))
        raise_errno("network", "list the addresses", errno);
    std::unique_ptr<ifaddrs, void (*)(ifaddrs *)> owned(list, ::freeifaddrs);
    std::set<std::string> found;
    for (const ifaddrs *each = list; each; each = each->ifa_next) {
        char text[INET6_ADDRSTRLEN];
        if (!each->ifa_addr)
            continue;
        const void *address = nullptr;
        int family = each->ifa_addr->sa_family;
        if (family == AF_INET)
            address = &reinterpret_cast<const sockaddr_in *>(each->ifa_addr)->sin_addr;
        else if (family == AF_INET6)
            address = &reinterpret_cast<const sockaddr_in6 *>(each->ifa_addr)->sin6_addr;
        // by address, not by interface: routed hosts have addresses on lo
        if (address && !is_loopback(family, address) &&
            ::inet_ntop(family, address, text, sizeof(text)))
            found.insert(text);
    }
    return {found.begin(), found.end()};
}

void write_addresses(int map_fd, const std::vector<std::string> &addresses) {
    auto bytes = [](const hr_ip &ip) {
        return std::string(reinterpret_cast<const char *>(&ip), sizeof(ip));
    };
    std::set<std::string> wanted;
    __u32 one = 1;
    for (const std::string &address : addresses) {
        hr_ip ip;
        parse_ip(address, ip.ip);
        wanted.insert(bytes(ip));
        if (bpf_map_update_elem(map_fd, &ip, &one, BPF_ANY))
            raise_errno(address, "add the node's address", errno);
    }
    std::vector<hr_ip> stale;
    for_each_key<hr_ip>(map_fd, [&](const hr_ip &ip) {
        if (!wanted.count(bytes(ip)))
            stale.push_back(ip);
    });
    for (const hr_ip &ip : stale)
        bpf_map_delete_elem(map_fd, &ip);
}

} // namespace hr
