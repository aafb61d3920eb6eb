// SPDX-License-Identifier: Apache-2.0
// Which clients the services with source ranges let in.
#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>

#include "error.hpp"
#include "table.hpp"

namespace hr {

std::vector<Client> Table::clients_of(const std::vector<hr_network> &ranges) const {
    std::vector<Client> found;
    std::ranges::copy_if(clients_, std::back_inserter(found), [&](const Client &client) {
        return client.netns && has_address_in(client, ranges);
    });
    return found;
}

std::size_t Table::room_for_clients() const {
    return map_info(tables_->allowed.get(), "allowed clients").max_entries;
}

std::size_t Table::clients_after(const std::vector<ServiceSpec> &to_put) const {
    std::size_t needed = 0;
    std::map<__u32, std::set<__u64>> asked; // of services that are there, by index
    for (const ServiceSpec &spec : to_put) {
        const std::vector<Client> clients = clients_of(parse_ranges(spec.ranges));
        needed += clients.size();
        if (auto at = index_.find(spec.key); at != index_.end())
            for (const Client &client : clients)
                asked[at->second].insert(client.netns);
    }
    if (!needed)
        return 0;
    for_each_key<hr_allowed_key>(tables_->allowed.get(), [&](const hr_allowed_key &key) {
        auto of = asked.find(key.service);
        needed += of == asked.end() || !of->second.contains(key.netns);
    });
    return needed;
}

// Where others' namespaces would have more than their half, they wait for the next look.
void Table::check_room_for_clients(const std::vector<ServiceSpec> &to_put) {
    const std::size_t room = room_for_clients();
    if (clients_after(to_put) <= room / 2)
        return;
    std::erase_if(clients_, [](const Client &client) { return !client.is_ours; });
    const std::size_t needed = clients_after(to_put);
    if (needed > room)
        throw Error(Kind::table_full, pin_.path(),
                    "no room: " + std::to_string(needed) +
                        " clients of services with source ranges, " + std::to_string(room) + " fit",
                    ENOSPC);
}

// Of the clients that the service lets in, these alone.
void Table::keep_clients(__u32 service, const std::vector<Client> &clients) {
    std::vector<hr_allowed_key> stale;
    for_each_key<hr_allowed_key>(tables_->allowed.get(), [&](const hr_allowed_key &key) {
        if (key.service == service && std::ranges::none_of(clients, [&](const Client &client) {
                return client.netns == key.netns;
            }))
            stale.push_back(key);
    });
    for (const hr_allowed_key &key : stale)
        remove_from_set(tables_->allowed.get(), &key);
}

bool Table::admits() {
    bool listed = false;
    tables_->for_each_service([&](const hr_key &, __u32 service) {
        listed = listed || (observe(tables_->records[service].set) & HR_SET_LISTED);
    });
    for_each_key<hr_allowed_key>(tables_->allowed.get(),
                                 [&](const hr_allowed_key &) { listed = true; });
    return listed;
}

void Table::look_for_clients() { clients_ = find_clients(); }

std::size_t Table::admit() {
    bool all = true;
    const std::size_t listed = let_in(&all);
    if (!all)
        throw Error(Kind::table_full, pin_.path(),
                    "too many clients in user namespaces of their own: not all are let into "
                    "services with source ranges",
                    ENOSPC);
    return listed;
}

// Those that are ours first, and others as long as half of the room is left: whoever makes many
// keeps nobody else out.
std::size_t Table::let_in(bool *all) {
    std::vector<std::pair<__u32, std::vector<hr_network>>> listed;
    tables_->for_each_service([&](const hr_key &, __u32 service) {
        if (observe(tables_->records[service].set) & HR_SET_LISTED)
            listed.emplace_back(service, parse_ranges(read(service).spec.ranges));
    });
    std::ranges::stable_partition(clients_, [](const Client &client) { return client.is_ours; });
    std::vector<hr_allowed_key> wanted;
    const std::size_t half = room_for_clients() / 2;
    for (const Client &client : clients_)
        for (const auto &[service, ranges] : listed) {
            if (!client.netns || !has_address_in(client, ranges))
                continue;
            if (client.is_ours || wanted.size() < half)
                wanted.push_back({client.netns, service, 0});
            else
                *all = false;
        }
    replace_set(tables_->allowed.get(), wanted, "allowed clients");
    return listed.size();
}

} // namespace hr
