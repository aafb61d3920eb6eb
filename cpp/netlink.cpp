// SPDX-License-Identifier: Apache-2.0
#include "netlink.hpp"

#include <linux/netlink.h>
#include <sys/socket.h>

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

} // namespace hr
