// SPDX-License-Identifier: Apache-2.0
#include "replacement.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ranges>
#include <vector>

#include "attachment.hpp"
#include "counting.hpp"
#include "datapath.hpp"
#include "error.hpp"
#include "grace.hpp"
#include "layout_v1.hpp"
#include "program.hpp"
#include "staging.hpp"

namespace hr {

namespace {

const char kCommitted[] = "committed"; // a directory in next/: from here on, forward

bool is_there(const std::string &path) { return ::access(path.c_str(), F_OK) == 0; }

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
    Tables tables = Tables::open(pin);
    std::optional<Capacities> wanted = larger(pin, tables.capacities(), asked);
    if (!wanted)
        return false;
    CopiedTraffic traffic;
    stage_larger(pin, tables, *wanted, &traffic);
    go_over(pin, cgroup_mount);
    GracePeriod().wait(); // for programs of before that still run
    traffic.settle();
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
