// SPDX-License-Identifier: Apache-2.0
// A thread of its own for what moves a thread to another namespace.
#pragma once

#include <functional>

namespace hr {

// Returns when it is done, and rethrows what it throws. Raises kernel_error if there can
// be no thread.
void on_own_thread(const std::function<void()> &run);

} // namespace hr
