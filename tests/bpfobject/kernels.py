# SPDX-License-Identifier: Apache-2.0
"""The first kernel that has what a BPF program may use, with the commit that brought it.

Written down from Linux's history, not found by trying: that is for kernels that cannot be had here.
A release is as long as it has to be: 4.19.57 got what 5.0 lacks. What stands at 4.17 may be older.
"""

from __future__ import annotations

from typing import NamedTuple

Kernel = tuple[int, ...]


class Since(NamedTuple):
    """``never`` stands for what no kernel takes."""

    kernel: Kernel
    source: str

    def __str__(self) -> str:
        if self == NEVER:
            return "which no kernel takes"
        return f"which is Linux {'.'.join(map(str, self.kernel))} ({self.source})"


NEVER = Since((99,), "")
CONNECT = Since((4, 17), "d74bad4e74ee")  # the hook, and what sock_addr programs began with
BIND = Since((4, 17), "aac3fc320d94")
UDP = Since((4, 19, 57), "983695fa6765")  # also 5.1.16 and 5.2, but not 5.0

# Sections of programs, and so where they are attached.
HOOKS = {
    **dict.fromkeys(("cgroup/connect4", "cgroup/connect6"), CONNECT),
    **dict.fromkeys(("cgroup/sendmsg4", "cgroup/sendmsg6"), Since((4, 18), "1cedee13d25a")),
    **dict.fromkeys(("cgroup/recvmsg4", "cgroup/recvmsg6"), UDP),
    **dict.fromkeys(("cgroup/getpeername4", "cgroup/getpeername6"), Since((5, 8), "1b66d253610c")),
    **dict.fromkeys(("cgroup/post_bind4", "cgroup/post_bind6"), BIND),
    "cgroup/sock_release": Since((5, 9), "f5836749c9c0"),
}
SOCK_HOOKS = {"cgroup/post_bind4", "cgroup/post_bind6", "cgroup/sock_release"}
ALWAYS_PASSES = {"recvmsg", "getpeername"}  # hooks whose programs may return nothing but 1

# bpf_get_current_cgroup_id is older than that, but not for these programs.
_CGROUP_IDS = Since((5, 7), "0f09abd105da and its series")
# By trying: 5.10 has it. No older kernel was tried, and none that knows no sock_release needs it.
_PROBE_READ = Since((5, 10), "tried")
_RINGBUF = Since((5, 8), "457f44363a88")
_COMMON = {
    1: ("map_lookup_elem", CONNECT),
    2: ("map_update_elem", CONNECT),
    3: ("map_delete_elem", CONNECT),
    5: ("ktime_get_ns", CONNECT),
    7: ("get_prandom_u32", CONNECT),
    8: ("get_smp_processor_id", CONNECT),
    12: ("tail_call", CONNECT),
    15: ("get_current_uid_gid", CONNECT),
    42: ("get_numa_node_id", CONNECT),
    80: ("get_current_cgroup_id", _CGROUP_IDS),
    81: ("get_local_storage", Since((4, 19), "cd3394317653")),
    93: ("spin_lock", Since((5, 1), "d83525ca62cf")),
    94: ("spin_unlock", Since((5, 1), "d83525ca62cf")),
    122: ("get_netns_cookie", Since((5, 7), "f318903c0bf4")),
    123: ("get_current_ancestor_cgroup_id", _CGROUP_IDS),
    125: ("ktime_get_boot_ns", Since((5, 8), "71d19214776e")),
    130: ("ringbuf_output", _RINGBUF),
    131: ("ringbuf_reserve", _RINGBUF),
    132: ("ringbuf_submit", _RINGBUF),
    133: ("ringbuf_discard", _RINGBUF),
    160: ("ktime_get_coarse_ns", Since((5, 11), "d05512618056")),
    181: ("loop", Since((5, 17), "e6f2dd0f8067")),
    187: ("set_retval", Since((6, 1), "dea6a4e17013")),  # in sockopt programs 5.18
}
# By number: the name, and since when programs of the hook may call it.
SOCK_ADDR_HELPERS = {
    **_COMMON,
    14: ("get_current_pid_tgid", Since((5, 7), "834ebca83197")),
    16: ("get_current_comm", Since((5, 7), "834ebca83197")),
    46: ("get_socket_cookie", Since((4, 19), "d692f1138a4b")),
    64: ("bind", CONNECT),
    107: ("sk_storage_get", Since((5, 3), "fb85c4a730af")),
    108: ("sk_storage_delete", Since((5, 3), "fb85c4a730af")),
    113: ("probe_read_kernel", _PROBE_READ),
    196: ("skc_to_mptcp_sock", Since((5, 19), "3bc253c2e652")),
}
SOCK_HELPERS = {
    **_COMMON,
    46: ("get_socket_cookie", _CGROUP_IDS),
    107: ("sk_storage_get", Since((5, 9), "f7c6cb1d9728")),
    108: ("sk_storage_delete", Since((5, 9), "f7c6cb1d9728")),
}

# enum bpf_map_type
MAP_TYPES = {
    **dict.fromkeys((1, 2), ("HASH or ARRAY", CONNECT)),
    **dict.fromkeys((5, 6), ("PERCPU_HASH or PERCPU_ARRAY", CONNECT)),
    **dict.fromkeys((9, 10), ("LRU_HASH or LRU_PERCPU_HASH", CONNECT)),
    11: ("LPM_TRIE", CONNECT),
    **dict.fromkeys((12, 13), ("ARRAY_OF_MAPS or HASH_OF_MAPS", CONNECT)),
    24: ("SK_STORAGE", Since((5, 2), "6ac99e8f23d4")),
    27: ("RINGBUF", _RINGBUF),
    32: ("CGRP_STORAGE", Since((6, 2), "c4bcfb38a95e")),
}
MAP_FLAGS = {
    1 << 0: ("BPF_F_NO_PREALLOC", CONNECT),
    1 << 1: ("BPF_F_NO_COMMON_LRU", CONNECT),
    1 << 2: ("BPF_F_NUMA_NODE", CONNECT),
    1 << 3: ("BPF_F_RDONLY", CONNECT),
    1 << 4: ("BPF_F_WRONLY", CONNECT),
    1 << 6: ("BPF_F_ZERO_SEED", Since((5, 0), "96b3b6c9091d")),
    1 << 7: ("BPF_F_RDONLY_PROG", Since((5, 2), "591fe9888d78")),
    1 << 8: ("BPF_F_WRONLY_PROG", Since((5, 2), "591fe9888d78")),
    1 << 10: ("BPF_F_MMAPABLE", Since((5, 5), "fc9702273e2e")),
}
BPF_F_MMAPABLE = 1 << 10


class Field(NamedTuple):
    """Of a context. ``whole``: reads of all its bytes; ``part``: of fewer; ``wide``: of 8."""

    whole: Since
    part: Since = NEVER
    wide: Since = NEVER
    is_writable: bool = False


_WIDE = Since((5, 3), "its series of wide aligned stores, and of loads")
_SENDMSG = Since((4, 18), "1cedee13d25a")
_NARROW_PORT = Since((5, 8), "7aebfa1b3885")
_SK = Since((5, 3), "fb85c4a730af")
_SOCK_FIELDS = Since((5, 1), "aa65d6960a98")
_NARROW_SOCK = Since((5, 1), "5f4566498dee")


def _words(first: int, field: Field) -> dict[int, Field]:
    """Four words of an IPv6 address."""
    return {first + 4 * n: field for n in range(4)}


# struct bpf_sock_addr, by offset. All but `sk` are words.
SOCK_ADDR = {
    0: Field(CONNECT),  # user_family
    4: Field(CONNECT, CONNECT, is_writable=True),  # user_ip4
    **_words(8, Field(CONNECT, CONNECT, _WIDE, is_writable=True)),  # user_ip6
    24: Field(CONNECT, _NARROW_PORT, is_writable=True),  # user_port
    **dict.fromkeys((28, 32, 36), Field(CONNECT)),  # family, type, protocol
    40: Field(_SENDMSG, _SENDMSG, is_writable=True),  # msg_src_ip4
    **_words(44, Field(_SENDMSG, _SENDMSG, _WIDE, is_writable=True)),  # msg_src_ip6
    64: Field(NEVER, wide=_SK),  # sk
}
# struct bpf_sock
SOCK = {
    **dict.fromkeys((0, 16, 20), Field(BIND)),  # bound_dev_if, mark, priority
    **dict.fromkeys((4, 8, 12), Field(BIND, _NARROW_SOCK)),  # family, type, protocol
    24: Field(BIND, BIND),  # src_ip4
    **_words(28, Field(BIND, BIND)),  # src_ip6
    44: Field(BIND, _NARROW_SOCK),  # src_port
    **dict.fromkeys((48, 52, 72), Field(_SOCK_FIELDS, _SOCK_FIELDS)),  # dst_port, dst_ip4, state
    **_words(56, Field(_SOCK_FIELDS, _SOCK_FIELDS)),  # dst_ip6
    76: Field(Since((5, 8), "c3c16f2ea6d2"), Since((5, 8), "c3c16f2ea6d2")),  # rx_queue_mapping
}
CONTEXT_SK = 64  # of struct bpf_sock_addr

GLOBAL_DATA = Since((5, 2), "d8eca5bbb2be")
LONG_PROGRAM = Since((5, 2), "c04c0d2b968a")
SHORT_PROGRAM = 4096  # BPF_MAXINSNS
LOOP = Since((5, 3), "2589726d12a1")
GLOBAL_FUNCTION = Since((5, 6), "51c39bb1d5d1")
TAIL_CALL_WITH_FUNCTIONS = Since((5, 10), "e411901c0b77")
MAX_STACK, MAX_CALLS = 512, 8  # MAX_BPF_STACK, MAX_CALL_FRAMES
KEY_IN_MAP_VALUE = Since((4, 18), "d71962f3e627")
SPILT_CONSTANT = Since((5, 3), "f7cf25b2026d")
SPILT_BOUNDS = Since((5, 11), "5689d49b71ad")
VARIABLE_STACK = Since((5, 12), "01f810ace9ed")
STORE_IMMEDIATE_TO_CONTEXT = Since((6, 4), "0d80a619c113")
JUMP32 = Since((5, 1), "092ed0968bb6")
ATOMIC_FETCH = Since((5, 12), "5ca419f2864a, 5ffa25502b5a")
LOAD_ACQUIRE = Since((6, 15), "880442305a39")
ARITHMETIC_SHIFT32 = Since((5, 0), "2dc6b100f928")
SIGNED = Since(
    (6, 6), "1f9a1ea821ff, ec0e2da95f72"
)  # loads, moves, division; and byte swaps, far jumps
MAY_GOTO = Since((6, 9), "011832b97b31")
ADDRESS_SPACE = Since((6, 9), "6082b6c328b5")
KERNEL_FUNCTION = Since((5, 13), "e6ac2450d6de")
FUNCTION_POINTER = Since((5, 13), "69c087ba6225")
KERNEL_SYMBOL = Since((5, 10), "4976b718c355")
KERNEL_BTF = Since((5, 2), "e83b9f55448a")  # where it is configured
