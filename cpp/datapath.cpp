// SPDX-License-Identifier: Apache-2.0
#include "datapath.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/stat.h>

#include <cerrno>
#include <ranges>

#include "counting.hpp"
#include "error.hpp"
#include "features.hpp"
#include "hooks.hpp"
#include "link.hpp"
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
    return features;
}

void load(Skeleton &skeleton, const PinDirectory &pin, const Wanted &wanted,
          const Features &features) {
    skeleton->rodata->with_tcp = wanted.tcp;
    skeleton->rodata->with_udp = wanted.udp;
    skeleton->rodata->has_set_retval = features.set_retval;
    skeleton->rodata->has_sock_release = features.sock_release;
    skeleton->rodata->has_mptcp = features.mptcp;
    lend_tables(pin, skeleton);
    for (const Hook &hook : all_hooks())
        bpf_program__set_autoload(hook.program(skeleton), hook.is_wanted(wanted, features));
    skeleton.load();
}

void refuse_other_cgroup(const PinDirectory &pin, const Cgroup &cgroup, const std::string &mount) {
    for (const Hook &hook : all_hooks()) {
        std::optional<LinkInfo> info = link_info(open_link(pin, hook));
        if (!info || !info->cgroup_id || info->cgroup_id == cgroup.id())
            continue;
        std::optional<Cgroup> there = Cgroup::by_id(info->cgroup_id, mount);
        throw Error(
            Kind::attached_elsewhere, pin.path(),
            "attached to " + (there ? there->path() : "cgroup " + std::to_string(info->cgroup_id)) +
                " already, not to " + cgroup.path() + "; detach first, or use another --pin",
            EBUSY);
    }
}

// Takes our program off its hook. The link is detached, not only unpinned:
// somebody else may hold it open.
bool drop_link(const PinDirectory &pin, const Hook &hook) {
    Fd link = open_link(pin, hook);
    if (!link)
        return false;
    bpf_link_detach(link.get()); // before Linux 5.9 the last descriptor's end does it
    if (::unlink(link_path(pin, hook).c_str()) && errno != ENOENT)
        raise_errno(link_path(pin, hook), "remove the link", errno);
    return true;
}

void add_link(const PinDirectory &pin, const Hook &hook, int program, const Cgroup &cgroup) {
    Fd link(bpf_link_create(program, cgroup.fd(), hook.type, nullptr));
    if (!link)
        raise_errno(cgroup.path(), std::string("attach to ") + hook.name, errno);
    pin_object(link.get(), link_path(pin, hook));
}

struct Settled {
    const Hook *hook;
    Action action;
    Fd old; // the program that was replaced
};

// Nothing if the hook is as wanted already.
std::optional<Settled> settle(const PinDirectory &pin, const Hook &hook, int program,
                              const Cgroup &cgroup) {
    Fd link = open_link(pin, hook);
    std::optional<LinkInfo> info = link_info(link);
    if (info && info->cgroup_id == cgroup.id()) {
        Fd old = program_by_id(info->program_id);
        if (old && fingerprint(old.get()) == fingerprint(program))
            return std::nullopt;
        if (bpf_link_update(link.get(), program, nullptr) == 0)
            return Settled{&hook, Action::replaced, std::move(old)};
        if (errno != ENOLINK)
            raise_errno(cgroup.path(), std::string("replace the program on ") + hook.name, errno);
    }
    drop_link(pin, hook); // its cgroup was removed
    add_link(pin, hook, program, cgroup);
    return Settled{&hook, Action::added, Fd()};
}

// As if attach() had never begun, in the order of detaching.
void undo(const PinDirectory &pin, std::vector<Settled> &done) {
    for (Settled &each : std::views::reverse(done)) {
        if (each.action == Action::added)
            drop_link(pin, *each.hook);
        else
            bpf_link_update(open_link(pin, *each.hook).get(), each.old.get(), nullptr);
    }
    ::rmdir(pin.file("links").c_str()); // if it is empty
}

} // namespace

void check_kernel(Wanted wanted) { require_features(wanted); }

void check_cgroup(const PinDirectory &pin, const Cgroup &cgroup, const std::string &cgroup_mount) {
    refuse_other_cgroup(pin, cgroup, cgroup_mount);
}

std::vector<ProgramChange> attach(const PinDirectory &pin, const Cgroup &cgroup, Wanted wanted,
                                  const std::string &cgroup_mount) {
    Features features = require_features(wanted);
    refuse_other_cgroup(pin, cgroup, cgroup_mount);
    Skeleton skeleton;
    load(skeleton, pin, wanted, features);
    std::string links = pin.file("links");
    if (::mkdir(links.c_str(), 0700) && errno != EEXIST)
        raise_errno(links, "make the directory", errno);

    std::vector<Settled> done;
    try {
        for (const Hook &hook : all_hooks()) {
            if (!hook.is_wanted(wanted, features))
                continue;
            int program = bpf_program__fd(hook.program(skeleton));
            auto settled = settle(pin, hook, program, cgroup);
            if (!settled)
                continue;
            bool counts_anew =
                hook.type == BPF_CGROUP_INET_SOCK_RELEASE && settled->action == Action::added;
            done.push_back(std::move(*settled));
            if (counts_anew) // until now closing sockets told nobody
                recount(pin);
        }
    } catch (...) {
        undo(pin, done);
        throw;
    }
    std::vector<ProgramChange> changes;
    for (const Settled &each : done)
        changes.push_back({each.hook->name, each.action});
    // the connect programs no longer send UDP anywhere: now its others may go
    for (const Hook &hook : std::views::reverse(all_hooks()))
        if (!hook.is_wanted(wanted, features) && drop_link(pin, hook))
            changes.push_back({hook.name, Action::removed});
    return changes;
}

std::vector<std::string> detach(const PinDirectory &pin) {
    std::vector<std::string> removed;
    for (const Hook &hook : std::views::reverse(all_hooks()))
        if (drop_link(pin, hook))
            removed.push_back(hook.name);
    ::rmdir(pin.file("links").c_str());
    return removed;
}

} // namespace hr
