// SPDX-License-Identifier: Apache-2.0
#include "error.hpp"

#include <cerrno>
#include <cstring>

namespace hr {

void raise_errno(const std::string &object, const std::string &action, int err) {
    std::string what = "cannot " + action + ": " + std::strerror(err);
    if (err == EPERM || err == EACCES)
        throw Error(Kind::permission_denied, object,
                    what + "; run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN", err);
    throw Error(Kind::kernel_error, object, what, err);
}

bool is_momentary(int err) {
    return err == ENOMEM || err == EINTR || err == EAGAIN || err == EMFILE || err == ENFILE;
}

} // namespace hr
