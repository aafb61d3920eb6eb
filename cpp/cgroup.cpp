// SPDX-License-Identifier: Apache-2.0
#include "cgroup.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "error.hpp"

namespace hr {

namespace {

// A file handle of a cgroup is its id: as the kernel counts them (FILEID_KERNFS)
// or, before Linux 5.5, inode and generation. st_ino would be the former alone.
struct Handle {
    alignas(file_handle) std::array<char, sizeof(file_handle) + sizeof(__u64)> bytes = {};

    Handle() { get()->handle_bytes = sizeof(__u64); }
    file_handle *get() { return reinterpret_cast<file_handle *>(bytes.data()); }
    bool read(int fd) {
        int mount;
        return !::name_to_handle_at(fd, "", get(), &mount, AT_EMPTY_PATH) &&
               get()->handle_bytes == sizeof(__u64);
    }
};

bool is_cgroup2(int fd) {
    struct statfs fs;
    return ::fstatfs(fd, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

// 0 or an errno.
int query(int cgroup, bpf_attach_type hook, __u32 how, std::vector<__u32> *ids) {
    ids->resize(64);
    for (;;) {
        LIBBPF_OPTS(bpf_prog_query_opts, opts, .query_flags = how, .prog_ids = ids->data(),
                    .prog_cnt = static_cast<__u32>(ids->size()));
        int err = bpf_prog_query_opts(cgroup, hook, &opts) ? errno : 0;
        bool fits = !err && opts.prog_cnt <= ids->size();
        ids->resize(err == ENOSPC ? ids->size() * 2 : err ? 0 : opts.prog_cnt);
        if (fits || err != ENOSPC)
            return err;
    }
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
    Handle handle;
    if (!handle.read(fd.get()))
        raise_errno(path, "read the cgroup's id", errno);
    __u64 id;
    std::memcpy(&id, handle.get()->f_handle, sizeof(id));
    return Cgroup(std::move(fd), id, path);
}

namespace {

// -1 with an errno.
Fd open_by_id(__u64 id, const std::string &mount) {
    Fd root(::open(mount.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    Handle handle; // of the root's kind
    if (!root || !handle.read(root.get()))
        return Fd();
    std::memcpy(handle.get()->f_handle, &id, sizeof(id));
    return Fd(::open_by_handle_at(root.get(), handle.get(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

} // namespace

bool Cgroup::is_gone(__u64 id, const std::string &mount) {
    Fd root(::open(mount.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return !id || (root && is_cgroup2(root.get()) && !open_by_id(id, mount) && errno == ESTALE);
}

std::optional<Cgroup> Cgroup::by_id(__u64 id, const std::string &mount) {
    Fd fd = id ? open_by_id(id, mount) : Fd();
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
    std::vector<__u32> ids;
    if (int err = query(fd_.get(), hook, BPF_F_QUERY_EFFECTIVE, &ids))
        raise_errno(path_, "query the hook's programs", err);
    return ids;
}

std::vector<__u32> Cgroup::attached(bpf_attach_type hook) const {
    std::vector<__u32> ids;
    const int err = query(fd_.get(), hook, 0, &ids);
    if (err && err != EINVAL) // that is a kernel without this hook
        raise_errno(path_, "query the hook's programs", err);
    return ids;
}

void mount_cgroup2(const std::string &path) {
    // private: what is mounted below it by others is not for everybody
    if (::mount("none", path.c_str(), "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) ||
        ::mount(nullptr, path.c_str(), nullptr, MS_PRIVATE, nullptr))
        raise_errno(path, "mount cgroup v2", errno);
}

void unmount_cgroup2(const std::string &path) {
    if (::umount2(path.c_str(), UMOUNT_NOFOLLOW))
        raise_errno(path, "unmount cgroup v2", errno);
}

} // namespace hr
