// SPDX-License-Identifier: Apache-2.0
// The kernel's own structs, as its BTF tells of them.
#pragma once

namespace hr {

// Bytes from the begin of the struct; 0 if the kernel has no BTF, no such field,
// or one of some bits.
unsigned kernel_offset(const char *type, const char *field);

} // namespace hr
