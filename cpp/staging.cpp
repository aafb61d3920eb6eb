// SPDX-License-Identifier: Apache-2.0
#include "staging.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <string>
#include <utility>

#include "counting.hpp"
#include "error.hpp"
#include "ports.hpp"
#include "skeleton.hpp"

namespace hr {

namespace {

void pin_next(const PinDirectory &pin, const Skeleton &skeleton,
              const std::vector<std::string> &names) {
    if (::mkdir(next_of(pin).path().c_str(), 0700) && errno != EEXIST)
        raise_errno(next_of(pin).path(), "make the directory", errno);
    for (const std::string &name : names)
        pin_object(bpf_map__fd(skeleton.map(name.c_str())), next_of(pin).file(name));
}

void write_meta(const Skeleton &to, const hr_meta &meta) {
    write_element(bpf_map__fd(to.map("meta")), 0, &meta, "meta");
}

// A descriptor of our own.
Fd table_of(const Skeleton &of, const char *name) {
    Fd fd(::fcntl(bpf_map__fd(of.map(name)), F_DUPFD_CLOEXEC, 0));
    if (!fd)
        raise_errno(name, "open the table once more", errno);
    return fd;
}

template <typename T>
void copy_array(const SharedArray<T> &from, const Skeleton &to, const char *name) {
    SharedArray<T> target(table_of(to, name), name);
    for (std::size_t i = 0; i < from.size(); i++)
        target.draft()[i] = from[i];
    target.push(0, from.size());
}

void copy_tables(const Tables &from, const Skeleton &to) {
    copy_array(from.records, to, "records");
    copy_array(from.slots, to, "slots");
    copy_array(from.backends, to, "backends");
    const int services = bpf_map__fd(to.map("services"));
    from.for_each_service([&](const hr_key &key, __u32 index) {
        if (bpf_map_update_elem(services, &key, &index, 0))
            raise_errno("services", "copy the table", errno);
    });
}

// Calls visit(index, counts by processor) for each service.
template <typename Visit>
void for_each_translations(const Tables &tables, Visit visit) {
    std::vector<__u64> counts(static_cast<std::size_t>(libbpf_num_possible_cpus()));
    tables.for_each_service([&](const hr_key &, __u32 index) {
        if (bpf_map_lookup_elem(tables.translations.get(), &index, counts.data()))
            raise_errno("translations", "copy the table", errno);
        visit(index, counts);
    });
}

// Of whatever version it is; what a version does not have is 0.
hr_meta read_older(const PinDirectory &pin) {
    Fd fd = open_pinned(pin.file("meta"));
    hr_meta meta = {};
    if (abi_of(pin, fd) > 1) {
        read_element(fd.get(), 0, &meta, "meta");
        return meta;
    }
    const hr_meta_v1 old = read_v1(pin);
    meta.max_services = old.max_services;
    meta.max_backends = old.max_backends;
    meta.max_slots = old.max_slots;
    meta.generation = old.generation;
    meta.host_netns = old.host_netns;
    meta.services_mark = old.services_mark;
    meta.backends_mark = old.backends_mark;
    meta.slots_mark = old.slots_mark;
    meta.exempt_levels = old.exempt_levels;
    return meta;
}

// Of an older version, whose lines held other ports.
void say_ports(const PinDirectory &pin, const Skeleton &to, __u32 services) {
    SharedArray<hr_line> ports(table_of(to, "ports"), "ports");
    const Fd keys = open_pinned(pin.file("services"));
    for_each_service(keys.get(), services,
                     [&](const hr_key &key, __u32) { set_port(ports, key, true); });
}

// Before version 8 there was a check in its place, which programs did not look at in mapped memory.
void say_firsts(const PinDirectory &pin, __u32 services) {
    SharedArray<hr_record> records(open_pinned(pin.file("records")), "records");
    if (!records.is_mapped())
        return;
    const SharedArray<hr_line> lines(open_pinned(pin.file("slots")), "slots");
    const __u32 *words = lines.data()->word;
    for (__u32 i = 0; i < services; i++) {
        const __u64 set = records[i].set, base = static_cast<__u32>(set);
        const bool is_whole = base + slot_count(set) <= lines.size() * HR_LINE_WORDS;
        records.store(i, &hr_record::first, is_whole ? first_of(set, words + base) : HR_NO_ID);
    }
}

// Before version 8 there were fewer. What programs count until they are replaced is lost.
void copy_events(const PinDirectory &pin, const Skeleton &to) {
    const SharedArray<__u64> from(open_pinned(pin.file("events")), "events");
    SharedArray<__u64> target(table_of(to, "events"), "events");
    for (std::size_t i = 0; i < std::min(from.size(), target.size()); i++)
        target.store(i, from.load(i));
}

} // namespace

PinDirectory next_of(const PinDirectory &pin) { return PinDirectory(pin.file(kNextTables)); }

CopiedCounts::CopiedCounts(const SharedArray<__u64> &from, Fd to, const char *name)
    : from_(from), copied_(from.size()), to_(std::move(to), name) {
    for (std::size_t i = 0; i < copied_.size(); i++)
        if ((copied_[i] = from.load(i)))
            to_.store(i, copied_[i]);
}

void CopiedCounts::settle() {
    for (std::size_t i = 0; i < copied_.size(); i++)
        add_count(to_, i, from_.load(i) - copied_[i]);
}

CopiedTranslations::CopiedTranslations(Tables &from, const Skeleton &to) : from_(from) {
    const int translations = bpf_map__fd(to.map("translations"));
    for_each_translations(from, [&](__u32 index, const std::vector<__u64> &counts) {
        if (bpf_map_update_elem(translations, &index, counts.data(), BPF_ANY))
            raise_errno("translations", "copy the table", errno);
        copied_ = std::accumulate(counts.begin(), counts.end(), copied_);
    });
}

void CopiedTranslations::settle() {
    __u64 by_now = 0;
    for_each_translations(from_, [&](__u32, const std::vector<__u64> &counts) {
        by_now = std::accumulate(counts.begin(), counts.end(), by_now);
    });
    add_count(from_.events, HR_FORMER_TRANSLATIONS, by_now - copied_);
}

void CopiedTraffic::settle() {
    for (CopiedCounts &each : counts)
        each.settle();
    translations->settle();
}

void stage_larger(const PinDirectory &pin, Tables &tables, const Capacities &wanted,
                  CopiedTraffic *traffic) {
    const Features features = probe_features();
    Skeleton skeleton(features);
    skeleton.without_programs();
    size_maps(skeleton, wanted, features);
    lend_tables(pin, skeleton, Lend::fixed_size);
    skeleton.load();
    copy_tables(tables, skeleton);
    traffic->counts.emplace_back(tables.active, table_of(skeleton, "active"), "active");
    traffic->counts.emplace_back(tables.refusals, table_of(skeleton, "refusals"), "refusals");
    traffic->translations.emplace(tables, skeleton);
    hr_meta meta = tables.meta[0];
    meta.max_services = wanted.services;
    meta.max_backends = wanted.backends;
    meta.max_slots = wanted.slots;
    write_meta(skeleton, meta);
    pin_next(
        pin, skeleton,
        {"services", "records", "slots", "backends", "active", "translations", "refusals", "meta"});
}

hr_meta_v1 read_v1(const PinDirectory &pin) {
    Fd fd = open_pinned(pin.file("meta"));
    if (map_info(fd.get(), "meta").value_size != sizeof(hr_meta_v1))
        throw Error(Kind::abi_mismatch, pin.path(),
                    "the tables are of version 1, but not of its size; `detach --purge` and start "
                    "anew");
    hr_meta_v1 old;
    read_element(fd.get(), 0, &old, "meta");
    return old;
}

// Of an older version all other tables have the same layout as now. The networks
// that a node's addresses are in version 1 did not keep: attach says them anew.
void stage_current(const PinDirectory &pin, __u32 version) {
    hr_meta meta = read_older(pin);
    meta.abi = HR_ABI_VERSION;
    meta.hint_mask = hint_mask(meta.services_mark);
    if (version < 7)
        meta.exempt_filter = ~0ULL; // until the next change of what is exempt
    const Features features = probe_features();
    Skeleton skeleton(features);
    skeleton.without_programs();
    size_maps(skeleton, {1, 1, 1}, features); // none of those is made
    lend_tables(pin, skeleton, Lend::all, version);
    skeleton.load();
    write_meta(skeleton, meta);
    if (version < 8) {
        say_firsts(pin, meta.services_mark);
        copy_events(pin, skeleton);
    }
    if (version < 6)
        say_ports(pin, skeleton, meta.max_services);
    // a look too many until all are replaced, rather than one too few; since version 3
    // both raise the same flags
    const __u64 one = 1;
    if (version < 3)
        write_element(bpf_map__fd(skeleton.map("flags")), HR_OVERFLOW_USED, &one, "flags");
    // so, too, those whose connections are in socket storage
    if (version < 4 && skeleton.map("holders") && features.mmap) { // without, none is ever held
        SharedArray<__u64> holders(table_of(skeleton, "holders"), "holders");
        std::fill_n(holders.draft(), holders.size(), HR_CROWDED);
    }
    std::vector<std::string> made = tables_since(version);
    std::erase_if(made, [&](const std::string &name) { return !skeleton.map(name.c_str()); });
    pin_next(pin, skeleton, made);
}

} // namespace hr
