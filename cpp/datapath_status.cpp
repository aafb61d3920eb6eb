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

// Ours uses the tables that are pinned: somebody may have put another program
// behind our link, or other tables in the place of those that ours was given.
class Ours {
  public:
    explicit Ours(const PinDirectory &pin) : sockets_(id_of(pin, "connections")) {
        for (const char *name : {"flags", "backends", "services", "overflow"})
            if (__u32 id = id_of(pin, name))
                tables_.push_back(id);
    }

    // Also what it was told, if it is one of ours that has knobs.
    bool has(__u32 program_id, Wanted *wanted, bool *uses_sockets) const {
        Fd program = program_by_id(program_id);
        if (!program)
            return false;
        const Fingerprint print = fingerprint(program.get());
        auto uses = [&](__u32 map) {
            return map && std::binary_search(print.maps.begin(), print.maps.end(), map);
        };
        if (std::ranges::none_of(tables_, uses))
            return false;
        *uses_sockets = uses(sockets_);
        hr_knobs knobs = {};
        std::memcpy(&knobs, print.knobs.data(), std::min(sizeof(knobs), print.knobs.size()));
        wanted->tcp |= knobs.with_tcp;
        wanted->udp |= knobs.with_udp;
        return true;
    }

  private:
    static __u32 id_of(const PinDirectory &pin, const char *name) {
        Fd map = open_pinned(pin.file(name));
        return map ? map_info(map.get(), name).id : 0;
    }

    std::vector<__u32> tables_;
    __u32 sockets_;
};

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
    const Ours ours(pin);
    std::optional<Cgroup> cgroup;
    std::vector<bpf_attach_type> types;
    for (const Hook &hook : all_hooks()) {
        ProgramStatus program;
        program.hook = hook.name;
        std::optional<Attachment> there = find_attachment({pin, cgroup_mount, true}, hook);
        if (!there && is_optional(hook))
            continue;
        if (there) {
            bool uses_sockets = false;
            program.program_id = there->program_id;
            program.attached =
                ours.has(there->program_id, &status.wanted, &uses_sockets) && there->in_place;
            status.has_links = there->is_link;
            if (!cgroup)
                cgroup = Cgroup::by_id(there->cgroup_id, cgroup_mount);
            status.cgroup = cgroup             ? cgroup->path()
                            : there->cgroup_id ? "cgroup " + std::to_string(there->cgroup_id)
                                               : "a cgroup that was removed";
            if (hook.type == BPF_CGROUP_INET4_CONNECT || hook.type == BPF_CGROUP_INET6_CONNECT)
                status.is_full = uses_sockets;
            if (hook.type == BPF_CGROUP_INET4_POST_BIND)
                status.wanted.protect_binds = true;
        }
        status.programs.push_back(program);
        types.push_back(hook.type);
    }
    if (!cgroup)
        return status;
    status.wanted.first = run_first(pin);
    for (std::size_t i = 0; i < types.size(); i++)
        describe_effect(status.programs[i], *cgroup, types[i]);
    return status;
}

} // namespace hr
