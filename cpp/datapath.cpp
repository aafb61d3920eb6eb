// SPDX-License-Identifier: Apache-2.0
#include "datapath.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "error.hpp"
#include "features.hpp"
#include "link.hpp"
#include "skeleton.hpp"
#include "tables.hpp"

namespace hr {

namespace {

struct Hook {
    const char *name;
    bpf_attach_type type;
    bool udp_only;
    bpf_program *(*program)(const Skeleton &);
};

// In the order of attaching: what shows the service's address again is there
// before anything is translated. Detaching goes the other way.
// clang-format off
#define HOOK(name, type, udp_only) \
    Hook{#name, type, udp_only, [](const Skeleton &s) { return s->progs.hr_##name; }}
// clang-format on
const std::array kHooks = {
    HOOK(getpeername4, BPF_CGROUP_INET4_GETPEERNAME, false),
    HOOK(getpeername6, BPF_CGROUP_INET6_GETPEERNAME, false),
    HOOK(recvmsg4, BPF_CGROUP_UDP4_RECVMSG, true),
    HOOK(recvmsg6, BPF_CGROUP_UDP6_RECVMSG, true),
    HOOK(sendmsg4, BPF_CGROUP_UDP4_SENDMSG, true),
    HOOK(sendmsg6, BPF_CGROUP_UDP6_SENDMSG, true),
    HOOK(connect4, BPF_CGROUP_INET4_CONNECT, false),
    HOOK(connect6, BPF_CGROUP_INET6_CONNECT, false),
};
#undef HOOK

std::string link_path(const PinDirectory &pin, const Hook &hook) {
    return pin.file("links") + "/" + hook.name;
}

Fd open_link(const PinDirectory &pin, const Hook &hook) {
    return open_pinned(link_path(pin, hook));
}

Features require_features(Protocols protocols) {
    Features features = probe_features();
    if (!features.connect)
        throw Error(Kind::refused, "kernel",
                    "it has no connect hook for cgroups; Linux 4.17 or later is needed");
    if (protocols.udp && !features.recvmsg)
        throw Error(Kind::refused, "kernel",
                    "it cannot balance UDP, for it has no recvmsg hook (Linux 4.19.57, 5.1.16, 5.2 "
                    "or later is needed); use --protocols tcp");
    return features;
}

bool is_wanted(const Hook &hook, Protocols protocols, const Features &features) {
    if (std::string_view(hook.name).substr(0, 11) == "getpeername" && !features.getpeername)
        return false;
    return protocols.udp || !hook.udp_only;
}

void load(Skeleton &skeleton, const PinDirectory &pin, Protocols protocols,
          const Features &features) {
    skeleton->rodata->with_tcp = protocols.tcp;
    skeleton->rodata->with_udp = protocols.udp;
    skeleton->rodata->has_set_retval = features.set_retval;
    lend_tables(pin, skeleton);
    for (const Hook &hook : kHooks)
        bpf_program__set_autoload(hook.program(skeleton), is_wanted(hook, protocols, features));
    skeleton.load();
}

void refuse_other_cgroup(const PinDirectory &pin, const Cgroup &cgroup, const std::string &mount) {
    for (const Hook &hook : kHooks) {
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

// As if attach() had never begun.
void undo(const PinDirectory &pin, std::vector<Settled> &done) {
    for (Settled &each : done) {
        if (each.action == Action::added)
            drop_link(pin, *each.hook);
        else
            bpf_link_update(open_link(pin, *each.hook).get(), each.old.get(), nullptr);
    }
}

} // namespace

void check_kernel(Protocols protocols) { require_features(protocols); }

std::vector<ProgramChange> attach(const PinDirectory &pin, const Cgroup &cgroup,
                                  Protocols protocols, const std::string &cgroup_mount) {
    Features features = require_features(protocols);
    refuse_other_cgroup(pin, cgroup, cgroup_mount);
    Skeleton skeleton;
    load(skeleton, pin, protocols, features);
    std::string links = pin.file("links");
    if (::mkdir(links.c_str(), 0700) && errno != EEXIST)
        raise_errno(links, "make the directory", errno);

    std::vector<Settled> done;
    try {
        for (const Hook &hook : kHooks) {
            if (!is_wanted(hook, protocols, features))
                continue;
            int program = bpf_program__fd(hook.program(skeleton));
            if (auto settled = settle(pin, hook, program, cgroup))
                done.push_back(std::move(*settled));
        }
    } catch (...) {
        undo(pin, done);
        throw;
    }
    std::vector<ProgramChange> changes;
    for (const Settled &each : done)
        changes.push_back({each.hook->name, each.action});
    // the connect programs no longer send UDP anywhere: now its others may go
    for (auto hook = kHooks.rbegin(); hook != kHooks.rend(); ++hook)
        if (!is_wanted(*hook, protocols, features) && drop_link(pin, *hook))
            changes.push_back({hook->name, Action::removed});
    return changes;
}

std::vector<std::string> detach(const PinDirectory &pin) {
    std::vector<std::string> removed;
    for (auto hook = kHooks.rbegin(); hook != kHooks.rend(); ++hook)
        if (drop_link(pin, *hook))
            removed.push_back(hook->name);
    ::rmdir(pin.file("links").c_str());
    return removed;
}

namespace {

// What the loaded connect program was told to balance.
Protocols protocols_of(__u32 program_id) {
    Fd program = program_by_id(program_id);
    if (!program)
        return {};
    std::vector<char> knobs = fingerprint(program.get()).knobs;
    Skeleton skeleton; // for the layout of the knobs
    if (knobs.size() < sizeof(*skeleton->rodata))
        return {};
    std::memcpy(skeleton->rodata, knobs.data(), sizeof(*skeleton->rodata));
    return {skeleton->rodata->with_tcp, skeleton->rodata->with_udp};
}

void describe_effect(ProgramStatus &program, const Cgroup &cgroup, bpf_attach_type hook) {
    std::vector<__u32> ids;
    try {
        ids = cgroup.effective(hook);
    } catch (const Error &) {
        return; // the kernel has no such hook, or will not say
    }
    program.effective = false;
    for (__u32 id : ids) {
        if (id == program.program_id)
            program.effective = true;
        else
            program.others.push_back({id, program_name(id)});
    }
}

} // namespace

DatapathStatus datapath_status(const PinDirectory &pin, const std::string &cgroup_mount) {
    DatapathStatus status;
    std::optional<Cgroup> cgroup;
    for (const Hook &hook : kHooks) {
        ProgramStatus program;
        program.hook = hook.name;
        if (std::optional<LinkInfo> info = link_info(open_link(pin, hook))) {
            program.attached = info->cgroup_id != 0;
            program.program_id = info->program_id;
            if (!cgroup)
                cgroup = Cgroup::by_id(info->cgroup_id, cgroup_mount);
            status.cgroup = cgroup            ? cgroup->path()
                            : info->cgroup_id ? "cgroup " + std::to_string(info->cgroup_id)
                                              : "a cgroup that was removed";
            if (hook.type == BPF_CGROUP_INET4_CONNECT)
                status.protocols = protocols_of(info->program_id);
        }
        status.programs.push_back(program);
    }
    if (cgroup)
        for (std::size_t i = 0; i < kHooks.size(); i++)
            describe_effect(status.programs[i], *cgroup, kHooks[i].type);
    return status;
}

} // namespace hr
