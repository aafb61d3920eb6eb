// SPDX-License-Identifier: Apache-2.0
#include "netns.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace hr {

namespace {

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

std::vector<std::string> numbers_in(const std::string &directory) {
    std::vector<std::string> names;
    DIR *dir = ::opendir(directory.c_str());
    if (!dir)
        return names; // the process is gone, or we may not look
    while (const dirent *entry = ::readdir(dir))
        if (std::isdigit(static_cast<unsigned char>(entry->d_name[0])))
            names.emplace_back(entry->d_name);
    ::closedir(dir);
    return names;
}

std::string read_link(const std::string &path) {
    char target[64];
    ssize_t size = ::readlink(path.c_str(), target, sizeof(target));
    return size > 0 ? std::string(target, static_cast<std::size_t>(size)) : std::string();
}

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

class Search {
  public:
    // Nothing: whatever there is.
    explicit Search(std::optional<std::set<std::uint32_t>> wanted) : wanted_(std::move(wanted)) {}

    Namespaces run() {
        look_at("/proc/thread-self/ns/net");
        pids_ = done() ? std::vector<std::string>() : numbers_in("/proc");
        for (const std::string &pid : pids_)
            if (!done())
                look_at("/proc/" + pid + "/ns/net");
        look_at_mounts();
        for (const std::string &pid : pids_)
            for (const std::string &thread : rest("/proc/" + pid + "/task"))
                look_at("/proc/" + pid + "/task/" + thread + "/ns/net");
        for (const std::string &pid : pids_)
            for (const std::string &fd : rest("/proc/" + pid + "/fd"))
                look_at_fd(pid, fd);
        return std::move(found_);
    }

  private:
    bool done() const { return wanted_ && wanted_->empty(); }

    std::vector<std::string> rest(const std::string &directory) const {
        return done() ? std::vector<std::string>() : numbers_in(directory);
    }

    bool needs(std::uint32_t inode) const {
        return inode && !found_.count(inode) && (!wanted_ || wanted_->count(inode));
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
            take(inode, Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)));
    }

    // In each mount namespace: `ip netns` and container runtimes keep them so.
    void look_at_mounts() {
        std::set<std::string> seen = {read_link("/proc/self/ns/mnt")};
        if (!done())
            look_at_mounts_of("/proc/self/mountinfo", "");
        for (const std::string &pid : pids_) {
            if (done())
                return;
            std::string process = "/proc/" + pid;
            if (seen.insert(read_link(process + "/ns/mnt")).second)
                look_at_mounts_of(process + "/mountinfo", process + "/root");
        }
    }

    void look_at_mounts_of(const std::string &mountinfo, const std::string &root) {
        std::ifstream lines(mountinfo);
        for (std::string line; std::getline(lines, line);) {
            if (line.find(" - nsfs ") == std::string::npos)
                continue;
            std::istringstream fields(line);
            std::string skip, link, path; // ID PARENT DEVICE ROOT MOUNTPOINT
            fields >> skip >> skip >> skip >> link >> path;
            if (std::uint32_t inode = inode_in(link); needs(inode)) {
                path = root + unescape(path);
                take(inode, Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)));
            }
        }
    }

    void look_at_fd(const std::string &pid, const std::string &fd) {
        if (done())
            return;
        std::string path = "/proc/" + pid + "/fd/" + fd;
        std::string link = read_link(path);
        if (link.rfind("socket:[", 0) == 0)
            look_at_socket(pid, std::atoi(fd.c_str()));
        else
            look_at(path);
    }

    // A socket keeps its namespace, though nobody else may be in there any more.
    void look_at_socket(const std::string &pid, int number) {
        if (pid != pidfd_of_) {
            pidfd_ = Fd(static_cast<int>(::syscall(SYS_pidfd_open, std::atoi(pid.c_str()), 0)));
            pidfd_of_ = pid;
        }
        Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd_.get(), number, 0)));
        if (!socket)
            return;
        Fd ns(::ioctl(socket.get(), SIOCGSKNS));
        struct stat about;
        if (ns && !::fstat(ns.get(), &about))
            take(static_cast<std::uint32_t>(about.st_ino), std::move(ns));
    }

    std::optional<std::set<std::uint32_t>> wanted_;
    Namespaces found_;
    std::vector<std::string> pids_;
    Fd pidfd_;
    std::string pidfd_of_;
};

} // namespace

Namespaces find_namespaces(std::set<std::uint32_t> wanted) {
    return Search(std::move(wanted)).run();
}

Namespaces find_all_namespaces() { return Search(std::nullopt).run(); }

std::set<std::uint32_t> visit_namespaces(const Namespaces &namespaces,
                                         const std::function<void(std::uint32_t)> &visit) {
    std::set<std::uint32_t> closed;
    std::exception_ptr thrown;
    // a thread of its own, so that nobody else is moved
    std::thread([&] {
        try {
            for (const auto &[inode, fd] : namespaces) {
                if (::setns(fd.get(), CLONE_NEWNET))
                    closed.insert(inode);
                else
                    visit(inode);
            }
        } catch (...) {
            thrown = std::current_exception();
        }
    }).join();
    if (thrown)
        std::rethrow_exception(thrown);
    return closed;
}

} // namespace hr
