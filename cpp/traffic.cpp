// SPDX-License-Identifier: Apache-2.0
// What programs have counted.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>

#include "counting.hpp"
#include "error.hpp"
#include "table.hpp"

namespace hr {

std::vector<__u64> Table::active(const hr_key &key) {
    std::vector<__u64> counts;
    if (std::optional<Block> block = get(key))
        for (__u32 id : block->ids)
            // one below zero for a moment, where a count was taken while sockets closed
            counts.push_back(static_cast<__u64>(
                std::max<__s64>(static_cast<__s64>(tables_->active.load(id)), 0)));
    return counts;
}

Traffic Table::traffic_of(__u32 service) {
    Traffic traffic;
    std::vector<__u64> per_cpu(libbpf_num_possible_cpus());
    if (bpf_map_lookup_elem(tables_->translations.get(), &service, per_cpu.data()))
        raise_errno(format_key(record(service).key), "read the counters", errno);
    for (__u64 count : per_cpu)
        traffic.translations += count;
    traffic.refusals = tables_->refusals.load(service);
    return traffic;
}

Traffic Table::traffic(const hr_key &key) {
    std::optional<__u32> service = find(key);
    return service ? traffic_of(*service) : Traffic();
}

Traffic Table::traffic() {
    Traffic all = {tables_->events.load(HR_FORMER_TRANSLATIONS),
                   tables_->events.load(HR_FORMER_REFUSALS)};
    tables_->for_each_service([&](const hr_key &, __u32 service) {
        Traffic one = traffic_of(service);
        all.translations += one.translations;
        all.refusals += one.refusals;
    });
    return all;
}

void Table::keep_traffic(__u32 service) {
    const Traffic former = traffic_of(service);
    add_count(tables_->events, HR_FORMER_TRANSLATIONS, former.translations);
    add_count(tables_->events, HR_FORMER_REFUSALS, former.refusals);
}

std::vector<__u64> Table::events() const {
    std::vector<__u64> events;
    for (std::size_t i = 0; i < HR_FORMER_TRANSLATIONS; i++)
        events.push_back(tables_->events.load(i));
    return events;
}

} // namespace hr
