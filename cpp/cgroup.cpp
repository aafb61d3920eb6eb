// SPDX-License-Identifier: Apache-2.0
#include "cgroup.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "error.hpp"

namespace hr {

namespace {

constexpr int kKernfsHandle = 0xfe; // FILEID_KERNFS: the handle is the cgroup's id

bool is_cgroup2(int fd) {
    struct statfs fs;
    return ::fstatfs(fd, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

} // namespace

Cgroup Cgroup::open(const std::string &path) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd && (errno == ENOENT || errno == ENOTDIR))
        throw Error(Kind::invalid_input, path,
                    "no cgroup v2 directory: " + std::string(std::strerror(errno)), errno);
    if (!fd)
        raise_errno(path, "open the cgroup", errno);
    if (!is_cgroup2(fd.get()))
        throw Error(Kind::invalid_input, path, "no cgroup v2 directory");
    struct stat st;
    if (::fstat(fd.get(), &st))
        raise_errno(path, "read the cgroup", errno);
    return Cgroup(std::move(fd), st.st_ino, path);
}

std::optional<Cgroup> Cgroup::by_id(__u64 id, const std::string &mount) {
    Fd root(::open(mount.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!id || !root)
        return std::nullopt;
    alignas(file_handle) std::array<char, sizeof(file_handle) + sizeof(id)> buffer = {};
    auto *handle = reinterpret_cast<file_handle *>(buffer.data());
    handle->handle_bytes = sizeof(id);
    handle->handle_type = kKernfsHandle;
    std::memcpy(handle->f_handle, &id, sizeof(id));
    Fd fd(::open_by_handle_at(root.get(), handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || !is_cgroup2(fd.get()))
        return std::nullopt;
    std::array<char, 4096> path;
    std::string self = "/proc/self/fd/" + std::to_string(fd.get());
    ssize_t length = ::readlink(self.c_str(), path.data(), path.size());
    if (length < 0)
        return std::nullopt;
    return Cgroup(std::move(fd), id, std::string(path.data(), static_cast<std::size_t>(length)));
}

__u8 Cgroup::level(const std::string &mount) const {
    constexpr __u64 kRootId = 1;
    if (Cgroup::open(mount).id() != kRootId)
        throw Error(Kind::refused, mount,
                    "not the root of the cgroup v2 hierarchy; run in the host's cgroup namespace");
    Cgroup same = by_id(id_, mount).value_or(Cgroup(Fd(), id_, path_));
    std::string below = same.path().substr(std::min(mount.size(), same.path().size()));
    __u8 depth = 0;
    for (std::size_t i = 0; i < below.size(); i++)
        if (below[i] == '/' && i + 1 < below.size())
            depth++;
    return depth;
}

std::vector<__u32> Cgroup::effective(bpf_attach_type hook) const {
    std::vector<__u32> ids(64);
    for (;;) {
        LIBBPF_OPTS(bpf_prog_query_opts, opts, .query_flags = BPF_F_QUERY_EFFECTIVE,
                    .prog_ids = ids.data(), .prog_cnt = static_cast<__u32>(ids.size()));
        int err = bpf_prog_query_opts(fd_.get(), hook, &opts) ? errno : 0;
        if (err && err != ENOSPC)
            raise_errno(path_, "query the hook's programs", err);
        bool fits = !err && opts.prog_cnt <= ids.size();
        ids.resize(err ? ids.size() * 2 : opts.prog_cnt);
        if (fits)
            return ids;
    }
}

} // namespace hr
