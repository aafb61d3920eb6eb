// SPDX-License-Identifier: Apache-2.0
#include "room.hpp"

#include <cerrno>

#include "error.hpp"
#include "selection.hpp"

namespace hr {

void Used::add(const BlockView &block) {
    services++;
    backends += block.details.members;
    slots += block.selection;
    words += block.words;
}

void Used::add(const ServiceSpec &spec) {
    const std::size_t selection = selection_size(spec);
    services++;
    backends += spec.backends.size();
    slots += selection;
    words += block_words(spec, selection);
}

void Used::take(const BlockView &block) {
    services--;
    backends -= block.details.members;
    slots -= block.selection;
    words -= block.words;
}

void Used::check(const Capacities &room, __u64 words_there, const std::string &where) const {
    auto fits = [&](const char *what, __u64 needed, __u64 capacity) {
        if (needed > capacity)
            throw Error(Kind::table_full, where,
                        "no room: " + std::to_string(needed) + " " + what + " are needed, " +
                            std::to_string(capacity) + " fit; `hostreach attach --max-" + what +
                            " N` makes the tables larger",
                        ENOSPC);
    };
    fits("services", services, room.services);
    fits("backends", backends, room.backends);
    fits("slots", slots, room.slots);
    // names that are longer than what stands aside for them
    fits("slots", words, words_there);
}

} // namespace hr
