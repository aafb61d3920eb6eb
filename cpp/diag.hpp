// SPDX-License-Identifier: Apache-2.0
// Sockets by netlink SOCK_DIAG, for kernels whose BPF cannot end them.
#pragma once

#include <linux/inet_diag.h>

#include <functional>
#include <optional>
#include <vector>

#include "fd.hpp"
#include "layout.hpp"

namespace hr {

// One socket, as the kernel describes it.
struct DiagSocket {
    __u8 family;
    __u8 protocol;
    inet_diag_sockid id; // with the cookie: no other socket is ever meant
    __u32 peer_ip[4];    // network byte order, IPv4 as IPv6-mapped
    __u32 local_ip[4];

    __u64 cookie() const { return id.idiag_cookie[0] | __u64{id.idiag_cookie[1]} << 32; }
};

// Is the socket's peer the backend that was given?
bool leads_to(const hr_origin &origin, const DiagSocket &socket);

// Of the network namespace that the thread is in when it is made.
class SockDiag {
  public:
    // Raises kernel_error.
    SockDiag();

    // Connected sockets of this protocol that somebody has open. (They could be
    // asked for their storage since Linux 5.7, but only TCP's answer.) Raises
    // kernel_error.
    std::vector<DiagSocket> connected(__u8 protocol);
    // The same in whatever state they are, as long as the kernel knows them by a port;
    // nothing where it does not show this protocol's.
    std::optional<std::vector<DiagSocket>> open(__u8 protocol);
    // 0; ENOENT if it is gone or connected elsewhere by now; EOPNOTSUPP where the
    // kernel was built without CONFIG_INET_DIAG_DESTROY.
    int end(const DiagSocket &socket);
    // Whether this kernel shows sockets of both protocols, and ends them.
    bool can_end();

  private:
    std::optional<std::vector<DiagSocket>> list(__u8 protocol, __u32 states);
    void request(__u16 type, __u16 flags, const inet_diag_req_v2 &about);
    // Reads until the end of a dump or an acknowledgement, and returns its errno.
    int receive(const std::function<void(const inet_diag_msg &)> &visit);

    Fd socket_;
};

} // namespace hr
