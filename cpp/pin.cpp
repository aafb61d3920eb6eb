// SPDX-License-Identifier: Apache-2.0
#include "pin.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <sstream>
#include <thread>

#include "error.hpp"

namespace hr {

namespace {

constexpr char kBpffs[] = "/sys/fs/bpf";

// For so long what was seen of the directory is believed, should something change that
// its time does not show: another file system mounted over it.
constexpr std::chrono::seconds kSeenAge(1);

bool on_bpffs(const std::string &path) {
    struct statfs fs;
    return ::statfs(path.c_str(), &fs) == 0 && fs.f_type == BPF_FS_MAGIC;
}

// Is it there that bpffs belongs, and is not mounted?
bool lacks_mount(const std::string &path) {
    return (path + "/").starts_with(std::string(kBpffs) + "/") && !on_bpffs(kBpffs);
}

std::string parent_of(const std::string &path) {
    std::size_t slash = path.find_last_of('/');
    return slash == 0 ? "/" : path.substr(0, slash);
}

// "; process 123 (hostreach) holds it", if /proc/locks tells.
std::string holder_of(int fd) {
    struct stat st;
    if (::fstat(fd, &st))
        return "";
    char place[64]; // MAJOR:MINOR:INODE, the first two in hexadecimal
    std::snprintf(place, sizeof(place), "%02x:%02x:%lu", major(st.st_dev), minor(st.st_dev),
                  static_cast<unsigned long>(st.st_ino));
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
        std::istringstream words(line);
        std::string number, kind, type, mode, pid, inode;
        words >> number >> kind >> type >> mode >> pid >> inode;
        if (kind != "FLOCK" || inode != place)
            continue;
        std::string name;
        std::ifstream("/proc/" + pid + "/comm") >> name;
        // A process names itself, by any bytes.
        std::ranges::replace_if(
            name, [](unsigned char c) { return c < ' ' || c > '~'; }, '?');
        return "; process " + pid + (name.empty() ? "" : " (" + name + ")") + " holds it";
    }
    return "";
}

void make_directory(const std::string &path) {
    if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST)
        return;
    if (errno != ENOENT)
        raise_errno(path, "make the pin directory", errno);
    make_directory(parent_of(path));
    if (::mkdir(path.c_str(), 0700) && errno != EEXIST)
        raise_errno(path, "make the pin directory", errno);
}

[[noreturn]] void refuse_place(const std::string &path) {
    throw Error(Kind::invalid_input, path,
                "no directory of a BPF file system; use a path below /sys/fs/bpf");
}

// As much of it as is there and can be looked at.
std::string existing_part(const std::string &path) {
    struct stat st;
    std::string existing = path;
    while (existing != "/" && ::stat(existing.c_str(), &st))
        existing = parent_of(existing);
    return existing;
}

// bpffs refuses them with EPERM, even to be looked for (bpf_lookup() in kernel/bpf/inode.c);
// where it is mounted there may be some.
void refuse_dots(const std::string &path) {
    if (path.find('.', existing_part(path).size()) != std::string::npos)
        throw Error(Kind::invalid_input, path, "a BPF file system takes no name with a dot");
}

// Who may write to a directory above ours could put another in its place, unless
// the sticky bit keeps them to their own.
void require_safe_above(int directory, const std::string &path) {
    struct stat st, above;
    std::string up = "..";
    if (::fstat(directory, &st))
        raise_errno(path, "look at the pin directory", errno);
    while (!::fstatat(directory, up.c_str(), &above, 0) && above.st_dev == st.st_dev) {
        bool is_open = (above.st_mode & (S_IWGRP | S_IWOTH)) && !(above.st_mode & S_ISVTX);
        if (is_open || (above.st_uid && above.st_uid != ::geteuid()))
            throw Error(Kind::refused, path,
                        "others may write to a directory above it; use another --pin");
        up += "/..";
    }
}

// A directory of ours is on bpffs, below its root, and nobody else's: where all
// may write to the root, somebody else may have made it.
void require_ours(int directory, const std::string &path) {
    struct statfs fs;
    struct stat st, above;
    if (::fstatfs(directory, &fs) || ::fstat(directory, &st) ||
        ::fstatat(directory, "..", &above, 0))
        raise_errno(path, "look at the pin directory", errno);
    if (fs.f_type != BPF_FS_MAGIC)
        refuse_place(path);
    if (st.st_dev != above.st_dev)
        throw Error(Kind::invalid_input, path,
                    "the root of a BPF file system; name a directory below it");
    if (st.st_uid != ::geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
        throw Error(Kind::refused, path,
                    "the pin directory belongs to user " + std::to_string(st.st_uid) +
                        " or others may write to it; remove it, or use another --pin");
    require_safe_above(directory, path);
    // Somebody made it by hand: who can open it can keep everybody else from its lock. On a
    // read-only mount it stays as it is.
    if ((st.st_mode & 0777) != 0700)
        ::fchmod(directory, 0700);
}

// Could the directory be made? It could not where nothing above it is on bpffs,
// unless bpffs itself is only not mounted.
void require_possible(const std::string &path) {
    struct stat st;
    const std::string existing = existing_part(path);
    if (!lacks_mount(path) &&
        (!on_bpffs(existing) || ::stat(existing.c_str(), &st) || !S_ISDIR(st.st_mode)))
        refuse_place(path);
}

} // namespace

bool PinDirectory::exists() const {
    struct stat st;
    if (::stat(path_.c_str(), &st) == 0)
        return S_ISDIR(st.st_mode);
    const int err = errno;
    if (err == EPERM)
        refuse_dots(path_);
    if (err == EACCES || err == EPERM)
        raise_errno(path_, "open the pin directory", err);
    return false;
}

void PinDirectory::create() {
    if (exists() && on_bpffs(path_))
        return;
    require_possible(path_);
    refuse_dots(path_);
    if (lacks_mount(path_) && ::mount("bpf", kBpffs, "bpf", 0, "mode=0700"))
        raise_errno(kBpffs, "mount bpffs", errno);
    make_directory(path_);
}

void PinDirectory::open() {
    PrivateFd fd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd && (errno == ENOENT || errno == ENOTDIR)) {
        require_possible(path_);
        throw Error(Kind::not_found, path_, "no tables here; `attach` and `svc add` make them",
                    ENOENT);
    }
    if (!fd) {
        const int err = errno;
        if (err == EPERM)
            refuse_dots(path_);
        raise_errno(path_, "open the pin directory", err);
    }
    require_ours(fd.get(), path_);
    directory_ = std::move(fd);
    seen_.reset();
}

namespace {

// Would another change change its time? That moves on with the kernel's ticks (current_time() in
// fs/inode.c): within the same one it does not.
bool would_show_more(const struct stat &directory) {
    timespec tick;
    ::clock_gettime(CLOCK_REALTIME_COARSE, &tick);
    return std::pair(directory.st_ctim.tv_sec, directory.st_ctim.tv_nsec) <
           std::pair(tick.tv_sec, tick.tv_nsec);
}

} // namespace

// Is this directory, which stayed open, still at its path, with what was in it? Pins
// that come, go or are replaced change its time, and so do a new owner, a new name,
// and its removal.
bool PinDirectory::is_as_seen(const struct stat &now) const {
    return seen_ && seen_->st_ctim.tv_sec == now.st_ctim.tv_sec &&
           seen_->st_ctim.tv_nsec == now.st_ctim.tv_nsec;
}

void PinDirectory::note(const struct stat &now) {
    seen_ = would_show_more(now) ? std::optional(now) : std::nullopt;
    seen_at_ = std::chrono::steady_clock::now();
    changes_++;
}

void PinDirectory::lock(Lock mode, std::chrono::milliseconds timeout) {
    const auto begin = std::chrono::steady_clock::now(), deadline = begin + timeout;
    auto pause = std::chrono::milliseconds(1);
    if (begin - seen_at_ > kSeenAge)
        seen_.reset();
    for (;;) {
        if (!directory_)
            open();
        if (::flock(directory_.get(), (mode == Lock::shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) {
            struct stat held, now;
            if (::fstat(directory_.get(), &held)) {
                directory_.close();
                raise_errno(path_, "look at the pin directory", errno);
            }
            if (is_as_seen(held))
                return;
            // purged and made again while we waited? then this is the wrong directory
            if (!seen_ && ::stat(path_.c_str(), &now) == 0 && held.st_ino == now.st_ino &&
                held.st_dev == now.st_dev) {
                note(held);
                return;
            }
            directory_.close();
            continue;
        }
        if (errno != EWOULDBLOCK && errno != EINTR)
            raise_errno(path_, "lock the tables", errno);
        if (std::chrono::steady_clock::now() >= deadline)
            throw Error(Kind::table_busy, path_,
                        "the tables are locked" + holder_of(directory_.get()));
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, std::chrono::milliseconds(20));
    }
}

void PinDirectory::unlock() {
    if (directory_ && ::flock(directory_.get(), LOCK_UN))
        directory_.close();
}

bool PinDirectory::try_lock() {
    try {
        lock(Lock::exclusive, std::chrono::milliseconds(0));
    } catch (const Error &) {
        return false;
    }
    return true;
}

std::string PinDirectory::identity() const {
    struct stat st = {};
    ::fstat(directory_.get(), &st);
    const std::string found = std::to_string(st.st_ino) + "@" + std::to_string(st.st_ctim.tv_sec) +
                              "." + std::to_string(st.st_ctim.tv_nsec);
    return would_show_more(st) ? found : found + "#" + std::to_string(changes_);
}

void PinDirectory::remove(const std::vector<std::string> &names) {
    for (const std::string &name : names)
        if (::unlink(file(name).c_str()) && errno != ENOENT)
            raise_errno(file(name), "remove the pin", errno);
    // somebody else's pins, or a mount point, stay
    if (::rmdir(path_.c_str()) && errno != ENOENT && errno != ENOTEMPTY && errno != EBUSY)
        raise_errno(path_, "remove the pin directory", errno);
}

void pin_object(int fd, const std::string &path) {
    if (bpf_obj_pin(fd, path.c_str()))
        raise_errno(path, "pin", errno);
}

Fd open_pinned(const std::string &path) {
    int fd = bpf_obj_get(path.c_str());
    if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
        raise_errno(path, "open", errno);
    return Fd(fd);
}

} // namespace hr
