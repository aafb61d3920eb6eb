// SPDX-License-Identifier: Apache-2.0
#include "growth.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cgroup.hpp"
#include "counting.hpp"
#include "datapath.hpp"
#include "error.hpp"
#include "hooks.hpp"
#include "link.hpp"

namespace hr {

namespace {

const char kCommitted[] = "committed"; // a directory in next/: from here on, forward

PinDirectory next_of(const PinDirectory &pin) { return PinDirectory(pin.file(kNextTables)); }

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

template <typename T>
void copy_mapped(const MappedArray<T> &from, bpf_map *to, const char *name) {
    Fd fd(::dup(bpf_map__fd(to)));
    MappedArray<T> target(std::move(fd), name);
    std::memcpy(target.data(), from.data(), from.size() * sizeof(T));
}

void copy_tables(const Tables &from, const Skeleton &to) {
    copy_mapped(from.records, to->maps.records, "records");
    copy_mapped(from.slots, to->maps.slots, "slots");
    copy_mapped(from.backends, to->maps.backends, "backends");
    copy_mapped(from.active, to->maps.active, "active");
    copy_mapped(from.refusals, to->maps.refusals, "refusals");
    std::vector<__u64> counts(static_cast<std::size_t>(libbpf_num_possible_cpus()));
    for_each_service(from.services.get(), from.capacities().services,
                     [&](const hr_key &key, __u32 index) {
                         if (bpf_map_update_elem(bpf_map__fd(to->maps.services), &key, &index, 0))
                             raise_errno("services", "copy the table", errno);
                         int target = bpf_map__fd(to->maps.translations);
                         if (bpf_map_lookup_elem(from.translations.get(), &index, counts.data()) ||
                             bpf_map_update_elem(target, &index, counts.data(), BPF_ANY))
                             raise_errno("translations", "copy the table", errno);
                     });
}

void stage(const PinDirectory &pin, const Tables &tables, const Capacities &wanted) {
    Skeleton skeleton;
    bpf_program *program;
    bpf_object__for_each_program(program, skeleton->obj) bpf_program__set_autoload(program, false);
    size_maps(skeleton, wanted);
    lend_tables(pin, skeleton, Lend::fixed_size);
    skeleton.load();
    copy_tables(tables, skeleton);
    hr_meta &meta = tables.meta[0];
    publish(meta.next_services, wanted.services);
    publish(meta.next_backends, wanted.backends);
    publish(meta.next_slots, wanted.slots);
    if (::mkdir(next_of(pin).path().c_str(), 0700))
        raise_errno(next_of(pin).path(), "make the directory", errno);
    pin_sized(next_of(pin), skeleton);
}

void discard(const PinDirectory &pin) {
    ::rmdir(next_of(pin).file(kCommitted).c_str());
    next_of(pin).remove(table_names());
}

// Nothing if it is not attached.
std::optional<DatapathStatus> attached(const PinDirectory &pin, const std::string &cgroup_mount) {
    DatapathStatus status = datapath_status(pin, cgroup_mount);
    bool any = std::any_of(status.programs.begin(), status.programs.end(),
                           [](const ProgramStatus &program) { return program.attached; });
    return any && status.cgroup ? std::optional(std::move(status)) : std::nullopt;
}

// The same programs as are attached, on whatever tables lend_tables() finds.
void attach_again(const PinDirectory &pin, const std::string &cgroup_mount) {
    if (std::optional<DatapathStatus> status = attached(pin, cgroup_mount))
        attach(pin, Cgroup::open(*status->cgroup), status->wanted, cgroup_mount);
}

void commit(const PinDirectory &pin) {
    PinDirectory next = next_of(pin);
    if (::mkdir(next.file(kCommitted).c_str(), 0700) && errno != EEXIST)
        raise_errno(next.path(), "commit", errno);
    for (const std::string &name : table_names())
        if (::rename(next.file(name).c_str(), pin.file(name).c_str()) && errno != ENOENT)
            raise_errno(next.file(name), "move the table", errno);
    MappedArray<hr_meta> meta(open_pinned(pin.file("meta")), "meta");
    publish(meta[0].max_services, meta[0].next_services);
    publish(meta[0].max_backends, meta[0].next_backends);
    publish(meta[0].max_slots, meta[0].next_slots);
    discard(pin);
}

// Does any program of ours use one of the staged tables?
bool in_use(const PinDirectory &pin) {
    Fd staged = open_pinned(next_of(pin).file("services"));
    if (!staged)
        return false;
    __u32 id = map_info(staged.get(), "services").id;
    for (const Hook &hook : all_hooks()) {
        std::optional<LinkInfo> info = link_info(open_link(pin, hook));
        Fd program = info ? program_by_id(info->program_id) : Fd();
        if (!program)
            continue;
        std::vector<__u32> maps = fingerprint(program.get()).maps;
        if (std::find(maps.begin(), maps.end(), id) != maps.end())
            return true;
    }
    return false;
}

} // namespace

bool grow(const PinDirectory &pin, const Capacities &asked, const std::string &cgroup_mount) {
    {
        Tables tables = Tables::open(pin);
        std::optional<Capacities> wanted = larger(pin, tables.capacities(), asked);
        if (!wanted)
            return false;
        stage(pin, tables, *wanted);
    }
    try {
        attach_again(pin, cgroup_mount); // all or nothing
    } catch (...) {
        if (!in_use(pin)) // else whoever comes next goes forward
            discard(pin);
        throw;
    }
    commit(pin);
    recount(pin); // what was counted in the old table while it was copied
    return true;
}

void recover_growth(const PinDirectory &pin, const std::string &cgroup_mount) {
    struct stat st;
    if (::stat(next_of(pin).path().c_str(), &st))
        return;
    bool committed = ::stat(next_of(pin).file(kCommitted).c_str(), &st) == 0;
    if (!committed && !in_use(pin)) {
        discard(pin);
        return;
    }
    if (!committed)
        attach_again(pin, cgroup_mount);
    commit(pin);
    recount(pin);
}

void discard_growth(const PinDirectory &pin) {
    struct stat st;
    if (::stat(next_of(pin).path().c_str(), &st) == 0)
        discard(pin);
}

} // namespace hr
