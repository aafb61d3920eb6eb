// SPDX-License-Identifier: Apache-2.0
// Netlink in network namespaces that may be in anybody's hands.
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "fd.hpp"

namespace hr {

// A socket that hears the kernel alone: who has CAP_NET_ADMIN in a namespace, as whoever made it
// has, may send to every other one there. -1 with an errno.
Fd open_netlink(int protocol);

// As recv(2), but for what signals interrupt, and without what another may have sent in the moment
// before the socket heard the kernel alone.
ssize_t receive_from_kernel(const Fd &socket, void *buffer, std::size_t size);

} // namespace hr
