// SPDX-License-Identifier: Apache-2.0
// One program of ours on one hook of a cgroup, so pinned that a later process
// finds it again: by a bpf_link or, where the kernel has none (below Linux 5.7),
// by the program itself.
//
//   links/connect4                      a link, which knows its cgroup
//   programs/00000001000000a3/connect4  a program, in a directory named after the
//                                       id of the cgroup that it was put on
//   first                               a directory: all of them run before other
//                                       vendors', which the kernel does not tell
#pragma once

#include <optional>
#include <string>

#include "cgroup.hpp"
#include "fd.hpp"
#include "hooks.hpp"
#include "pin.hpp"

namespace hr {

struct Attachment {
    __u64 cgroup_id = 0; // 0 once the cgroup was removed
    __u32 program_id = 0;
    bool is_link = false;
    bool in_place = false; // on its cgroup, unless somebody removed it there
};

// Where things are; `links` is whether the kernel has them.
struct Place {
    const PinDirectory &pin;
    const std::string &cgroup_mount;
    bool links;
};

// Nothing if there is no such pin; raises kernel_error.
std::optional<Attachment> find_attachment(const Place &place, const Hook &hook);

// Whether there is a pin for it; or, below, for any.
bool has_attachment(const PinDirectory &pin, const Hook &hook);
bool has_attachments(const PinDirectory &pin);

// Whether they run before other programs. Set before the first is made; raises
// kernel_error.
bool run_first(const PinDirectory &pin);
void set_run_first(const PinDirectory &pin, bool first);

// Whether open connections are being counted anew: said before counts can be wrong, and
// taken back once they are right, so that who is killed in between leaves it to the next
// attach(). Raises kernel_error.
bool is_uncounted(const PinDirectory &pin);
void set_uncounted(const PinDirectory &pin, bool is);

// Makes one where there is none. Raises kernel_error, as the calls below do.
void add_attachment(const Place &place, const Hook &hook, int program, const Cgroup &cgroup);

// Another program in its place: with links, and since Linux 5.6, without a
// moment between; before that both run for a moment. False if its cgroup was
// removed.
bool replace_attachment(const Place &place, const Hook &hook, int program);

// What one who was killed in replace_attachment() began.
void finish_replacement(const Place &place, const Hook &hook);

// Takes our program off its hook, and the pin away. False if there was none.
bool drop_attachment(const Place &place, const Hook &hook);
// The same with the link at hand, if there is one.
Fd open_link(const PinDirectory &pin, const Hook &hook);
bool drop_attachment(const Place &place, const Hook &hook, const Fd &link);

// Directories that are empty now.
void tidy_attachments(const PinDirectory &pin);

} // namespace hr
