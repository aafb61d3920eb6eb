// SPDX-License-Identifier: Apache-2.0
#include "tables.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "attachment.hpp"
#include "error.hpp"
#include "features.hpp"
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

// The maps that are pinned, by their names in the object. `meta` is last: tables
// without it were never finished.
struct Pinned {
    const char *name;
    bool is_sized; // by the capacities
    __u32 since;   // the version of the layout that it has had its own from
};
constexpr std::array kPinned = {
    Pinned{"services", true, 1},
    Pinned{"records", true, 1},
    Pinned{"slots", true, 1},
    Pinned{"backends", true, 1},
    Pinned{"active", true, 1},
    Pinned{"translations", true, 1},
    Pinned{"refusals", true, 1},
    Pinned{"ports", false, 6},
    Pinned{"node_addresses", false, 1},
    Pinned{"node_networks", false, 2},
    Pinned{"exempt", false, 1},
    Pinned{"allowed", false, 2},
    Pinned{"affinity", false, 1},
    Pinned{"events", false, 8},
    Pinned{"flags", false, 3},
    Pinned{"connections", false, 1},
    Pinned{"datagrams", false, 1},
    Pinned{"more_datagrams", false, 2},
    Pinned{"overflow", false, 1},
    Pinned{"listening", false, 3},
    Pinned{"listeners", false, 3},
    Pinned{"holders", false, 4},
    Pinned{"places", false, 4},
    Pinned{"hints", false, 8},
    Pinned{"meta", false, HR_ABI_VERSION},
};

// Where sockets cannot remember, the LRU is all there is.
constexpr __u32 kOverflowWithoutStorage = 131'072;

// Not found is what was never made; whoever hears that makes it, or says that nothing is there.
[[noreturn]] void say_damaged(const PinDirectory &pin, const std::string &missing) {
    throw Error(Kind::refused, pin.path(),
                "damaged: the table '" + missing +
                    "' is missing; `detach --purge`, then make it anew",
                ENOENT);
}

Fd open_table(const PinDirectory &pin, const std::string &name) {
    Fd fd = open_pinned(pin.file(name));
    if (!fd)
        say_damaged(pin, name);
    return fd;
}

// `meta` is the last to come and goes with the others; programs are there for no longer.
Fd open_meta(const PinDirectory &pin) {
    Fd fd = open_pinned(pin.file("meta"));
    if (!fd && has_attachments(pin))
        say_damaged(pin, "meta");
    return fd;
}

void check_abi(const PinDirectory &pin, const Fd &meta) {
    __u32 found = abi_of(pin, meta);
    if (found == HR_ABI_VERSION)
        return;
    std::string versions = " hostreach made the tables (version " + std::to_string(found) +
                           ", this one knows " + std::to_string(HR_ABI_VERSION) + "); ";
    if (found < HR_ABI_VERSION)
        throw Error(Kind::abi_mismatch, pin.path(),
                    "an older" + versions + "`hostreach attach` brings them up to date");
    throw Error(Kind::abi_mismatch, pin.path(),
                "a newer" + versions + "use that one, or `detach --purge` and start anew");
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
        const bool is_read = fd && !bpf_map_get_info_by_fd(fd.get(), &info, &size);
        if (!is_read && (is_momentary(errno) || errno == EPERM)) // of our own, too
            raise_errno(path, "look whose it is", errno);
        if (!is_read || std::string_view(info.name) != std::string_view(pinned.name).substr(0, 15))
            throw Error(Kind::refused, path,
                        "is not hostreach's; use another --pin, or remove it yourself");
    }
}

void create(const PinDirectory &pin, const Capacities &wanted) {
    refuse_foreign_pins(pin);
    const Features features = probe_features();
    Skeleton skeleton(features);
    skeleton.without_programs();
    size_maps(skeleton, wanted, features);
    skeleton.load();

    hr_meta meta = {};
    meta.abi = HR_ABI_VERSION;
    meta.max_services = wanted.services;
    meta.max_backends = wanted.backends;
    meta.max_slots = wanted.slots;
    meta.hint_mask = hint_mask(0);
    __u32 zero = 0;
    if (bpf_map_update_elem(bpf_map__fd(skeleton.map("meta")), &zero, &meta, BPF_ANY))
        raise_errno(pin.file("meta"), "write", errno);
    try {
        for (const Pinned &pinned : kPinned) {
            bpf_map *map = skeleton.map(pinned.name);
            if (!map) // of socket storage, or to listen
                continue;
            std::string path = pin.file(pinned.name);
            if (map_info(bpf_map__fd(map), path).name.empty()) // and later nobody knew it as ours
                throw Error(Kind::kernel_error, path, "the kernel could not name it; try again",
                            ENOMEM);
            ::unlink(path.c_str()); // left by one who was killed before `meta`
            pin_object(bpf_map__fd(map), path);
        }
    } catch (...) { // what is there is ours: see above
        for (const std::string &name : table_names())
            ::unlink(pin.file(name).c_str());
        throw;
    }
}

} // namespace

Tables Tables::open(const PinDirectory &pin) {
    Tables t;
    Fd meta = open_meta(pin);
    if (!meta)
        throw Error(Kind::not_found, pin.path(), "no tables here; `attach` and `svc add` make them",
                    ENOENT);
    check_abi(pin, meta);
    t.meta = {std::move(meta), "meta"};
    t.ports = {open_table(pin, "ports"), "ports"};
    t.services = open_table(pin, "services");
    t.records = {open_table(pin, "records"), "records"};
    t.slots = {open_table(pin, "slots"), "slots"};
    t.backends = {open_table(pin, "backends"), "backends"};
    t.active = {open_table(pin, "active"), "active"};
    t.node_addresses = open_table(pin, "node_addresses");
    t.node_networks = open_table(pin, "node_networks");
    t.exempt = open_table(pin, "exempt");
    t.allowed = open_table(pin, "allowed");
    t.affinity = open_table(pin, "affinity");
    t.translations = open_table(pin, "translations");
    t.refusals = {open_table(pin, "refusals"), "refusals"};
    t.events = {open_table(pin, "events"), "events"};
    t.flags = {open_table(pin, "flags"), "flags"};
    t.refresh();
    return t;
}

void Tables::refresh() {
    if (meta.is_mapped())
        return;
    meta.refresh(1);
    if (seen_ && seen_ == meta[0].generation)
        return;
    ports.refresh(ports.size());
    records.refresh(meta[0].services_mark);
    backends.refresh(meta[0].backends_mark);
    slots.refresh((meta[0].slots_mark + HR_LINE_WORDS - 1) / HR_LINE_WORDS);
    seen_ = meta[0].generation;
}

bool are_mapped(const PinDirectory &pin) {
    Fd records = open_pinned(PinDirectory(pin.file(kNextTables)).file("records"));
    if (!records) // as lend_tables() does
        records = open_table(pin, "records");
    return map_info(records.get(), "records").flags & BPF_F_MMAPABLE;
}

__u32 abi_of(const PinDirectory &pin, const Fd &meta) {
    std::vector<__u32> value(map_info(meta.get(), "meta").value_size / sizeof(__u32) + 2);
    __u32 zero = 0;
    if (bpf_map_lookup_elem(meta.get(), &zero, value.data()))
        raise_errno(pin.file("meta"), "read", errno);
    return value[0];
}

Tables Tables::open_or_create(const PinDirectory &pin, const Capacities &asked, bool *made) {
    *made = !open_meta(pin);
    if (*made)
        create(pin, asked.or_defaults());
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

bool Tables::is_there(const hr_key &key, __u32 service) const {
    if (service >= records.size())
        throw Error(Kind::kernel_error, format_key(key),
                    "the table is damaged: something else wrote into it", EUCLEAN);
    return KeyEqual()(records[service].key, key);
}

void Tables::for_each_service(const std::function<void(const hr_key &, __u32 index)> &visit) const {
    hr::for_each_service(services.get(), capacities().services,
                         [&](const hr_key &key, __u32 service) {
                             if (is_there(key, service))
                                 visit(key, service);
                         });
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

std::vector<std::string> tables_since(__u32 version) {
    std::vector<std::string> names;
    for (const Pinned &pinned : kPinned)
        if (pinned.since > version)
            names.emplace_back(pinned.name);
    return names;
}

void lend_tables(const PinDirectory &pin, Skeleton &skeleton, Lend which, __u32 version) {
    PinDirectory next(pin.file(kNextTables));
    for (const Pinned &pinned : kPinned) {
        bpf_map *map = skeleton.map(pinned.name);
        const std::string_view name = pinned.name;
        if (!map || pinned.since > version ||
            (which == Lend::fixed_size && (pinned.is_sized || name == "meta")))
            continue;
        Fd fd = open_pinned(next.file(pinned.name));
        if (!fd)
            fd = open_table(pin, pinned.name);
        if (int err = -bpf_map__reuse_fd(map, fd.get()))
            raise_errno(pin.file(pinned.name), "use the pinned table", err);
    }
}

void size_maps(Skeleton &skeleton, const Capacities &capacities, const Features &features) {
    auto size = [&](const char *name, __u32 entries) {
        bpf_map__set_max_entries(skeleton.map(name), entries);
    };
    size("services", capacities.services);
    size("records", capacities.services);
    size("translations", capacities.services);
    size("refusals", capacities.services);
    size("slots", slot_lines(capacities));
    size("backends", backend_entries(capacities));
    size("active", backend_entries(capacities));
    if (!features.full())
        size("overflow", kOverflowWithoutStorage);
    if (!features.ring_buffer)
        skeleton.without_listeners();
    bpf_map *map;
    // the legacy programs take no memory for granted
    bpf_object__for_each_map(map, skeleton.object()) if (!features.mmap || !features.full())
        bpf_map__set_map_flags(map, bpf_map__map_flags(map) & ~__u32{BPF_F_MMAPABLE});
}

} // namespace hr
