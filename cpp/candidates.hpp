// SPDX-License-Identifier: Apache-2.0
// Which sockets are to be ended, as far as what they remember tells.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "diag.hpp"
#include "iterators.hpp"
#include "netns.hpp"
#include "overflow.hpp"
#include "places.hpp"
#include "socket_record.hpp"
#include "tables.hpp"

namespace hr {

// Sockets that are to be ended, or nearly so: by what they remember, and not yet
// by where they are.
struct Candidates {
    std::vector<hr_socket> due; // for sure; without iterators MPTCP's alone
    std::map<__u64, std::vector<hr_origin>> by_cookie;
    std::map<__u32, __u32> by_netns; // how many are in each
    Namespaces open;                 // those of them that are open already
    std::map<__u64, __u32> placed;   // by a namespace's cookie: how many were found by theirs
    bool on_their_way = false;       // some are not connected, or not yet
};

// Which sockets are to be ended, by how they got to their peer.
class Rule {
  public:
    // Those of backends that are gone; or of these, as if they were.
    Rule(const Tables &tables, const std::set<__u32> *as_if_gone)
        : tables_(tables), as_if_gone_(as_if_gone) {}

    bool is_due(const hr_origin &origin) const {
        if (!origin.given_port || origin.backend >= tables_.backends.size())
            return false;
        const hr_backend backend = tables_.backends.load(origin.backend);
        if (as_if_gone_)
            return as_if_gone_->contains(origin.backend) &&
                   backend.incarnation == origin.incarnation;
        return hr_is_due(&backend, &origin);
    }
    // In the words of iterators, which know backends that are gone themselves.
    bool is_due(const hr_socket &socket) const {
        return as_if_gone_ ? is_due(socket.origin) : socket.flags & HR_SOCKET_DUE;
    }
    __u32 wanted() const {
        return as_if_gone_ ? HR_SOCKET_THERE : HR_SOCKET_DUE | HR_SOCKET_ON_ITS_WAY;
    }

  private:
    const Tables &tables_;
    const std::set<__u32> *as_if_gone_;
};

// All that are in storage. Raises kernel_error.
Candidates ask_iterators(Iterators &iterators, const Rule &rule);

// Without iterators: borrow every process's sockets and read what they remember.
// False if this kernel has no way to do so.
bool ask_processes(int connections, const Rule &rule, Candidates *found);

// What is kept by the socket's cookie. Whether it is connected, only its namespace tells.
void ask_places(const Places &places, const Rule &rule, Candidates *found);

// What sockets had no room for, or all where the kernel gives them none: these
// are known by their cookies alone, so every namespace has to be searched.
std::vector<SpiltConnection> ask_overflow(const PinDirectory &pin, const Tables &tables,
                                          const Rule &rule);

// How the socket got to its peer; null if by no service. By its cookie or, where it had none when
// it was found, by its address.
const hr_origin *find_origin(const Candidates &found, const DiagSocket &socket, __u32 netns);

} // namespace hr
