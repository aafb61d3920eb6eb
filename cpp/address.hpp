// SPDX-License-Identifier: Apache-2.0
// Addresses as text and as the tables hold them (IPv4 as ::ffff:a.b.c.d, network byte order).
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "layout.hpp"

namespace hr {

struct Endpoint {
    __u32 ip[4] = {};
    __u16 port = 0; // network byte order

    bool operator==(const Endpoint &other) const {
        return port == other.port && std::memcmp(ip, other.ip, sizeof(ip)) == 0;
    }
};

bool is_v4(const __u32 (&ip)[4]);

// "10.0.0.2" or "fd00::2"; raises invalid_input.
void parse_ip(std::string_view text, __u32 (&ip)[4]);
std::string format_ip(const __u32 (&ip)[4]);

// "10.0.0.2:53" or "[fd00::2]:53"; raises invalid_input.
Endpoint parse_endpoint(std::string_view text);
std::string format_endpoint(const __u32 (&ip)[4], __u16 port);

// Exact ones first, IPv4 before IPv6, then by address, port and protocol.
bool key_less(const hr_key &a, const hr_key &b);
// "10.96.0.10:53/udp" or "node:30080/tcp"
std::string format_key(const hr_key &key);

struct EndpointHash {
    std::size_t operator()(const Endpoint &endpoint) const;
};

struct KeyHash {
    std::size_t operator()(const hr_key &key) const;
};
struct KeyEqual {
    bool operator()(const hr_key &a, const hr_key &b) const {
        return std::memcmp(&a, &b, sizeof(a)) == 0;
    }
};

} // namespace hr
