// SPDX-License-Identifier: Apache-2.0
#include "clients.hpp"

#include <algorithm>
#include <charconv>
#include <optional>

#include "error.hpp"
#include "features.hpp"
#include "host.hpp"
#include "local_addresses.hpp"
#include "netns.hpp"

namespace hr {

bool knows_clients() {
    const Features features = probe_features();
    return features.full() && features.netns_cookie && netns_cookie(std::nullopt);
}

std::vector<Client> find_clients() {
    std::vector<Client> clients;
    const Namespaces namespaces = find_inhabited_namespaces();
    visit_namespaces(namespaces, [&](std::uint32_t inode) {
        try {
            clients.push_back(
                {netns_cookie(std::nullopt), some_addresses(), is_ours(namespaces.at(inode))});
        } catch (const Error &) {
            // one that cannot be asked lets nobody in, and the others go on
        }
    });
    return clients;
}

std::vector<hr_network> parse_ranges(const std::string &text) {
    std::vector<hr_network> ranges;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t comma = std::min(text.find(',', at), text.size());
        const std::string part = text.substr(at, comma - at);
        at = comma + 1;
        std::size_t slash = part.find('/');
        unsigned bits = 0;
        const char *end = part.data() + part.size();
        auto is_number = [&] {
            const auto [at, err] = std::from_chars(part.data() + slash + 1, end, bits);
            return err == std::errc() && at == end;
        };
        if (slash == std::string::npos || !is_number() || bits > 128)
            throw Error(Kind::invalid_input, part, "no network");
        ranges.push_back(parse_network(part.substr(0, slash), bits));
    }
    return ranges;
}

bool has_address_in(const Client &client, const std::vector<hr_network> &ranges) {
    return std::ranges::any_of(client.addresses, [&](const hr_ip &ip) {
        return std::ranges::any_of(ranges,
                                   [&](const hr_network &network) { return lies_in(ip, network); });
    });
}

} // namespace hr
