// SPDX-License-Identifier: Apache-2.0
// Errors as hostreach.errors knows them: a kind, the object concerned, what went wrong, errno.
#pragma once

#include <stdexcept>
#include <string>

namespace hr {

// Named as the classes of hostreach.errors; module.cpp raises the class of that name.
enum class Kind {
    invalid_input,
    refused,
    not_found,
    table_full,
    table_busy,
    attached_elsewhere,
    abi_mismatch,
    kernel_error,
    permission_denied,
    program_rejected,
};

class Error : public std::runtime_error {
  public:
    Error(Kind kind, std::string object, const std::string &what, int err = 0)
        : std::runtime_error(what), kind(kind), object(std::move(object)), err(err) {}

    Kind kind;
    std::string object;
    int err;
    std::string log; // the verifier's, of a program_rejected
};

// A system call failed: "object: cannot ACTION: REASON". EPERM and EACCES become
// permission_denied and name the capability that was missing.
[[noreturn]] void raise_errno(const std::string &object, const std::string &action, int err);

// Does it say nothing but that there is no memory, descriptor or time just now?
bool is_momentary(int err);

} // namespace hr
