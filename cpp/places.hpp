// SPDX-License-Identifier: Apache-2.0
// Connections that are kept by their socket's cookie, in `holders` and `places`.
#pragma once

#include <functional>
#include <set>
#include <vector>

#include "layout.hpp"
#include "netns.hpp"
#include "pin.hpp"
#include "shared_array.hpp"

namespace hr {

// One that is held.
struct HeldPlace {
    __u64 cookie; // the socket's
    __u64 netns;  // cookie of its network namespace; 0 = not known
    hr_connection connection;
};

class Places {
  public:
    // Of tables without any, or that are not mapped: none is ever held.
    explicit Places(const PinDirectory &pin);

    // Each that is held, as it is while it is looked at.
    std::vector<HeldPlace>
    held(const std::function<bool(const hr_connection &)> &is_wanted = nullptr) const;

    // Frees those of sockets that are no more, since nobody saw them close. What is in
    // a namespace that cannot be entered keeps its place, and counts no more. Programs may
    // take and leave places meanwhile, but no other process. Whether there were such.
    // Raises kernel_error.
    bool sweep();

    // From now on whoever holds no place looks at socket storage: there may be
    // connections from a time when there were no places.
    void crowd();
    // Has anybody done so? Then a socket with a connection may never have been asked
    // for its cookie.
    bool were_crowded() const;
    // Is nothing in socket storage? Whoever put something there marked a place before.
    bool hold_all() const;

  private:
    struct Dead {
        std::set<__u64> sure, unsure; // cookies
    };

    std::vector<HeldPlace>
    find(const std::function<bool(__u64 holder, const hr_connection &)> &is_wanted) const;
    bool is_free(std::size_t first, std::size_t count) const;
    Dead find_dead() const;
    void leave(__u64 cookie);
    void clear(std::size_t at);
    bool pass(std::size_t at, __u64 from, __u64 to);

    SharedArray<__u64> holders_;
    SharedArray<hr_place> places_;
};

// How many of these sockets are connected to where they were sent; those in
// namespaces that cannot be entered are taken for it. Raises kernel_error.
std::size_t count_connected(const std::vector<HeldPlace> &held);

// The network namespaces with these cookies, as far as they can be found and
// entered. What was found is taken out of `wanted`; one that does not tell its
// cookie is found for whoever looks.
Namespaces find_namespaces_by_cookie(std::set<__u64> &wanted);

} // namespace hr
