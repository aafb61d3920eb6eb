// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "attachment.hpp"
#include "datapath.hpp"
#include "error.hpp"
#include "maps.hpp"
#include "program.hpp"

namespace hr {

namespace {

// What the loaded connect program was told to balance.
void read_wanted(__u32 program_id, Wanted *wanted) {
    Fd program = program_by_id(program_id);
    if (!program)
        return;
    std::vector<char> bytes = fingerprint(program.get()).knobs;
    hr_knobs knobs;
    if (bytes.size() < sizeof(knobs))
        return;
    std::memcpy(&knobs, bytes.data(), sizeof(knobs));
    wanted->tcp = knobs.with_tcp;
    wanted->udp = knobs.with_udp;
}

// Only the full object's programs use a socket's storage.
bool is_full(__u32 program_id, const PinDirectory &pin) {
    Fd program = program_by_id(program_id), storage = open_pinned(pin.file("connections"));
    if (!program || !storage)
        return false;
    std::vector<__u32> maps = fingerprint(program.get()).maps;
    return std::binary_search(maps.begin(), maps.end(), map_info(storage.get(), "connections").id);
}

void describe_effect(ProgramStatus &program, const Cgroup &cgroup, bpf_attach_type hook) {
    std::vector<__u32> ids;
    try {
        ids = cgroup.effective(hook);
    } catch (const Error &) {
        return; // the kernel has no such hook, or will not say
    }
    for (__u32 id : ids)
        program.run.push_back({id, program_name(id)});
    program.effective = std::find(ids.begin(), ids.end(), program.program_id) != ids.end();
}

// Off unless it is asked for, and then no sign of anything missing.
bool is_optional(const Hook &hook) {
    Features all;
    std::memset(&all, 1, sizeof(all));
    return !hook.is_wanted({.tcp = true, .udp = true, .protect_binds = false, .first = false}, all);
}

} // namespace

DatapathStatus datapath_status(const PinDirectory &pin, const std::string &cgroup_mount) {
    DatapathStatus status;
    std::optional<Cgroup> cgroup;
    std::vector<bpf_attach_type> types;
    for (const Hook &hook : all_hooks()) {
        ProgramStatus program;
        program.hook = hook.name;
        std::optional<Attachment> there = find_attachment({pin, cgroup_mount, true}, hook);
        if (!there && is_optional(hook))
            continue;
        if (there) {
            program.attached = there->in_place;
            program.program_id = there->program_id;
            status.has_links = there->is_link;
            if (!cgroup)
                cgroup = Cgroup::by_id(there->cgroup_id, cgroup_mount);
            status.cgroup = cgroup             ? cgroup->path()
                            : there->cgroup_id ? "cgroup " + std::to_string(there->cgroup_id)
                                               : "a cgroup that was removed";
            if (hook.type == BPF_CGROUP_INET4_CONNECT) {
                read_wanted(there->program_id, &status.wanted);
                status.is_full = is_full(there->program_id, pin);
            }
            if (hook.type == BPF_CGROUP_INET4_POST_BIND)
                status.wanted.protect_binds = true;
        }
        status.programs.push_back(program);
        types.push_back(hook.type);
    }
    if (!cgroup)
        return status;
    for (std::size_t i = 0; i < types.size(); i++) {
        describe_effect(status.programs[i], *cgroup, types[i]);
        std::vector<__u32> first = cgroup->attached_first(types[i]);
        if (std::find(first.begin(), first.end(), status.programs[i].program_id) != first.end())
            status.wanted.first = true;
    }
    return status;
}

} // namespace hr
