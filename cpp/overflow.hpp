// SPDX-License-Identifier: Apache-2.0
// The LRU `overflow`, as those see it who end the sockets of backends that are gone.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "layout.hpp"
#include "pin.hpp"

namespace hr {

// A connection whose socket had no room to remember it.
struct SpiltConnection {
    hr_overflow_key key; // HR_BY_PEER
    hr_origin origin;
};

// Those that are wanted. Raises kernel_error.
std::vector<SpiltConnection>
spilt_connections(const PinDirectory &pin, const std::function<bool(const hr_origin &)> &is_wanted);

// Connections whose sockets were looked for. The LRU does not hear of a socket's
// close, so they would be looked for again each time.
class LookedFor {
  public:
    // These are all that there are, and were looked for in every network namespace,
    // and ended where they were found. Those that this was said of some time ago too
    // go from the LRU: a socket that was on its way to its backend is there by now.
    void add(const PinDirectory &pin, const std::vector<SpiltConnection> &connections);

  private:
    using Clock = std::chrono::steady_clock;
    std::unordered_map<std::string, Clock::time_point> since_;
};

} // namespace hr
