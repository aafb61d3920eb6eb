// SPDX-License-Identifier: Apache-2.0
#include "address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>

#include "error.hpp"

namespace hr {

bool is_v4(const __u32 (&ip)[4]) { return !ip[0] && !ip[1] && ip[2] == htonl(0xffff); }

void parse_ip(std::string_view text, __u32 (&ip)[4]) {
    char buffer[INET6_ADDRSTRLEN] = {};
    if (text.size() < sizeof(buffer)) {
        std::memcpy(buffer, text.data(), text.size());
        if (inet_pton(AF_INET, buffer, &ip[3]) == 1) {
            ip[0] = ip[1] = 0;
            ip[2] = htonl(0xffff);
            return;
        }
        if (inet_pton(AF_INET6, buffer, ip) == 1)
            return;
    }
    throw Error(Kind::invalid_input, std::string(text), "not an IP address");
}

std::string format_ip(const __u32 (&ip)[4]) {
    char buffer[INET6_ADDRSTRLEN];
    if (is_v4(ip)) { // inet_ntop() goes by sprintf()
        unsigned char bytes[4];
        std::memcpy(bytes, &ip[3], sizeof(bytes));
        char *at = buffer;
        for (unsigned char byte : bytes) {
            at = std::to_chars(at, std::end(buffer), byte).ptr;
            *at++ = '.';
        }
        return {buffer, at - 1};
    }
    return inet_ntop(AF_INET6, ip, buffer, sizeof(buffer));
}

Endpoint parse_endpoint(std::string_view text) {
    Endpoint endpoint;
    std::size_t colon = text.rfind(':');
    if (colon != std::string_view::npos) {
        std::string_view host = text.substr(0, colon), port = text.substr(colon + 1);
        if (host.size() > 2 && host.front() == '[' && host.back() == ']')
            host = host.substr(1, host.size() - 2);
        __u16 number = 0;
        auto [end, err] = std::from_chars(port.data(), port.data() + port.size(), number);
        if (err == std::errc() && end == port.data() + port.size() && number) {
            parse_ip(host, endpoint.ip);
            endpoint.port = htons(number);
            return endpoint;
        }
    }
    throw Error(Kind::invalid_input, std::string(text), "not ADDRESS:PORT");
}

std::string format_endpoint(const __u32 (&ip)[4], __u16 port) {
    std::string host = format_ip(ip);
    if (!is_v4(ip))
        host = "[" + host + "]";
    return host + ":" + std::to_string(ntohs(port));
}

bool key_less(const hr_key &a, const hr_key &b) {
    if (a.scope != b.scope)
        return a.scope < b.scope;
    if (is_v4(a.ip) != is_v4(b.ip))
        return is_v4(a.ip);
    if (int order = std::memcmp(a.ip, b.ip, sizeof(a.ip)))
        return order < 0;
    if (a.port != b.port)
        return ntohs(a.port) < ntohs(b.port);
    return a.protocol < b.protocol;
}

std::string format_key(const hr_key &key) {
    std::string endpoint = key.scope == HR_NODE ? "node:" + std::to_string(ntohs(key.port))
                                                : format_endpoint(key.ip, key.port);
    return endpoint + (key.protocol == IPPROTO_TCP ? "/tcp" : "/udp");
}

// Multiply and fold (Fibonacci hashing): addresses differ in few low bits.
static std::size_t hash_of(const __u32 (&ip)[4], __u64 rest) {
    __u64 a, b;
    std::memcpy(&a, &ip[0], sizeof(a));
    std::memcpy(&b, &ip[2], sizeof(b));
    __u64 h = (a * 0x9e3779b97f4a7c15ULL) ^ (b * 0xc2b2ae3d27d4eb4fULL) ^ rest;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15ULL;
    return h ^ (h >> 29);
}

std::size_t EndpointHash::operator()(const Endpoint &endpoint) const {
    return hash_of(endpoint.ip, endpoint.port);
}

std::size_t KeyHash::operator()(const hr_key &key) const {
    return hash_of(key.ip, static_cast<__u64>(key.port) << 16 | key.protocol << 8 | key.scope);
}

} // namespace hr
