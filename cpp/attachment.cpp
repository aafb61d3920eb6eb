// SPDX-License-Identifier: Apache-2.0
#include "attachment.hpp"

#include <bpf/bpf.h>
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "error.hpp"
#include "preorder.hpp"
#include "program.hpp"

namespace hr {

namespace {

std::string links(const PinDirectory &pin) { return pin.file("links"); }
std::string programs(const PinDirectory &pin) { return pin.file("programs"); }
std::string first(const PinDirectory &pin) { return pin.file("first"); }
std::string uncounted(const PinDirectory &pin) { return pin.file("uncounted"); }

__u32 order(const PinDirectory &pin) { return run_first(pin) ? kPreorder : 0; }

std::string link_path(const PinDirectory &pin, const Hook &hook) {
    return links(pin) + "/" + hook.name;
}

void make_directory(const std::string &path) {
    if (::mkdir(path.c_str(), 0700) && errno != EEXIST)
        raise_errno(path, "make the directory", errno);
}

// A file's name is all that bpffs keeps beside pins; here it is a directory's.
void set_mark(const std::string &path, bool wanted) {
    if (wanted)
        make_directory(path);
    else if (::rmdir(path.c_str()) && errno != ENOENT)
        raise_errno(path, "remove the directory", errno);
}

void unpin(const std::string &path) {
    if (::unlink(path.c_str()) && errno != ENOENT)
        raise_errno(path, "remove the pin", errno);
}

// ---- programs without links ----

// `current` is what is on the hook as far as it is known: while a program is
// replaced, the next one is pinned aside, as NAME_new.
struct PinnedProgram {
    std::string path;
    std::string current;
    __u64 cgroup_id;
};

std::string aside(const std::string &path) { return path + "_new"; }

std::string directory_of(const PinDirectory &pin, __u64 cgroup_id) {
    char name[17];
    std::snprintf(name, sizeof(name), "%016llx", static_cast<unsigned long long>(cgroup_id));
    return programs(pin) + "/" + name;
}

std::optional<PinnedProgram> find_program(const PinDirectory &pin, const Hook &hook) {
    if (::access(programs(pin).c_str(), F_OK))
        return std::nullopt;
    const std::unique_ptr<DIR, int (*)(DIR *)> directory(::opendir(programs(pin).c_str()),
                                                         ::closedir);
    if (!directory)
        raise_errno(programs(pin), "open the directory", errno);
    std::optional<PinnedProgram> found;
    while (const dirent *entry = ::readdir(directory.get())) {
        if (entry->d_name[0] == '.')
            continue;
        std::string path = programs(pin) + "/" + entry->d_name + "/" + hook.name;
        if (::access(path.c_str(), F_OK) == 0 || ::access(aside(path).c_str(), F_OK) == 0)
            found = {path, path, std::strtoull(entry->d_name, nullptr, 16)};
    }
    return found;
}

bool is_on(const Cgroup &cgroup, const Hook &hook, __u32 id) {
    std::vector<__u32> there = cgroup.attached(hook.type);
    return std::find(there.begin(), there.end(), id) != there.end();
}

void put_on(const Cgroup &cgroup, const Hook &hook, int program, __u32 flags, int in_place_of) {
    LIBBPF_OPTS(bpf_prog_attach_opts, opts, .flags = BPF_F_ALLOW_MULTI | flags,
                .replace_prog_fd = in_place_of);
    if (bpf_prog_attach_opts(program, cgroup.fd(), hook.type, &opts))
        raise_errno(cgroup.path(), std::string("attach to ") + hook.name, errno);
}

// Only what is there: from a hook that somebody has to himself (without
// BPF_F_ALLOW_MULTI), the kernel takes whatever program there is, for any.
void take_off(const Cgroup &cgroup, const Hook &hook, const Fd &program) {
    if (!is_on(cgroup, hook, program_id(program)))
        return;
    if (bpf_prog_detach2(program.get(), cgroup.fd(), hook.type) && errno != ENOENT)
        raise_errno(cgroup.path(), std::string("detach from ") + hook.name, errno);
}

// Pinned first: whatever kills us, what is attached is known.
void add_program(const Place &place, const Hook &hook, int program, const Cgroup &cgroup) {
    make_directory(programs(place.pin));
    make_directory(directory_of(place.pin, cgroup.id()));
    const std::string path = directory_of(place.pin, cgroup.id()) + "/" + hook.name;
    pin_object(program, path);
    try {
        put_on(cgroup, hook, program, order(place.pin), 0);
    } catch (...) {
        unpin(path);
        throw;
    }
}

// Nothing if the cgroup was removed, and all that was on it with it. Raises
// refused if it cannot be told: then something of ours may be on it.
std::optional<Cgroup> reach(const Place &place, const PinnedProgram &there) {
    std::optional<Cgroup> cgroup = Cgroup::by_id(there.cgroup_id, place.cgroup_mount);
    if (!cgroup && !Cgroup::is_gone(there.cgroup_id, place.cgroup_mount))
        throw Error(Kind::refused, there.path,
                    "the cgroup that it is attached to cannot be reached from here; mount cgroup "
                    "v2, and run as root of the host");
    return cgroup;
}

// Which of the two pins is on the hook, after somebody was killed between.
void settle_pins(const Cgroup &cgroup, const Hook &hook, PinnedProgram &there) {
    Fd next = open_pinned(aside(there.path));
    if (next && is_on(cgroup, hook, program_id(next)))
        there.current = aside(there.path);
}

// One program, and one pin: the other one, which may run beside it, goes.
void finish_pins(const Cgroup &cgroup, const Hook &hook, PinnedProgram &there) {
    settle_pins(cgroup, hook, there);
    if (there.current == there.path) {
        unpin(aside(there.path));
        return;
    }
    if (Fd before = open_pinned(there.path))
        take_off(cgroup, hook, before);
    if (::rename(there.current.c_str(), there.path.c_str()))
        raise_errno(there.path, "replace the pin", errno);
    there.current = there.path;
}

bool replace_program(const Place &place, const Hook &hook, int program, PinnedProgram there) {
    std::optional<Cgroup> cgroup = reach(place, there);
    if (!cgroup)
        return false;
    finish_pins(*cgroup, hook, there);
    Fd old = open_pinned(there.path);
    const std::string next = aside(there.path);
    pin_object(program, next);
    const __u32 flags = BPF_F_ALLOW_MULTI | BPF_F_REPLACE | order(place.pin);
    LIBBPF_OPTS(bpf_prog_attach_opts, opts, .flags = flags, .replace_prog_fd = old.get());
    if (bpf_prog_attach_opts(program, cgroup->fd(), hook.type, &opts)) {
        // no such flag before Linux 5.6, or the old one is gone: add, then remove
        put_on(*cgroup, hook, program, order(place.pin), 0);
        take_off(*cgroup, hook, old);
    }
    if (::rename(next.c_str(), there.path.c_str()))
        raise_errno(there.path, "replace the pin", errno);
    return true;
}

void drop_program(const Place &place, const Hook &hook, const PinnedProgram &there) {
    std::optional<Cgroup> cgroup = reach(place, there);
    for (const std::string &path : {aside(there.path), there.path}) {
        Fd program = open_pinned(path);
        if (program && cgroup)
            take_off(*cgroup, hook, program);
        unpin(path);
    }
}

// ---- links ----

// The link is detached, not only unpinned: somebody else may hold it open.
void drop_link(const PinDirectory &pin, const Hook &hook, const Fd &link) {
    bpf_link_detach(link.get()); // before Linux 5.9 the last descriptor's end does it
    unpin(link_path(pin, hook));
}

void add_link(const PinDirectory &pin, const Hook &hook, int program, const Cgroup &cgroup) {
    make_directory(links(pin));
    LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = order(pin));
    Fd link(bpf_link_create(program, cgroup.fd(), hook.type, &opts));
    if (!link)
        raise_errno(cgroup.path(), std::string("attach to ") + hook.name, errno);
    pin_object(link.get(), link_path(pin, hook));
}

} // namespace

std::optional<Attachment> find_attachment(const Place &place, const Hook &hook) {
    if (Fd link = open_pinned(link_path(place.pin, hook))) {
        bpf_link_info info = {};
        __u32 size = sizeof(info);
        if (bpf_link_get_info_by_fd(link.get(), &info, &size))
            raise_errno(link_path(place.pin, hook), "read the link", errno);
        return Attachment{info.cgroup.cgroup_id, info.prog_id, true, info.cgroup.cgroup_id != 0};
    }
    std::optional<PinnedProgram> there = find_program(place.pin, hook);
    if (!there)
        return std::nullopt;
    std::optional<Cgroup> cgroup = Cgroup::by_id(there->cgroup_id, place.cgroup_mount);
    if (cgroup)
        settle_pins(*cgroup, hook, *there);
    Attachment found;
    if (Fd program = open_pinned(there->current))
        found.program_id = program_id(program);
    if (cgroup || !Cgroup::is_gone(there->cgroup_id, place.cgroup_mount))
        found.cgroup_id = there->cgroup_id;
    found.in_place = cgroup && found.program_id && is_on(*cgroup, hook, found.program_id);
    return found;
}

void finish_replacement(const Place &place, const Hook &hook) {
    if (std::optional<PinnedProgram> there = find_program(place.pin, hook))
        if (std::optional<Cgroup> cgroup = Cgroup::by_id(there->cgroup_id, place.cgroup_mount))
            finish_pins(*cgroup, hook, *there);
}

bool has_attachment(const PinDirectory &pin, const Hook &hook) {
    return ::access(link_path(pin, hook).c_str(), F_OK) == 0 || find_program(pin, hook);
}

bool has_attachments(const PinDirectory &pin) {
    return std::ranges::any_of(all_hooks(),
                               [&](const Hook &hook) { return has_attachment(pin, hook); });
}

bool run_first(const PinDirectory &pin) { return ::access(first(pin).c_str(), F_OK) == 0; }

void set_run_first(const PinDirectory &pin, bool wanted) { set_mark(first(pin), wanted); }

bool is_uncounted(const PinDirectory &pin) { return ::access(uncounted(pin).c_str(), F_OK) == 0; }

void set_uncounted(const PinDirectory &pin, bool is) { set_mark(uncounted(pin), is); }

void add_attachment(const Place &place, const Hook &hook, int program, const Cgroup &cgroup) {
    if (place.links)
        add_link(place.pin, hook, program, cgroup);
    else
        add_program(place, hook, program, cgroup);
}

bool replace_attachment(const Place &place, const Hook &hook, int program) {
    if (std::optional<PinnedProgram> there = find_program(place.pin, hook))
        return replace_program(place, hook, program, *there);
    Fd link = open_pinned(link_path(place.pin, hook));
    if (bpf_link_update(link.get(), program, nullptr) == 0)
        return true;
    if (errno != ENOLINK)
        raise_errno(link_path(place.pin, hook), "replace the program", errno);
    return false;
}

Fd open_link(const PinDirectory &pin, const Hook &hook) {
    return open_pinned(link_path(pin, hook));
}

bool drop_attachment(const Place &place, const Hook &hook) {
    return drop_attachment(place, hook, open_link(place.pin, hook));
}

bool drop_attachment(const Place &place, const Hook &hook, const Fd &link) {
    std::optional<PinnedProgram> there = find_program(place.pin, hook);
    if (there)
        drop_program(place, hook, *there);
    if (link)
        drop_link(place.pin, hook, link);
    return there || link;
}

void tidy_attachments(const PinDirectory &pin) {
    if (DIR *directory = ::opendir(programs(pin).c_str())) {
        while (const dirent *entry = ::readdir(directory))
            if (entry->d_name[0] != '.')
                ::rmdir((programs(pin) + "/" + entry->d_name).c_str());
        ::closedir(directory);
    }
    ::rmdir(programs(pin).c_str());
    ::rmdir(links(pin).c_str());
    if (::access(programs(pin).c_str(), F_OK) && ::access(links(pin).c_str(), F_OK)) {
        ::rmdir(first(pin).c_str());
        ::rmdir(uncounted(pin).c_str()); // who attaches next counts
    }
}

} // namespace hr
