// SPDX-License-Identifier: Apache-2.0
// The directory on bpffs that is an instance, and the lock on it.
#pragma once

#include <sys/stat.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "fd.hpp"
#include "private_fd.hpp"

namespace hr {

enum class Lock { shared, exclusive };

// An instance's directory, private to root. The lock is flock(2) on the
// directory itself: it dies with its holder, whatever kills it, and nobody
// who may not enter the directory can take it. It stays open between two locks: while
// nothing in it comes or goes, the next one is no more than flock(2) and fstat(2).
class PinDirectory {
  public:
    explicit PinDirectory(std::string path) : path_(std::move(path)) {}

    const std::string &path() const { return path_; }
    std::string file(const std::string &name) const { return path_ + "/" + name; }

    bool exists() const;
    // Makes the directory, mounting bpffs at /sys/fs/bpf if nothing is. Raises
    // invalid_input for a path outside bpffs, kernel_error.
    void create();
    // Raises table_busy after `timeout`, naming the holder; not_found if there
    // is no such directory.
    void lock(Lock mode, std::chrono::milliseconds timeout);
    // The exclusive lock, if nobody has it or a shared one.
    bool try_lock();
    void unlock();
    // False in a process that was forked since it was locked.
    bool is_open() const { return bool(directory_); }
    // Lets go of the directory; needs no lock.
    void close() { directory_.close(); }
    // Differs from what it was before anything in the directory came, went or was replaced,
    // and from that of every directory that was removed; needs the lock.
    std::string identity() const;
    // Rises with each lock before which something in the directory, or the directory
    // itself, may have come or gone.
    unsigned changes() const { return changes_; }
    // Removes these pins and, if nothing else is pinned there, the directory.
    void remove(const std::vector<std::string> &names);

  private:
    void open();
    bool is_as_seen(const struct stat &now) const;
    void note(const struct stat &now);

    std::string path_;
    PrivateFd directory_;
    unsigned changes_ = 0;
    // Unless a change might not show in it.
    std::optional<struct stat> seen_;
    std::chrono::steady_clock::time_point seen_at_;
};

// Pins under a temporary name that a crash leaves behind are never opened.
void pin_object(int fd, const std::string &path);
// -1 if there is none; raises kernel_error.
Fd open_pinned(const std::string &path);

} // namespace hr
