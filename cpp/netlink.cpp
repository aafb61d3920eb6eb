// SPDX-License-Identifier: Apache-2.0
#include "netlink.hpp"

#include <linux/netlink.h>
#include <sys/socket.h>

#include <cerrno>

namespace hr {

Fd open_netlink(int protocol) {
    Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    sockaddr_nl kernel = {};
    kernel.nl_family = AF_NETLINK;
    // the kernel then refuses messages of anybody else (netlink_getsockbyportid())
    if (socket && ::connect(socket.get(), reinterpret_cast<sockaddr *>(&kernel), sizeof(kernel)))
        return Fd();
    return socket;
}

ssize_t receive_from_kernel(const Fd &socket, void *buffer, std::size_t size) {
    for (;;) {
        sockaddr_nl from = {};
        socklen_t length = sizeof(from);
        const ssize_t got =
            ::recvfrom(socket.get(), buffer, size, 0, reinterpret_cast<sockaddr *>(&from), &length);
        if (got >= 0 ? from.nl_pid == 0 : errno != EINTR)
            return got;
    }
}

} // namespace hr
