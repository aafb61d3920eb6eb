// SPDX-License-Identifier: Apache-2.0
// Sockets by netlink SOCK_DIAG, for kernels whose BPF cannot end them.
#pragma once

#include <linux/inet_diag.h>

#include <functional>
#include <vector>

#include "fd.hpp"
#include "socket_record.hpp"

namespace hr {

// One socket with a record, as the kernel describes it.
struct DiagSocket {
    __u8 family;
    __u16 protocol;
    inet_diag_sockid id; // with the cookie: no other socket is ever meant
    hr_connection record;
    __u32 peer_ip[4]; // network byte order, IPv4 as IPv6-mapped
    __u32 local_ip[4];
};

// Of the network namespace that the thread is in when it is made.
class SockDiag {
  public:
    // `connections` is the socket storage with the records. Raises kernel_error.
    explicit SockDiag(int connections);

    // Does this kernel show socket storage here (Linux 5.7)?
    bool shows_records();
    // Connected sockets of this protocol that have a record and somebody who has
    // them open. Raises kernel_error.
    std::vector<DiagSocket> connected(__u16 protocol);
    // 0; ENOENT if it is gone or connected elsewhere by now; EOPNOTSUPP where the
    // kernel was built without CONFIG_INET_DIAG_DESTROY.
    int end(const DiagSocket &socket);

  private:
    int dump(__u8 family, __u16 protocol, int map, std::vector<DiagSocket> *found);
    void request(__u16 type, __u16 flags, const inet_diag_req_v2 &about, int map);
    // Reads until the end of a dump or an acknowledgement, and returns its errno.
    int receive(const std::function<void(const inet_diag_msg &, std::size_t)> &visit);

    Fd socket_;
    int connections_;
};

} // namespace hr
