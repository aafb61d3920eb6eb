# SPDX-License-Identifier: Apache-2.0
"""Kernels that cannot be booted here: what the compiled programs need is compared with what they
claim. The objects are those inside the installed module, as a wheel carries them."""

from __future__ import annotations

import pytest
from bpfobject.kernels import BPF_F_MMAPABLE, Kernel
from bpfobject.objects import BpfObject, installed
from bpfobject.rules import Loader, faults

# What the module does where the kernel lacks something (cpp/fitting.cpp, cpp/tables.cpp), and
# libbpf (FEAT_BTF_GLOBAL_FUNC): so each program is walked here with all that it calls.
LOADER = Loader(
    takes_out=frozenset(
        (
            "get_socket_cookie",
            "get_netns_cookie",
            "get_current_cgroup_id",
            "get_current_ancestor_cgroup_id",
            "probe_read_kernel",
            "skc_to_mptcp_sock",
            "set_retval",
            "ringbuf_output",
            "get_current_pid_tgid",
            "get_current_comm",
        )
    ),
    takes_out_exchanges=True,
    takes_out_kernel_functions=True,
    clears=BPF_F_MMAPABLE,
    replaces=frozenset(("listeners[]",)),
    makes_static=True,
)

# The first kernel that each hook's program claims to run on, by the object it is in. 4.19.57 is the
# first with the recvmsg hooks, without which UDP is not served.
TCP, UDP = ("connect4", "connect6"), ("sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6")
PEERS, BINDS = ("getpeername4", "getpeername6"), ("post_bind4", "post_bind6")
CLAIMS: dict[str, dict[str, Kernel]] = {
    "hostreach": {
        **dict.fromkeys((*TCP, *UDP, *BINDS), (5, 3)),
        **dict.fromkeys(PEERS, (5, 8)),
        "sock_release": (5, 9),
    },
    "legacy": {
        **dict.fromkeys(TCP, (4, 17)),
        **dict.fromkeys(UDP, (4, 19, 57)),
        **dict.fromkeys(PEERS, (5, 8)),
    },
}


@pytest.fixture(scope="module")
def objects() -> dict[str, BpfObject]:
    return installed() or pytest.skip("hostreach._core is not built")


@pytest.mark.parametrize(
    ("name", "hook", "kernel"),
    [
        pytest.param(name, hook, kernel, id=f"{name}-{hook}-{'.'.join(map(str, kernel))}")
        for name, claims in CLAIMS.items()
        for hook, kernel in claims.items()
    ],
)
def test_programs_need_no_more_than_they_claim(
    objects: dict[str, BpfObject], name: str, hook: str, kernel: Kernel
) -> None:
    assert not faults(objects[name], f"hr_{hook}", kernel, LOADER)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_program_claims_something(objects: dict[str, BpfObject], name: str) -> None:
    hooks = {f.section.removeprefix("cgroup/") for f in objects[name].programs.values()}
    assert hooks == set(CLAIMS[name])


def test_the_main_object_is_not_for_the_oldest_kernels(objects: dict[str, BpfObject]) -> None:
    """Or there would be no need of another, and something is not looked at."""
    found = "\n".join(faults(objects["hostreach"], "hr_recvmsg4", (4, 17), LOADER))
    assert ".rodata: is global data, which is Linux 5.2" in found
    assert "connections: is a map of type SK_STORAGE, which is Linux 5.2" in found
    assert "loads 8 bytes of the context at 64, which is Linux 5.3" in found
    assert "calls bpf_sk_storage_get, which is Linux 5.3" in found
    assert "jumps back, in a loop, which is Linux 5.3" in found
