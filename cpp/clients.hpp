// SPDX-License-Identifier: Apache-2.0
// Who may use a service with source ranges.
#pragma once

#include <string>
#include <vector>

#include "layout.hpp"

namespace hr {

// A network namespace, as programs know it, and where it is.
struct Client {
    __u64 netns; // cookie; 0 where the kernel gives none to user space (before Linux 5.14)
    std::vector<hr_ip> addresses;
    // Whoever made it has rights here, as container runtimes do: any user may make others, and give
    // them any address.
    bool is_ours;
};

// Whether programs and user space both can tell network namespaces apart.
bool knows_clients();

// Of all processes and mounts that can be seen and entered; each once. Raises
// kernel_error.
std::vector<Client> find_clients();

// "10.0.0.0/8,fd00::/8". Raises invalid_input.
std::vector<hr_network> parse_ranges(const std::string &text);

bool has_address_in(const Client &client, const std::vector<hr_network> &ranges);

} // namespace hr
