// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "error.hpp"
#include "hooks.hpp"
#include "link.hpp"

namespace hr {

namespace {

// What the loaded connect program was told to balance.
void read_wanted(__u32 program_id, Wanted *wanted) {
    Fd program = program_by_id(program_id);
    if (!program)
        return;
    std::vector<char> knobs = fingerprint(program.get()).knobs;
    Skeleton skeleton; // for the layout of the knobs
    if (knobs.size() < sizeof(*skeleton->rodata))
        return;
    std::memcpy(skeleton->rodata, knobs.data(), sizeof(*skeleton->rodata));
    wanted->tcp = skeleton->rodata->with_tcp;
    wanted->udp = skeleton->rodata->with_udp;
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

// Off unless it is asked for, and then no sign of anything missing.
bool is_optional(const Hook &hook) {
    Features all;
    std::memset(&all, 1, sizeof(all));
    return !hook.is_wanted({.tcp = true, .udp = true, .protect_binds = false}, all);
}

} // namespace

DatapathStatus datapath_status(const PinDirectory &pin, const std::string &cgroup_mount) {
    DatapathStatus status;
    std::optional<Cgroup> cgroup;
    std::vector<bpf_attach_type> types;
    for (const Hook &hook : all_hooks()) {
        ProgramStatus program;
        program.hook = hook.name;
        std::optional<LinkInfo> info = link_info(open_link(pin, hook));
        if (!info && is_optional(hook))
            continue;
        if (info) {
            program.attached = info->cgroup_id != 0;
            program.program_id = info->program_id;
            if (!cgroup)
                cgroup = Cgroup::by_id(info->cgroup_id, cgroup_mount);
            status.cgroup = cgroup            ? cgroup->path()
                            : info->cgroup_id ? "cgroup " + std::to_string(info->cgroup_id)
                                              : "a cgroup that was removed";
            if (hook.type == BPF_CGROUP_INET4_CONNECT)
                read_wanted(info->program_id, &status.wanted);
            if (hook.type == BPF_CGROUP_INET4_POST_BIND)
                status.wanted.protect_binds = true;
        }
        status.programs.push_back(program);
        types.push_back(hook.type);
    }
    if (cgroup)
        for (std::size_t i = 0; i < types.size(); i++)
            describe_effect(status.programs[i], *cgroup, types[i]);
    return status;
}

} // namespace hr
