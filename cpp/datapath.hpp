// SPDX-License-Identifier: Apache-2.0
// The programs of one instance on their hooks: attached, replaced, described, removed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cgroup.hpp"
#include "hooks.hpp"
#include "pin.hpp"

namespace hr {

enum class Action { added, replaced, removed };

struct ProgramChange {
    std::string hook; // "connect4"
    Action action;
};

struct RunningProgram {
    __u32 id;
    std::string name;
};

struct ProgramStatus {
    std::string hook;
    bool attached = false;           // pinned, and on a cgroup
    std::optional<bool> effective;   // the kernel runs it there; unknown if it will not say
    __u32 program_id = 0;            // 0 = none
    std::vector<RunningProgram> run; // in effect on this hook, in the order that they run
};

struct DatapathStatus {
    std::optional<std::string> cgroup; // path, or "cgroup ID (removed)"
    Wanted wanted = {};                // as the attached programs were told
    bool is_full = true;               // not the object for kernels that lack socket storage
    bool has_links = true;             // not by the programs themselves
    std::vector<ProgramStatus> programs;
};

// Raises refused if this kernel cannot do it, naming what can be done instead.
void check_kernel(Wanted wanted);

// For the rest the caller holds the instance's exclusive lock, or for status
// the shared one; `cgroup_mount` is where cgroup v2 is mounted.

// Raises attached_elsewhere if the instance is attached to another cgroup.
void check_cgroup(const PinDirectory &pin, const Cgroup &cgroup, const std::string &cgroup_mount);

// Brings the hooks to what is asked, by the least that does it: the same again
// changes nothing, a program that is there is replaced in place without a moment
// between. All or nothing. Raises attached_elsewhere, refused (UDP is impossible
// here, or it is attached in another order), program_rejected,
// permission_denied, kernel_error.
std::vector<ProgramChange> attach(const PinDirectory &pin, const Cgroup &cgroup, Wanted wanted,
                                  const std::string &cgroup_mount);

// Returns the hooks whose programs were removed.
std::vector<std::string> detach(const PinDirectory &pin, const std::string &cgroup_mount);

DatapathStatus datapath_status(const PinDirectory &pin, const std::string &cgroup_mount);

} // namespace hr
