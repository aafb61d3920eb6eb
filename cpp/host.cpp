// SPDX-License-Identifier: Apache-2.0
#include "host.hpp"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <set>

#include "error.hpp"
#include "fd.hpp"
#include "features.hpp"
#include "maps.hpp"
#include "own_thread.hpp"

namespace hr {

namespace {

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

__u64 own_cookie() {
    if (is_switched_off("netns_cookie") || is_switched_off("host_netns"))
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

namespace {

void inside(const std::string &path, const std::function<void()> &look) {
    Fd ns(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!ns && (errno == ENOENT || errno == ENOTDIR))
        throw Error(Kind::invalid_input, path, "no such network namespace", errno);
    if (!ns)
        raise_errno(path, "open the network namespace", errno);
    int err = 0;
    on_own_thread([&] {
        if (::setns(ns.get(), CLONE_NEWNET))
            err = errno;
        else
            look();
    });
    if (err == EINVAL)
        throw Error(Kind::invalid_input, path, "no network namespace", err);
    if (err)
        raise_errno(path, "enter the network namespace", err);
}

} // namespace

__u64 netns_cookie(const std::optional<std::string> &path) {
    __u64 cookie = 0;
    if (path)
        inside(*path, [&] { cookie = own_cookie(); });
    else
        cookie = own_cookie();
    return cookie;
}

std::vector<std::string> addresses_at(const std::string &path) {
    std::vector<std::string> addresses;
    inside(path, [&] { addresses = local_addresses(); });
    return addresses;
}

std::vector<std::string> local_addresses() {
    ifaddrs *list = nullptr;
    if (::getifaddrs(&list))
        raise_errno("network", "list the addresses", errno);
    std::unique_ptr<ifaddrs, void (*)(ifaddrs *)> owned(list, ::freeifaddrs);
    std::set<std::string> found;
    for (const ifaddrs *each = list; each; each = each->ifa_next) {
        char text[INET6_ADDRSTRLEN];
        if (!each->ifa_addr || std::strcmp(each->ifa_name, "kube-ipvs0") == 0)
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

bool lies_in(const hr_ip &ip, const hr_network &network) {
    for (__u32 word = 0, bits = network.bits; bits; word++) {
        __u32 here = std::min(bits, 32U);
        __u32 mask = htonl(~__u32{0} << (32 - here));
        if ((ip.ip[word] ^ network.ip[word]) & mask)
            return false;
        bits -= here;
    }
    return true;
}

hr_network parse_network(const std::string &address, unsigned bits) {
    hr_network network = {};
    parse_ip(address, network.ip);
    network.bits = bits + (is_v4(network.ip) ? 96 : 0);
    if (network.bits > 128)
        throw Error(Kind::invalid_input, address, "no prefix is so long");
    return network;
}

void write_addresses(int addresses_fd, int networks_fd, const std::vector<std::string> &addresses) {
    const std::vector<hr_network> networks = read_networks(networks_fd);
    std::vector<hr_ip> wanted;
    for (const std::string &address : addresses) {
        hr_ip ip;
        parse_ip(address, ip.ip);
        if (networks.empty() || std::ranges::any_of(networks, [&](const hr_network &network) {
                return lies_in(ip, network);
            }))
            wanted.push_back(ip);
    }
    replace_set(addresses_fd, wanted, "node addresses");
}

void write_networks(int networks_fd, const std::vector<hr_network> &networks) {
    replace_set(networks_fd, networks, "node networks");
}

std::vector<hr_network> read_networks(int networks_fd) {
    std::vector<hr_network> networks;
    for_each_key<hr_network>(networks_fd,
                             [&](const hr_network &network) { networks.push_back(network); });
    return networks;
}

} // namespace hr
