// SPDX-License-Identifier: Apache-2.0
// What hostreach knows of its host: its network namespace, its addresses, who is exempt.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "address.hpp"

namespace hr {

// The cookie of the network namespace at `path` (/proc/PID/ns/net or a mount
// of one), or of the calling thread's. 0 where the kernel has none to give to
// user space (SO_NETNS_COOKIE, Linux 5.14). Raises invalid_input, kernel_error.
__u64 netns_cookie(const std::optional<std::string> &path);

// Addresses of all interfaces of this namespace, 127.0.0.0/8 and ::1 aside, sorted.
// Raises kernel_error.
std::vector<std::string> local_addresses();

// Makes the set of pinned addresses this one.
void write_addresses(int map_fd, const std::vector<std::string> &addresses);

} // namespace hr
