// SPDX-License-Identifier: Apache-2.0
// Addresses of a network namespace that may be in anybody's hands.
#pragma once

#include <cstddef>
#include <vector>

#include "layout.hpp"

namespace hr {

// How many are looked at: whoever made a namespace may give it as many as he likes, and
// getifaddrs(3) takes minutes and all memory for them.
constexpr std::size_t kAddressesMost = 16'384;

// Of the calling thread's, in the kernel's order, as local_addresses() picks them. Raises
// kernel_error.
std::vector<hr_ip> some_addresses(std::size_t most = kAddressesMost);

} // namespace hr
