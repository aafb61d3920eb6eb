// SPDX-License-Identifier: Apache-2.0
#include "netns.hpp"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "open_sockets.hpp"
#include "own_thread.hpp"

namespace hr {

namespace {

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

constexpr int kTries = 4;

// "net:[4026531840]" -> 4026531840; 0 for anything else.
std::uint32_t inode_in(const std::string &link) {
    if (link.rfind("net:[", 0) != 0)
        return 0;
    return static_cast<std::uint32_t>(std::strtoul(link.c_str() + 5, nullptr, 10));
}

// The kernel writes blanks and the like in a path as \040.
std::string unescape(const std::string &path) {
    std::string plain;
    for (std::size_t i = 0; i < path.size(); i++) {
        if (path[i] == '\\' && i + 3 < path.size()) {
            plain += static_cast<char>(std::strtoul(path.substr(i + 1, 3).c_str(), nullptr, 8));
            i += 3;
        } else {
            plain += path[i];
        }
    }
    return plain;
}

// A place to look at, which neither waits nor has effects, whatever it is. Whoever made the mounts
// below `root` may have put a file system on the way that never answers (FUSE); but the way to what
// is mounted is in the kernel's memory for as long as it is.
Fd find_place(const Fd &root, const std::string &path) {
    open_how how = {};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_CACHED;
    for (int tries = 0; tries < kTries; tries++) {
        Fd place(
            static_cast<int>(::syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof(how))));
        if (place)
            return place;
        if (errno != EAGAIN) // also because something was mounted or renamed just then
            break;
    }
    if (errno != ENOSYS && errno != EINVAL && errno != EPERM) // before Linux 5.6, 5.12; sandboxes
        return Fd();
    return Fd(::openat(root.get(), ("." + path).c_str(), O_PATH | O_CLOEXEC));
}

// It may lead to a device or a pipe by now; nor is a file system to be asked what it is.
Fd open_namespace(const Fd &place, std::uint32_t inode) {
    struct statx about;
    struct stat ours;
    if (!place || ::stat("/proc/self/ns/net", &ours) ||
        ::statx(place.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &about) ||
        makedev(about.stx_dev_major, about.stx_dev_minor) != ours.st_dev || about.stx_ino != inode)
        return Fd();
    return Fd(
        ::open(("/proc/self/fd/" + std::to_string(place.get())).c_str(), O_RDONLY | O_CLOEXEC));
}

class Search {
  public:
    // Nothing wanted in particular: all that there are.
    explicit Search(std::optional<std::set<std::uint32_t>> wanted) : wanted_(std::move(wanted)) {}

    Namespaces inhabited() {
        look_at_the_likely();
        return std::move(found_);
    }

    Namespaces run() {
        look_at_the_likely();
        for (const std::string &pid : pids_)
            for (const std::string &thread : rest("/proc/" + pid + "/task"))
                look_at("/proc/" + pid + "/task/" + thread + "/ns/net");
        for (const std::string &pid : pids_)
            for (const std::string &fd : rest("/proc/" + pid + "/fd"))
                look_at("/proc/" + pid + "/fd/" + fd);
        if (!done())
            look_at_sockets();
        return std::move(found_);
    }

  private:
    void look_at_the_likely() {
        look_at("/proc/thread-self/ns/net");
        pids_ = done() ? std::vector<std::string>() : numbers_in("/proc");
        for (const std::string &pid : pids_)
            if (!done())
                look_at("/proc/" + pid + "/ns/net");
        look_at_mounts();
    }

    bool done() const { return wanted_ && wanted_->empty(); }

    std::vector<std::string> rest(const std::string &directory) const {
        return done() ? std::vector<std::string>() : numbers_in(directory);
    }

    bool needs(std::uint32_t inode) const {
        return inode && (wanted_ ? wanted_->count(inode) : !found_.count(inode));
    }

    void take(std::uint32_t inode, Fd fd) {
        if (!fd || !needs(inode))
            return;
        found_.emplace(inode, std::move(fd));
        if (wanted_)
            wanted_->erase(inode);
    }

    // The link names the inode: most need not be opened.
    void look_at(const std::string &path) {
        if (std::uint32_t inode = inode_in(read_link(path)); needs(inode))
            take(inode, open_namespace(Fd(::open(path.c_str(), O_PATH | O_CLOEXEC)), inode));
    }

    // In each mount namespace: `ip netns` and container runtimes keep them so.
    void look_at_mounts() {
        std::set<std::string> seen = {read_link("/proc/self/ns/mnt")};
        if (!done())
            look_at_mounts_of("/proc/self");
        for (const std::string &pid : pids_) {
            if (done())
                return;
            std::string process = "/proc/" + pid;
            if (seen.insert(read_link(process + "/ns/mnt")).second)
                look_at_mounts_of(process);
        }
    }

    void look_at_mounts_of(const std::string &process) {
        std::ifstream lines(process + "/mountinfo");
        Fd root;
        for (std::string line; std::getline(lines, line);) {
            if (line.find(" - nsfs ") == std::string::npos)
                continue;
            std::istringstream fields(line);
            std::string skip, link, path; // ID PARENT DEVICE ROOT MOUNTPOINT
            fields >> skip >> skip >> skip >> link >> path;
            const std::uint32_t inode = inode_in(link);
            if (!needs(inode))
                continue;
            if (!root)
                root = Fd(::open((process + "/root").c_str(), O_PATH | O_CLOEXEC));
            take(inode, open_namespace(find_place(root, unescape(path)), inode));
        }
    }

    // A socket keeps its namespace, though nobody else may be in there any more.
    void look_at_sockets() {
        for_each_open_socket([&](const Fd &socket) {
            Fd ns = namespace_of(socket);
            struct stat about;
            if (ns && !::fstat(ns.get(), &about))
                take(static_cast<std::uint32_t>(about.st_ino), std::move(ns));
            return !done();
        });
    }

    std::optional<std::set<std::uint32_t>> wanted_; // and not found yet
    Namespaces found_;
    std::vector<std::string> pids_;
};

} // namespace

Namespaces find_namespaces(std::set<std::uint32_t> wanted) {
    return Search(std::move(wanted)).run();
}

Namespaces find_inhabited_namespaces() { return Search(std::nullopt).inhabited(); }

Namespaces find_all_namespaces() { return Search(std::nullopt).run(); }

bool is_ours(const Fd &ns) {
    Fd owner(::ioctl(ns.get(), NS_GET_USERNS));
    struct stat theirs, ours;
    return owner && !::fstat(owner.get(), &theirs) && !::stat("/proc/self/ns/user", &ours) &&
           theirs.st_ino == ours.st_ino;
}

std::set<std::uint32_t> visit_namespaces(const Namespaces &namespaces,
                                         const std::function<void(std::uint32_t)> &visit) {
    std::set<std::uint32_t> closed;
    on_own_thread([&] {
        for (const auto &[inode, fd] : namespaces) {
            if (::setns(fd.get(), CLONE_NEWNET))
                closed.insert(inode);
            else
                visit(inode);
        }
    });
    return closed;
}

} // namespace hr
