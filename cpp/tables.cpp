// SPDX-License-Identifier: Apache-2.0
#include "tables.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "error.hpp"
#include "spec.hpp"

namespace hr {

namespace {

// Words of `slots` beyond the selection slots: a service's details, with a name
// and an owner of 84 bytes together, and its members. Longer names borrow from
// the reserve, which also holds a block while it is rewritten.
constexpr __u64 kWordsPerService = 24;
constexpr __u64 kWordsPerBackend = 2;
constexpr __u64 kReserveWords = 2 * kLargestBlock;

__u32 slot_lines(const Capacities &c) {
    __u64 words =
        c.slots + kWordsPerService * c.services + kWordsPerBackend * c.backends + kReserveWords;
    return static_cast<__u32>((words + HR_LINE_WORDS - 1) / HR_LINE_WORDS);
}

// A replaced service holds its old backends until its new ones are published.
__u32 backend_entries(const Capacities &c) {
    return c.backends + std::min<__u32>(c.backends, HR_SLOTS_PER_SERVICE);
}

// Each pinned map by the name that it has in the skeleton. `meta` is pinned
// last: tables without it were never finished.
using MapOf = bpf_map *(*)(const Skeleton &);
struct Pinned {
    const char *name;
    MapOf map;
    bool sized; // by the capacities
};
// clang-format off
#define FIXED(name) Pinned{#name, [](const Skeleton &s) { return s->maps.name; }, false}
#define SIZED(name) Pinned{#name, [](const Skeleton &s) { return s->maps.name; }, true}
// clang-format on
const std::array kPinned = {
    SIZED(services),       SIZED(records),      SIZED(slots),    SIZED(backends),
    SIZED(active),         SIZED(translations), SIZED(refusals), FIXED(ports),
    FIXED(node_addresses), FIXED(exempt),       FIXED(affinity), FIXED(events),
    FIXED(connections),    FIXED(datagrams),    FIXED(overflow), FIXED(meta),
};
#undef FIXED
#undef SIZED

Fd open_table(const PinDirectory &pin, const std::string &name) {
    Fd fd = open_pinned(pin.file(name));
    if (!fd)
        throw Error(Kind::not_found, pin.path(), "the table '" + name + "' is missing", ENOENT);
    return fd;
}

[[noreturn]] void refuse_abi(const PinDirectory &pin, __u32 found) {
    std::string made = found > HR_ABI_VERSION ? "a newer hostreach made the tables (version "
                                              : "another hostreach made the tables (version ";
    throw Error(Kind::abi_mismatch, pin.path(),
                made + std::to_string(found) + ", this one knows " +
                    std::to_string(HR_ABI_VERSION) +
                    "); use that one, or `detach --purge` and start anew");
}

// Version 1 is known by the first word of `meta`, whatever its size.
void check_abi(const PinDirectory &pin, int meta_fd) {
    MapInfo info = map_info(meta_fd, "meta");
    if (info.value_size != sizeof(hr_meta))
        refuse_abi(pin, 0);
    hr_meta meta;
    __u32 zero = 0;
    if (bpf_map_lookup_elem(meta_fd, &zero, &meta))
        raise_errno(pin.file("meta"), "read", errno);
    if (meta.abi != HR_ABI_VERSION)
        refuse_abi(pin, meta.abi);
}

// Raises refused if one of our names is the pin of something else: nothing that
// is not ours may be unlinked.
void refuse_foreign_pins(const PinDirectory &pin) {
    for (const Pinned &pinned : kPinned) {
        std::string path = pin.file(pinned.name);
        struct stat st;
        if (::lstat(path.c_str(), &st))
            continue;
        Fd fd(bpf_obj_get(path.c_str()));
        bpf_map_info info = {};
        __u32 size = sizeof(info);
        if (!fd || bpf_map_get_info_by_fd(fd.get(), &info, &size) ||
            std::string_view(info.name) != std::string_view(pinned.name).substr(0, 15))
            throw Error(Kind::refused, path,
                        "is not hostreach's; use another --pin, or remove it yourself");
    }
}

void create(const PinDirectory &pin, const Capacities &wanted) {
    refuse_foreign_pins(pin);
    Skeleton skeleton;
    bpf_program *program;
    bpf_object__for_each_program(program, skeleton->obj) bpf_program__set_autoload(program, false);
    size_maps(skeleton, wanted);
    skeleton.load();

    hr_meta meta = {};
    meta.abi = HR_ABI_VERSION;
    meta.max_services = wanted.services;
    meta.max_backends = wanted.backends;
    meta.max_slots = wanted.slots;
    __u32 zero = 0;
    if (bpf_map_update_elem(bpf_map__fd(skeleton->maps.meta), &zero, &meta, BPF_ANY))
        raise_errno(pin.file("meta"), "write", errno);
    for (const Pinned &pinned : kPinned) {
        std::string path = pin.file(pinned.name);
        ::unlink(path.c_str()); // left by one who was killed before `meta`
        pin_object(bpf_map__fd(pinned.map(skeleton)), path);
    }
}

} // namespace

Tables Tables::open(const PinDirectory &pin) {
    Tables t;
    Fd meta = open_pinned(pin.file("meta"));
    if (!meta)
        throw Error(Kind::not_found, pin.path(), "no tables here; `attach` and `svc add` make them",
                    ENOENT);
    check_abi(pin, meta.get());
    t.meta = {std::move(meta), "meta"};
    t.ports = {open_table(pin, "ports"), "ports"};
    t.services = open_table(pin, "services");
    t.records = {open_table(pin, "records"), "records"};
    t.slots = {open_table(pin, "slots"), "slots"};
    t.backends = {open_table(pin, "backends"), "backends"};
    t.active = {open_table(pin, "active"), "active"};
    t.node_addresses = open_table(pin, "node_addresses");
    t.exempt = open_table(pin, "exempt");
    t.translations = open_table(pin, "translations");
    t.refusals = {open_table(pin, "refusals"), "refusals"};
    t.events = {open_table(pin, "events"), "events"};
    return t;
}

Tables Tables::open_or_create(const PinDirectory &pin, const Capacities &asked, bool *made) {
    *made = !open_pinned(pin.file("meta"));
    if (*made)
        create(pin, {asked.services ? asked.services : kDefaults.services,
                     asked.backends ? asked.backends : kDefaults.backends,
                     asked.slots ? asked.slots : kDefaults.slots});
    Tables t = open(pin);
    Capacities have = t.capacities();
    auto differs = [](__u32 asked, __u32 have) { return asked && asked != have; };
    if (differs(asked.services, have.services) || differs(asked.backends, have.backends) ||
        differs(asked.slots, have.slots))
        throw Error(Kind::refused, pin.path(),
                    "the tables exist with room for " + std::to_string(have.services) +
                        " services, " + std::to_string(have.backends) + " backends and " +
                        std::to_string(have.slots) +
                        " slots; `attach` with larger numbers makes them grow");
    return t;
}

Capacities Tables::capacities() const {
    return {meta[0].max_services, meta[0].max_backends, meta[0].max_slots};
}

void check_pins(const PinDirectory &pin) { refuse_foreign_pins(pin); }

std::vector<std::string> table_names() {
    std::vector<std::string> names;
    for (const Pinned &pinned : kPinned)
        names.insert(names.begin(), pinned.name); // `meta` first: without it, the rest is nothing
    return names;
}

void lend_tables(const PinDirectory &pin, Skeleton &skeleton, Lend which) {
    PinDirectory next(pin.file(kNextTables));
    for (const Pinned &pinned : kPinned) {
        if (which == Lend::fixed_size && pinned.sized)
            continue;
        Fd fd = open_pinned(next.file(pinned.name));
        if (!fd)
            fd = open_table(pin, pinned.name);
        if (int err = -bpf_map__reuse_fd(pinned.map(skeleton), fd.get()))
            raise_errno(pin.file(pinned.name), "use the pinned table", err);
    }
}

void size_maps(Skeleton &skeleton, const Capacities &capacities) {
    bpf_map__set_max_entries(skeleton->maps.services, capacities.services);
    bpf_map__set_max_entries(skeleton->maps.records, capacities.services);
    bpf_map__set_max_entries(skeleton->maps.translations, capacities.services);
    bpf_map__set_max_entries(skeleton->maps.refusals, capacities.services);
    bpf_map__set_max_entries(skeleton->maps.slots, slot_lines(capacities));
    bpf_map__set_max_entries(skeleton->maps.backends, backend_entries(capacities));
    bpf_map__set_max_entries(skeleton->maps.active, backend_entries(capacities));
}

void pin_sized(const PinDirectory &pin, const Skeleton &skeleton) {
    for (const Pinned &pinned : kPinned)
        if (pinned.sized)
            pin_object(bpf_map__fd(pinned.map(skeleton)), pin.file(pinned.name));
}

} // namespace hr
