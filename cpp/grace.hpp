// SPDX-License-Identifier: Apache-2.0
// Waiting until no program still holds what it read before.
#pragma once

#include "fd.hpp"

namespace hr {

// Updating an element of a map-in-map waits for an RCU grace period, on any
// number of CPUs (maybe_wait_bpf_programs() in kernel/bpf/syscall.c, Linux 4.18
// and later); no other map update does. It takes 10 to 20 ms: retire in batches.
class GracePeriod {
  public:
    // Raises kernel_error.
    void wait();

  private:
    Fd outer_;
    Fd inner_;
};

} // namespace hr
