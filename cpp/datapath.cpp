// SPDX-License-Identifier: Apache-2.0
#include "datapath.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <ranges>

#include "attachment.hpp"
#include "counting.hpp"
#include "error.hpp"
#include "features.hpp"
#include "kernel_types.hpp"
#include "places.hpp"
#include "program.hpp"
#include "skeleton.hpp"
#include "tables.hpp"

namespace hr {

namespace {

Features require_features(const Wanted &wanted) {
    Features features = probe_features();
    if (!features.connect)
        throw Error(Kind::refused, "kernel",
                    "it has no connect hook for cgroups; Linux 4.17 or later is needed");
    if (wanted.udp && !features.recvmsg)
        throw Error(Kind::refused, "kernel",
                    "it cannot balance UDP, for it has no recvmsg hook (Linux 4.19.57, 5.1.16, 5.2 "
                    "or later is needed); use --protocols tcp");
    if (wanted.protect_binds && !features.post_bind)
        throw Error(Kind::refused, "kernel",
                    "it cannot refuse a bind with EADDRINUSE (Linux 6.1 or later is needed); leave "
                    "out --protect-binds");
    if (wanted.protect_binds && !features.full())
        throw Error(Kind::refused, "kernel",
                    "without socket storage (Linux 5.3) binds are not protected; leave out "
                    "--protect-binds");
    if (wanted.first && !features.preorder)
        throw Error(Kind::refused, "kernel",
                    "it has no order among programs (Linux 6.15 or later is needed); leave out "
                    "--first, and see `status` for the order that they run in");
    return features;
}

// Whoever follows a hint to a record reads its scope first (bpf/record.bpf.h).
#if defined(__x86_64__) || defined(__s390x__)
constexpr bool kKeepsLoadsInOrder = true;
#else
constexpr bool kKeepsLoadsInOrder = false;
#endif

hr_knobs knobs_for(const Wanted &wanted, const Features &features, bool are_mapped) {
    hr_knobs knobs = {};
    knobs.with_tcp = wanted.tcp;
    knobs.with_udp = wanted.udp;
    knobs.has_set_retval = features.set_retval;
    knobs.has_sock_release = features.sock_release;
    knobs.checks_words = !are_mapped;
    knobs.has_hints = are_mapped && kKeepsLoadsInOrder;
    knobs.has_places = features.places && features.sock_release && are_mapped;
    // elsewhere all that send to no service would be given a cookie, and pay for it
    knobs.keeps_only = knobs.has_places && features.sock_read;
    return knobs;
}

void load(Skeleton &skeleton, const PinDirectory &pin, const Wanted &wanted,
          const Features &features) {
    const bool mapped = are_mapped(pin);
    if (mapped && !features.full())
        throw Error(Kind::refused, pin.path(),
                    "the tables were made when the kernel could do more; `detach --purge` first");
    skeleton.knobs = knobs_for(wanted, features, mapped);
    lend_tables(pin, skeleton);
    Places places(pin), staged(PinDirectory(pin.file(kNextTables)));
    if (!skeleton.knobs.has_places) { // for programs that have them again
        places.crowd();
        staged.crowd();
    } else if (features.sock_read && !places.were_crowded() && !staged.were_crowded()) {
        skeleton.show_sockets();
    }
    if (features.sock_release && (skeleton.knobs.sock_type || features.probe_read)) {
        const SocketType type = socket_type();
        skeleton.knobs.kern_sock_offset = static_cast<__u16>(type.kern_sock_offset);
        skeleton.knobs.kern_sock_mask = type.kern_sock_mask;
    }
    for (const Hook &hook : all_hooks())
        if (bpf_program *program = skeleton.program(hook.program().c_str()))
            bpf_program__set_autoload(program, hook.is_wanted(wanted, features));
    skeleton.load();
}

void refuse_other_cgroup(const Place &place, const Cgroup &cgroup) {
    for (const Hook &hook : all_hooks()) {
        std::optional<Attachment> there = find_attachment(place, hook);
        if (!there || !there->cgroup_id || there->cgroup_id == cgroup.id())
            continue;
        std::optional<Cgroup> other = Cgroup::by_id(there->cgroup_id, place.cgroup_mount);
        throw Error(Kind::attached_elsewhere, place.pin.path(),
                    "attached to " +
                        (other ? other->path() : "cgroup " + std::to_string(there->cgroup_id)) +
                        " already, not to " + cgroup.path() +
                        "; name that one by --cgroup, detach first, or use another --pin",
                    EBUSY);
    }
}

// A program keeps its place in the order for as long as it is attached.
void refuse_other_order(const Place &place, bool first) {
    if (run_first(place.pin) == first)
        return;
    for (const Hook &hook : all_hooks()) {
        std::optional<Attachment> there = find_attachment(place, hook);
        if (!there || !there->in_place)
            continue;
        throw Error(Kind::refused, place.pin.path(),
                    std::string("attached ") + (first ? "without" : "with") +
                        " --first already, and the order cannot be changed; detach first",
                    EBUSY);
    }
}

struct Settled {
    const Hook *hook;
    Action action;
    Fd old; // the program that was replaced
};

// Nothing if the hook is as wanted already.
std::optional<Settled> settle(const Place &place, const Hook &hook, int program,
                              const Cgroup &cgroup) {
    finish_replacement(place, hook);
    std::optional<Attachment> there = find_attachment(place, hook);
    if (there && there->in_place && there->is_link == place.links) {
        Fd old = program_by_id(there->program_id);
        if (old && fingerprint(old.get()) == fingerprint(program))
            return std::nullopt;
        if (replace_attachment(place, hook, program))
            return Settled{&hook, Action::replaced, std::move(old)};
    }
    drop_attachment(place, hook); // its cgroup was removed, or somebody took it off
    add_attachment(place, hook, program, cgroup);
    return Settled{&hook, Action::added, Fd()};
}

// `meta` is the last table to be staged: without it nothing came of it.
bool is_replaced(const PinDirectory &pin) {
    const std::string meta = PinDirectory(pin.file(kNextTables)).file("meta");
    return ::access(meta.c_str(), F_OK) == 0;
}

// As if attach() had never begun, in the order of detaching. What fails here is
// less than what made us come here, and is for the next attach() or detach().
void undo(const Place &place, std::vector<Settled> &done) {
    for (Settled &each : std::views::reverse(done)) {
        try {
            if (each.action == Action::added)
                drop_attachment(place, *each.hook);
            else
                replace_attachment(place, *each.hook, each.old.get());
        } catch (const std::exception &) {
        }
    }
    tidy_attachments(place.pin);
}

} // namespace

void check_kernel(Wanted wanted) { require_features(wanted); }

void check_cgroup(const PinDirectory &pin, const Cgroup &cgroup, const std::string &cgroup_mount) {
    refuse_other_cgroup({pin, cgroup_mount, true}, cgroup);
}

std::vector<ProgramChange> attach(const PinDirectory &pin, const Cgroup &cgroup, Wanted wanted,
                                  const std::string &cgroup_mount) {
    const Features features = require_features(wanted);
    const Place place = {pin, cgroup_mount, features.bpf_link};
    refuse_other_cgroup(place, cgroup);
    refuse_other_order(place, wanted.first);
    Skeleton skeleton(features);
    load(skeleton, pin, wanted, features);

    std::vector<Settled> done;
    std::vector<std::pair<const Hook *, Fd>> unwanted;
    try {
        set_run_first(pin, wanted.first);
        for (const Hook &hook : all_hooks()) {
            if (!hook.is_wanted(wanted, features))
                continue;
            int program = bpf_program__fd(skeleton.program(hook.program().c_str()));
            const bool counts = hook.type == BPF_CGROUP_INET_SOCK_RELEASE;
            bool counts_anew = counts && is_uncounted(pin); // somebody was killed at it
            if (counts)
                set_uncounted(pin, true);
            if (auto settled = settle(place, hook, program, cgroup)) {
                // until now closing sockets told nobody
                counts_anew |= counts && settled->action == Action::added;
                done.push_back(std::move(*settled));
            }
            // while tables are replaced, some are not where recount() looks, or not all that they
            // will be: who replaces them counts when they are
            const bool counts_later = counts_anew && is_replaced(pin);
            if (counts_anew && !counts_later)
                recount(pin);
            if (counts && !counts_later)
                set_uncounted(pin, false);
        }
        // all that can fail for want of memory comes before the first hook is left
        for (const Hook &hook : std::views::reverse(all_hooks()))
            if (!hook.is_wanted(wanted, features))
                unwanted.emplace_back(&hook, open_link(pin, hook));
    } catch (...) {
        undo(place, done);
        throw;
    }
    std::vector<ProgramChange> changes;
    for (const Settled &each : done)
        changes.push_back({each.hook->name, each.action});
    // the connect programs no longer send UDP anywhere: now its others may go
    for (const auto &[hook, link] : unwanted)
        if (drop_attachment(place, *hook, link))
            changes.push_back({hook->name, Action::removed});
    tidy_attachments(pin);
    return changes;
}

std::vector<std::string> detach(const PinDirectory &pin, const std::string &cgroup_mount) {
    const Place place = {pin, cgroup_mount, true};
    // all that can fail for want of memory comes before the first hook is left
    std::vector<std::pair<const Hook *, Fd>> links;
    for (const Hook &hook : std::views::reverse(all_hooks()))
        links.emplace_back(&hook, open_link(pin, hook));
    std::vector<std::string> removed;
    for (const auto &[hook, link] : links)
        if (drop_attachment(place, *hook, link))
            removed.push_back(hook->name);
    tidy_attachments(pin);
    return removed;
}

} // namespace hr
