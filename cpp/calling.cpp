// SPDX-License-Identifier: Apache-2.0
// What the programs would find for one caller, as select.bpf.h and service.bpf.h look for it.
#include <bpf/bpf.h>

#include <algorithm>
#include <cstring>

#include "table.hpp"

namespace hr {

std::vector<hr_ip> Table::node_addresses() const {
    std::vector<hr_ip> addresses;
    for_each_key<hr_ip>(tables_->node_addresses.get(),
                        [&](const hr_ip &address) { addresses.push_back(address); });
    std::ranges::sort(addresses, [](const hr_ip &a, const hr_ip &b) {
        return std::memcmp(a.ip, b.ip, sizeof(a.ip)) < 0;
    });
    return addresses;
}

bool Table::is_admitted(const hr_key &key, __u64 netns) {
    std::optional<__u32> service = find(key);
    if (!service)
        return false;
    if (!(observe(tables_->records[*service].set) & HR_SET_LISTED))
        return true;
    hr_allowed_key client = {netns, *service, 0};
    __u32 value;
    return netns && bpf_map_lookup_elem(tables_->allowed.get(), &client, &value) == 0;
}

std::optional<Sticky> Table::stuck_to(const hr_key &key, __u64 client, bool v4) {
    std::optional<__u32> service = find(key);
    if (!service)
        return std::nullopt;
    hr_affinity_key who = {client, *service, v4};
    hr_affinity known;
    if (bpf_map_lookup_elem(tables_->affinity.get(), &who, &known) ||
        known.backend >= tables_->backends.size())
        return std::nullopt;
    const hr_backend &backend = tables_->backends[known.backend];
    if (backend.service != *service || backend.incarnation != known.incarnation ||
        backend.state == HR_DOWN)
        return std::nullopt;
    Sticky found = {{}, known.used_ns};
    std::copy(std::begin(backend.ip), std::end(backend.ip), found.backend.ip);
    found.backend.port = backend.port;
    return found;
}

} // namespace hr
