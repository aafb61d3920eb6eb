// SPDX-License-Identifier: Apache-2.0
// `ports`: which protocols and ports any service has.
#pragma once

#include <netinet/in.h>

#include "shared_array.hpp"

namespace hr {

// While programs look: one store.
inline void set_port(SharedArray<hr_line> &ports, const hr_key &key, bool is_used) {
    if (key.scope > HR_NODE)
        return; // no writer's: something else wrote into the table
    const std::size_t line = HR_PORT_LINE(key.protocol == IPPROTO_UDP, key.port);
    __u32 &word = ports.draft()[line].word[HR_PORT_WORD(key.scope, key.port)];
    const __u32 bit = HR_PORT_BIT(key.port);
    publish(word, is_used ? word | bit : word & ~bit);
    ports.push(line, 1);
}

} // namespace hr
