// SPDX-License-Identifier: Apache-2.0
#include "private_fd.hpp"

#include <pthread.h>
#include <unistd.h>

#include <mutex>
#include <set>

#include "error.hpp"

namespace hr {

namespace {

// Never destroyed: a process may fork while it ends.
std::mutex &mutex() {
    static std::mutex *const the = new std::mutex;
    return *the;
}

std::set<int> &open_ones() {
    static std::set<int> *const the = new std::set<int>;
    return *the;
}

unsigned forks = 0; // between this process and the one that it was at first

void close_all() {
    for (int fd : open_ones())
        ::close(fd);
    open_ones().clear();
    forks++;
    mutex().unlock();
}

} // namespace

PrivateFd::PrivateFd(int fd) : fd_(fd) {
    static const int err =
        ::pthread_atfork([] { mutex().lock(); }, [] { mutex().unlock(); }, close_all);
    if (err) {
        ::close(fd);
        fd_ = -1;
        raise_errno("lock", "tell forks", err);
    }
    forks_ = forks;
    if (fd < 0)
        return;
    std::lock_guard guard(mutex());
    open_ones().insert(fd);
}

int PrivateFd::get() const { return forks_ == forks ? fd_ : -1; }

void PrivateFd::close() {
    if (int fd = get(); fd >= 0) {
        std::lock_guard guard(mutex());
        open_ones().erase(fd);
        ::close(fd);
    }
    fd_ = -1;
}

} // namespace hr
