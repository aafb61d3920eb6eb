// SPDX-License-Identifier: Apache-2.0
// Every socket that some process has open.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fd.hpp"

namespace hr {

// Whether this kernel lets us (pidfd_getfd, Linux 5.6).
bool can_borrow_sockets();

// Calls visit(socket) with a descriptor of each, some of them more than once;
// returns early when it says false. False if this kernel cannot.
bool for_each_open_socket(const std::function<bool(const Fd &)> &visit);

// The network namespace of a socket.
Fd namespace_of(const Fd &socket);

// Names in a directory that begin with a digit; empty if it is gone, or not for us.
std::vector<std::string> numbers_in(const std::string &directory);
// Where a symbolic link leads; empty if it is gone, or not for us.
std::string read_link(const std::string &path);

} // namespace hr
