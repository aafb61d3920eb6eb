// SPDX-License-Identifier: Apache-2.0
#include "replacement.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ranges>
#include <vector>

#include "attachment.hpp"
#include "counting.hpp"
#include "datapath.hpp"
#include "error.hpp"
#include "grace.hpp"
#include "layout_v1.hpp"
#include "ports.hpp"
#include "program.hpp"

namespace hr {

namespace {

const char kCommitted[] = "committed"; // a directory in next/: from here on, forward

PinDirectory next_of(const PinDirectory &pin) { return PinDirectory(pin.file(kNextTables)); }

bool is_there(const std::string &path) { return ::access(path.c_str(), F_OK) == 0; }

// ---- staging: tables in next/, which nothing uses yet ----

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

template <typename T>
void copy_array(const SharedArray<T> &from, const Skeleton &to, const char *name) {
    SharedArray<T> target(Fd(::dup(bpf_map__fd(to.map(name)))), name);
    for (std::size_t i = 0; i < from.size(); i++)
        target.draft()[i] = from[i];
    target.push(0, from.size());
}

// Counts that go on while they are copied: once no program uses the old array, it
// differs from what was copied by what is to be added to the new one.
class CopiedCounts {
  public:
    CopiedCounts(const SharedArray<__u64> &from, const Skeleton &to, const char *name)
        : from_(from), copied_(from.size()), to_(Fd(::dup(bpf_map__fd(to.map(name)))), name) {
        for (std::size_t i = 0; i < copied_.size(); i++)
            if ((copied_[i] = from.load(i)))
                to_.store(i, copied_[i]);
    }
    void settle() {
        for (std::size_t i = 0; i < copied_.size(); i++)
            add_count(to_, i, from_.load(i) - copied_[i]);
    }

  private:
    const SharedArray<__u64> &from_;
    std::vector<__u64> copied_;
    SharedArray<__u64> to_;
};

void copy_tables(const Tables &from, const Skeleton &to) {
    copy_array(from.records, to, "records");
    copy_array(from.slots, to, "slots");
    copy_array(from.backends, to, "backends");
    std::vector<__u64> counts(static_cast<std::size_t>(libbpf_num_possible_cpus()));
    const int services = bpf_map__fd(to.map("services"));
    const int translations = bpf_map__fd(to.map("translations"));
    from.for_each_service([&](const hr_key &key, __u32 index) {
        if (bpf_map_update_elem(services, &key, &index, 0))
            raise_errno("services", "copy the table", errno);
        if (bpf_map_lookup_elem(from.translations.get(), &index, counts.data()) ||
            bpf_map_update_elem(translations, &index, counts.data(), BPF_ANY))
            raise_errno("translations", "copy the table", errno);
    });
}

void stage_larger(const PinDirectory &pin, const Tables &tables, const Capacities &wanted,
                  std::vector<CopiedCounts> *counts) {
    const Features features = probe_features();
    Skeleton skeleton(features);
    skeleton.without_programs();
    size_maps(skeleton, wanted, features);
    lend_tables(pin, skeleton, Lend::fixed_size);
    skeleton.load();
    copy_tables(tables, skeleton);
    counts->emplace_back(tables.active, skeleton, "active");
    counts->emplace_back(tables.refusals, skeleton, "refusals");
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
    SharedArray<hr_line> ports(Fd(::dup(bpf_map__fd(to.map("ports")))), "ports");
    const Fd keys = open_pinned(pin.file("services"));
    for_each_service(keys.get(), services,
                     [&](const hr_key &key, __u32) { set_port(ports, key, true); });
}

// Of an older version all other tables have the same layout as now. The networks
// that a node's addresses are in version 1 did not keep: attach says them anew.
void stage_current(const PinDirectory &pin, __u32 version) {
    hr_meta meta = read_older(pin);
    meta.abi = HR_ABI_VERSION;
    const Features features = probe_features();
    Skeleton skeleton(features);
    skeleton.without_programs();
    size_maps(skeleton, {1, 1, 1}, features); // none of those is made
    lend_tables(pin, skeleton, Lend::all, version);
    skeleton.load();
    write_meta(skeleton, meta);
    if (version < 6)
        say_ports(pin, skeleton, meta.max_services);
    // a look too many until all are replaced, rather than one too few; since version 3
    // both raise the same flags
    const __u64 one = 1;
    if (version < 3)
        write_element(bpf_map__fd(skeleton.map("flags")), HR_OVERFLOW_USED, &one, "flags");
    // so, too, those whose connections are in socket storage
    if (version < 4 && skeleton.map("holders") && features.mmap) { // without, none is ever held
        SharedArray<__u64> holders(Fd(::dup(bpf_map__fd(skeleton.map("holders")))), "holders");
        std::fill_n(holders.draft(), holders.size(), HR_CROWDED);
    }
    std::vector<std::string> made = tables_since(version);
    std::erase_if(made, [&](const std::string &name) { return !skeleton.map(name.c_str()); });
    pin_next(pin, skeleton, made);
}

// ---- from the old to the new ----

void discard(const PinDirectory &pin) {
    ::rmdir(next_of(pin).file(kCommitted).c_str());
    next_of(pin).remove(table_names());
}

// The same programs as are attached, on whatever tables lend_tables() finds.
void attach_again(const PinDirectory &pin, const std::string &cgroup_mount) {
    for (const Hook &hook : all_hooks()) {
        std::optional<Attachment> there = find_attachment({pin, cgroup_mount, true}, hook);
        if (!there || !there->cgroup_id)
            continue;
        std::optional<Cgroup> cgroup = Cgroup::by_id(there->cgroup_id, cgroup_mount);
        if (!cgroup && Cgroup::is_gone(there->cgroup_id, cgroup_mount))
            continue;
        if (!cgroup)
            throw Error(Kind::refused, pin.path(),
                        "the cgroup that it is attached to cannot be reached from here, so its "
                        "programs cannot be replaced; mount cgroup v2, and run as root of the "
                        "host");
        attach(pin, *cgroup, datapath_status(pin, cgroup_mount).wanted, cgroup_mount);
        return;
    }
}

// What programs of an older version raised until the last of them went.
void carry_flags(const PinDirectory &pin) {
    Fd flags = open_pinned(next_of(pin).file("flags"));
    if (!flags)
        return;
    SharedArray<__u64> target(std::move(flags), "flags");
    auto raise = [&](std::size_t flag, __u64 value) {
        if (value && !target.load(flag))
            target.store(flag, value);
    };
    if (abi_of(pin, open_pinned(pin.file("meta"))) == 1) {
        const hr_meta_v1 old = read_v1(pin);
        raise(HR_OVERFLOW_USED, old.overflow_used);
        raise(HR_MOVED, old.moved);
        raise(HR_ENDS_DUE, old.ends_due);
        return;
    }
    SharedArray<__u64> old(open_pinned(pin.file("flags")), "flags");
    for (std::size_t flag = 0; flag < std::min(old.size(), target.size()); flag++)
        raise(flag, old.load(flag));
}

// `meta` is moved last: until then it says whose tables they were.
void commit(const PinDirectory &pin) {
    PinDirectory next = next_of(pin);
    if (is_there(next.file("meta")))
        carry_flags(pin);
    if (::mkdir(next.file(kCommitted).c_str(), 0700) && errno != EEXIST)
        raise_errno(next.path(), "commit", errno);
    for (const std::string &name : std::views::reverse(table_names()))
        if (::rename(next.file(name).c_str(), pin.file(name).c_str()) && errno != ENOENT)
            raise_errno(next.file(name), "move the table", errno);
    discard(pin);
}

// Does any program of ours use one of the staged tables? Those that are replaced
// first use few of them.
bool in_use(const PinDirectory &pin, const std::string &cgroup_mount) {
    std::vector<__u32> staged;
    for (const std::string &name : table_names())
        if (Fd table = open_pinned(next_of(pin).file(name)))
            staged.push_back(map_info(table.get(), name).id);
    for (const Hook &hook : all_hooks()) {
        std::optional<Attachment> there = find_attachment({pin, cgroup_mount, true}, hook);
        Fd program = there ? program_by_id(there->program_id) : Fd();
        if (!program)
            continue;
        std::vector<__u32> maps = fingerprint(program.get()).maps;
        if (std::ranges::find_first_of(maps, staged) != maps.end())
            return true;
    }
    return false;
}

// What attach() left to do.
void count_those_uncounted(const PinDirectory &pin) {
    if (!is_uncounted(pin))
        return;
    recount(pin);
    set_uncounted(pin, false);
}

// Back to the tables that are there. Some programs may have used the staged ones for a
// while, so what these counted meanwhile is counted anew.
void go_back(const PinDirectory &pin) {
    set_uncounted(pin, true);
    discard(pin);
    GracePeriod().wait();
    const Fd meta = open_pinned(pin.file("meta"));
    if (meta && abi_of(pin, meta) == HR_ABI_VERSION) // else who brings them up to date does
        count_those_uncounted(pin);
}

void go_over(const PinDirectory &pin, const std::string &cgroup_mount) {
    try {
        attach_again(pin, cgroup_mount); // all or nothing
    } catch (...) {
        try {
            if (!in_use(pin, cgroup_mount)) // else whoever comes next goes forward
                go_back(pin);
        } catch (const std::exception &) {
            // what made us come here is to be told; whoever comes next goes back
        }
        throw;
    }
}

// An older version's growth, which was killed: some of its programs may use the
// larger tables and some the others, which hold the same, but for the counts that they
// had when they were copied. What `attach` brings next are ours. Version 1 staged no `meta`.
void finish_growth(const PinDirectory &pin) {
    set_uncounted(pin, true);
    if (::mkdir(next_of(pin).file(kCommitted).c_str(), 0700) && errno != EEXIST)
        raise_errno(next_of(pin).path(), "commit", errno);
    for (const std::string &name : std::views::reverse(table_names()))
        if (::rename(next_of(pin).file(name).c_str(), pin.file(name).c_str()) && errno != ENOENT)
            raise_errno(next_of(pin).file(name), "move the table", errno);
    Fd meta = open_pinned(pin.file("meta"));
    if (abi_of(pin, meta) == 1) {
        hr_meta_v1 sizes = read_v1(pin);
        sizes.max_services = sizes.next_services;
        sizes.max_backends = sizes.next_backends;
        sizes.max_slots = sizes.next_slots;
        write_element(meta.get(), 0, &sizes, "meta");
    }
    discard(pin);
}

// Was it this version that staged them?
bool is_ours(const PinDirectory &pin) {
    Fd staged = open_pinned(next_of(pin).file("meta"));
    Fd meta = staged ? std::move(staged) : open_pinned(pin.file("meta"));
    return !meta || abi_of(pin, meta) == HR_ABI_VERSION;
}

std::optional<Capacities> larger(const PinDirectory &pin, const Capacities &have,
                                 const Capacities &asked) {
    Capacities wanted = {std::max(have.services, asked.services),
                         std::max(have.backends, asked.backends),
                         std::max(have.slots, asked.slots)};
    auto shrinks = [](__u32 asked, __u32 have) { return asked && asked < have; };
    if (shrinks(asked.services, have.services) || shrinks(asked.backends, have.backends) ||
        shrinks(asked.slots, have.slots))
        throw Error(Kind::refused, pin.path(),
                    "tables grow and do not shrink; they have room for " +
                        std::to_string(have.services) + " services, " +
                        std::to_string(have.backends) + " backends and " +
                        std::to_string(have.slots) + " slots");
    if (wanted.services == have.services && wanted.backends == have.backends &&
        wanted.slots == have.slots)
        return std::nullopt;
    return wanted;
}

} // namespace

bool grow(const PinDirectory &pin, const Capacities &asked, const std::string &cgroup_mount) {
    const Tables tables = Tables::open(pin);
    std::optional<Capacities> wanted = larger(pin, tables.capacities(), asked);
    if (!wanted)
        return false;
    std::vector<CopiedCounts> counts;
    stage_larger(pin, tables, *wanted, &counts);
    go_over(pin, cgroup_mount);
    GracePeriod().wait(); // for programs of before that still run
    for (CopiedCounts &each : counts)
        each.settle();
    commit(pin);
    count_those_uncounted(pin);
    return true;
}

bool migrate(const PinDirectory &pin, const std::string &cgroup_mount) {
    recover_replacement(pin, cgroup_mount);
    Fd meta = open_pinned(pin.file("meta"));
    if (!meta)
        throw Error(Kind::not_found, pin.path(), "no tables here", ENOENT);
    __u32 version = abi_of(pin, meta);
    if (version == HR_ABI_VERSION)
        return false;
    if (version > HR_ABI_VERSION)
        Tables::open(pin); // says what is wrong
    stage_current(pin, version);
    go_over(pin, cgroup_mount);
    GracePeriod().wait(); // flags that programs of before still raise
    commit(pin);
    count_those_uncounted(pin);
    return true;
}

bool recover_replacement(const PinDirectory &pin, const std::string &cgroup_mount) {
    PinDirectory next = next_of(pin);
    if (!is_there(next.path()))
        return false;
    Fd meta = open_pinned(pin.file("meta"));
    if (meta && abi_of(pin, meta) > HR_ABI_VERSION)
        return false; // what a newer hostreach began is not ours to end
    const bool committed = is_there(next.file(kCommitted));
    Fd staged = open_pinned(next.file("meta"));
    if (staged && abi_of(next, staged) > HR_ABI_VERSION && (committed || in_use(pin, cgroup_mount)))
        throw Error(Kind::abi_mismatch, next.path(),
                    "a newer hostreach began to replace the tables, and its programs may use "
                    "these; let that one `attach` again");
    if (!committed && !in_use(pin, cgroup_mount)) {
        go_back(pin);
        return false;
    }
    if (!is_ours(pin)) {
        finish_growth(pin);
        return true;
    }
    if (!committed)
        attach_again(pin, cgroup_mount);
    GracePeriod().wait();
    set_uncounted(pin, true); // what was copied went with the process that was killed
    commit(pin);
    count_those_uncounted(pin);
    return true;
}

void discard_replacement(const PinDirectory &pin) {
    if (is_there(next_of(pin).path()))
        discard(pin);
}

} // namespace hr
