// SPDX-License-Identifier: Apache-2.0
// Netlink in network namespaces that may be in anybody's hands.
#pragma once

#include "fd.hpp"

namespace hr {

// A socket that hears the kernel alone: who has CAP_NET_ADMIN in a namespace, as whoever made it
// has, may send to every other one there. -1 with an errno.
Fd open_netlink(int protocol);

} // namespace hr
