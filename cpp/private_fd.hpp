// SPDX-License-Identifier: Apache-2.0
// A file descriptor that forked children do not keep.
#pragma once

#include <utility>

namespace hr {

// flock(2) is on the open file, which a forked child has too: kept there, a lock would
// outlive the process that took it. So a child closes all of these at once, and finds
// them closed.
class PrivateFd {
  public:
    PrivateFd() = default;
    // Raises kernel_error if forks cannot be told.
    explicit PrivateFd(int fd);
    PrivateFd(PrivateFd &&other) noexcept
        : fd_(std::exchange(other.fd_, -1)), forks_(other.forks_) {}
    PrivateFd &operator=(PrivateFd &&other) noexcept {
        if (this != &other) {
            close();
            fd_ = std::exchange(other.fd_, -1);
            forks_ = other.forks_;
        }
        return *this;
    }
    ~PrivateFd() { close(); }

    int get() const;
    explicit operator bool() const { return get() >= 0; }
    void close();

  private:
    int fd_ = -1;
    unsigned forks_ = 0;
};

} // namespace hr
