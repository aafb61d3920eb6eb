// SPDX-License-Identifier: Apache-2.0
// cgroup v2 directories, and which programs are on their hooks.
#pragma once

#include <linux/bpf.h>

#include <optional>
#include <string>
#include <vector>

#include "fd.hpp"

namespace hr {

class Cgroup {
  public:
    // Raises invalid_input for what is no cgroup v2 directory, kernel_error.
    static Cgroup open(const std::string &path);
    // By the id that a link's description gives; nothing if it is gone.
    // `mount` is where cgroup v2 is mounted.
    static std::optional<Cgroup> by_id(__u64 id, const std::string &mount);

    // Whether there is no such cgroup any more, as opposed to one that cannot be
    // reached from here.
    static bool is_gone(__u64 id, const std::string &mount);

    // Depth below the root, whose own is 0. Raises refused where the mount shows
    // only a part of the hierarchy, for the kernel counts from its root.
    __u8 level(const std::string &mount) const;

    int fd() const { return fd_.get(); }
    __u64 id() const { return id_; }
    const std::string &path() const { return path_; }

    // Ids of the programs that run for this hook in this cgroup, in order,
    // those of its ancestors included. Raises kernel_error.
    std::vector<__u32> effective(bpf_attach_type hook) const;
    // Those that are attached to this cgroup itself. Raises kernel_error: what cannot be
    // told may be there.
    std::vector<__u32> attached(bpf_attach_type hook) const;

  private:
    Cgroup(Fd fd, __u64 id, std::string path)
        : fd_(std::move(fd)), id_(id), path_(std::move(path)) {}

    Fd fd_;
    __u64 id_;
    std::string path_;
};

// Mounts cgroup v2 on a directory, and takes it off again. Raises kernel_error,
// permission_denied.
void mount_cgroup2(const std::string &path);
void unmount_cgroup2(const std::string &path);

} // namespace hr
