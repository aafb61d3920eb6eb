// SPDX-License-Identifier: Apache-2.0
// Other tables in place of those that are there, under traffic: larger ones, or
// those of this version's layout in place of an older one's.
#pragma once

#include <string>

#include "tables.hpp"

namespace hr {

// Both need the exclusive lock. The new tables are pinned in `next/` until the
// attached programs were replaced by ones that use them; then their pins are
// moved over the old ones. Indexes and ids stay, so sockets keep what they
// remember. A process that is killed on the way leaves either tables that
// nothing uses, or programs that use the new ones: recover_replacement() tells
// which, and goes back or forward.

// Larger tables; false if they are as large already. Raises refused if they are
// larger.
bool grow(const PinDirectory &pin, const Capacities &asked, const std::string &cgroup_mount);

// Tables of an older layout become ones of this; false if they are that already.
// Raises abi_mismatch for those of a newer one, not_found where there are none.
bool migrate(const PinDirectory &pin, const std::string &cgroup_mount);

// To be called by whoever takes the exclusive lock. True if the tables that are
// pinned may be others than before.
bool recover_replacement(const PinDirectory &pin, const std::string &cgroup_mount);

// Before a purge: neither back nor forward.
void discard_replacement(const PinDirectory &pin);

} // namespace hr
