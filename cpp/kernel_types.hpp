// SPDX-License-Identifier: Apache-2.0
// The kernel's own structs, as its BTF tells of them.
#pragma once

#include <linux/types.h>

namespace hr {

// What a program needs to be shown the kernel's own struct of a socket.
struct SocketType {
    __u32 number;           // of struct sock
    __u32 cookie_offset;    // of its cookie
    __s32 cast;             // number of bpf_rdonly_cast
    __u32 storage_offset;   // of what BPF programs keep on it; 0: unknown
    __u32 kern_sock_offset; // of the byte with the bit sk_kern_sock
    __u8 kern_sock_mask;    // that bit; 0: unknown

    // Does the kernel have all of it?
    explicit operator bool() const { return number && cookie_offset && cast; }
};
SocketType socket_type();

} // namespace hr
