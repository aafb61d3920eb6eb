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

// Addresses of all interfaces of this namespace, sorted; not 127.0.0.0/8 and ::1,
// nor those of kube-ipvs0, where kube-proxy puts every service's. Raises kernel_error.
std::vector<std::string> local_addresses();
// Those of the network namespace at `path`. Raises invalid_input, too.
std::vector<std::string> addresses_at(const std::string &path);

// A network in text, as "10.0.0.0" and 8. Raises invalid_input.
hr_network parse_network(const std::string &address, unsigned bits);

bool lies_in(const hr_ip &ip, const hr_network &network);

// Makes the set in `addresses_fd` that of these which lie in one of the networks
// in `networks_fd`, or all if that is empty. Raises table_full, kernel_error.
void write_addresses(int addresses_fd, int networks_fd, const std::vector<std::string> &addresses);

// Makes the set in `networks_fd` this one. Raises table_full, kernel_error.
void write_networks(int networks_fd, const std::vector<hr_network> &networks);
std::vector<hr_network> read_networks(int networks_fd);

} // namespace hr
