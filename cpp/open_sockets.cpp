// SPDX-License-Identifier: Apache-2.0
#include "open_sockets.hpp"

#include <dirent.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <cctype>
#include <cerrno>
#include <cstdlib>

namespace hr {

namespace {

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

Fd open_process(int pid) { return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

Fd take_fd(const Fd &process, int number) {
    return Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
}

} // namespace

std::vector<std::string> numbers_in(const std::string &directory) {
    std::vector<std::string> names;
    DIR *dir = ::opendir(directory.c_str());
    if (!dir)
        return names;
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

bool can_borrow_sockets() {
    Fd self = open_process(::getpid());
    return self && (take_fd(self, -1) || errno != ENOSYS);
}

bool for_each_open_socket(const std::function<bool(const Fd &)> &visit) {
    if (!can_borrow_sockets())
        return false;
    for (const std::string &pid : numbers_in("/proc")) {
        const std::string fds = "/proc/" + pid + "/fd";
        Fd process;
        for (const std::string &fd : numbers_in(fds)) {
            if (read_link(fds + "/" + fd).rfind("socket:[", 0) != 0)
                continue;
            if (!process)
                process = open_process(std::atoi(pid.c_str()));
            if (Fd socket = take_fd(process, std::atoi(fd.c_str())); socket && !visit(socket))
                return true;
        }
    }
    return true;
}

Fd namespace_of(const Fd &socket) { return Fd(::ioctl(socket.get(), SIOCGSKNS)); }

} // namespace hr
