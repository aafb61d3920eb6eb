// SPDX-License-Identifier: Apache-2.0
// Larger tables in place of those that are there, under traffic.
#pragma once

#include <string>

#include "tables.hpp"

namespace hr {

// Replaces the tables whose size depends on the capacities by larger ones with
// the same content, and the attached programs by ones that use them: indexes
// and ids stay, so sockets keep what they remember. Needs the exclusive lock.
// False if they are as large already; raises refused if they are larger.
//
// The new tables are pinned in `next/` until the programs use them. A process
// that is killed on the way leaves either tables that nothing uses, or programs
// that use the new ones: recover() tells which, and goes back or forward.
bool grow(const PinDirectory &pin, const Capacities &asked, const std::string &cgroup_mount);

// To be called by whoever takes the exclusive lock.
void recover_growth(const PinDirectory &pin, const std::string &cgroup_mount);

// Before a purge: neither back nor forward.
void discard_growth(const PinDirectory &pin);

} // namespace hr
