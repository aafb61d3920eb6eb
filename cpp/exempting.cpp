// SPDX-License-Identifier: Apache-2.0
// Cgroups whose tasks see no service.
#include <bpf/bpf.h>

#include <cerrno>

#include "error.hpp"
#include "table.hpp"

namespace hr {

bool Table::exempt(__u64 cgroup_id, __u8 level) {
    if (level >= 32)
        throw Error(Kind::refused, "exemptions", "a cgroup deeper than 31 cannot be exempt");
    __u32 value = level;
    // First: one killed in between leaves a level that is looked at in vain.
    const hr_meta &meta = tables_->meta[0];
    tables_->meta.store(0, &hr_meta::exempt_filter, meta.exempt_filter | hr_exempt_bit(cgroup_id));
    tables_->meta.store(0, &hr_meta::exempt_levels, meta.exempt_levels | 1U << level);
    if (int err = add_element(tables_->exempt.get(), &cgroup_id, &value, BPF_NOEXIST)) {
        if (err == EEXIST)
            return false;
        if (err == E2BIG)
            throw Error(Kind::table_full, "exemptions", "no more cgroups fit", err);
        raise_errno("exemptions", "add a cgroup", err);
    }
    return true;
}

bool Table::unexempt(__u64 cgroup_id) {
    if (bpf_map_delete_elem(tables_->exempt.get(), &cgroup_id)) {
        if (errno == ENOENT)
            return false;
        raise_errno("exemptions", "remove a cgroup", errno);
    }
    write_exempt_levels();
    return true;
}

std::vector<__u64> Table::exempt() const {
    std::vector<__u64> ids;
    for_each_key<__u64>(tables_->exempt.get(), [&](__u64 id) { ids.push_back(id); });
    return ids;
}

// At which depths programs have to look, and for whom.
void Table::write_exempt_levels() {
    __u32 levels = 0;
    __u64 filter = 0;
    for (__u64 id : exempt()) {
        __u32 level;
        if (bpf_map_lookup_elem(tables_->exempt.get(), &id, &level))
            continue;
        levels |= 1U << (level % 32);
        filter |= hr_exempt_bit(id);
    }
    tables_->meta.store(0, &hr_meta::exempt_levels, levels);
    tables_->meta.store(0, &hr_meta::exempt_filter, filter);
}

} // namespace hr
