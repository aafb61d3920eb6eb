# SPDX-License-Identifier: Apache-2.0
"""The kernel tests that every kernel has to pass each time: the main job, and what kernels decide.

Chosen so that a guest is through in two minutes or three. These get the marker `vm`
(tests/kernel/conftest.py).
"""

from __future__ import annotations

_BY_FILE = {
    "translation": (
        "client_sees_the_service[ipv4-tcp-nonblocking]",
        "client_sees_the_service[ipv4-udp-unconnected-blocking]",
        "client_sees_the_service[ipv6-udp-connected-blocking]",
        "client_sees_the_service[mapped-tcp-blocking]",
        "client_sees_the_service[mapped-udp-unconnected-blocking]",
        "other_cgroups_are_untouched[ipv4-tcp]",
        "no_usable_backend_refuses[mapped-nonblocking-none]",
    ),
    "tcp": ("fast_open_by_sendto[ipv4]",),
    "hints": (
        "of_a_service_that_went[tcp]",
        "wrong_ones[udp-connected]",
        "rows_and_others[udp-connected]",
    ),
    "udp_connected": ("refused_connect_keeps_the_peer[ipv4]",),
    "udp_unconnected": ("several_services_from_one_socket[ipv4-8-services]",),
    "affinity": ("every_kind_of_socket_comes_back",),
    "active": ("once_for_each_socket[tcp]",),
    "active_changes": ("recounted_at_attach",),
    "scopes": ("host_only",),
    "exempt": ("exempt_at_once[udp-unconnected]",),
    "source_ranges": ("who_is_inside_and_who_is_not[ipv4-tcp]",),
    "node_addresses": ("loopback_is_shown_as_without_hostreach",),
    "binds": ("explicit_binds",),
    "mptcp": ("counted_once_and_released[ipv4]",),
    "kernel_sockets": ("nothing_is_left_of_one",),
    "sockets_ended": (
        "ended_with_their_backend[tcp-ipv4-bpf]",
        "ended_with_their_backend[udp-connected-ipv6-sock_destroy]",
    ),
    "sockets_unended": ("they_go_on[tcp]",),
    "sockets_counted": ("detach_counts[tcp-ipv4]",),
    "clients": ("client[io_uring-ipv4]",),
    "programs": ("c_library_resolver[]",),
    "programs_loaded": ("global_functions_need_the_kernels_btf[]",),
    "attach": (
        "every_hook_is_attached",
        "program_replaced_in_place",
        "purge_leaves_nothing",
    ),
    "attach_refused": ("without_root",),
    "order": ("whose_rewrite_wins[theirs, ours first]",),
    "without_links": ("found_again_and_taken_off",),
    "torture": ("one_writer_as_fast_as_it_can",),
    "migration": ("sockets_keep_what_they_remember[3]", "sockets_with_places"),
    "held_places": ("programs_without_places_before[tcp]",),
    "only_places": ("another_service[ipv4-one-server]",),
    "cli": ("from_attach_to_purge", "doctor"),
}

SUBSET = frozenset(
    f"tests/kernel/test_{file}.py::test_{test}"
    for file, tests in _BY_FILE.items()
    for test in tests
)
"""As pytest calls them."""

LEFT_OUT = tuple(
    f"tests/kernel/test_{name}.py"
    for name in (
        *("agent", "agent_chaos", "agent_file", "agents_beside"),
        *("agent_life", "agent_metrics", "agent_pods", "checks"),
        *("completion", "systemd", "for_life"),  # shells, units, an end by a signal
        *("compilers", "harness"),  # what builds the programs, and the tests' own tools
        *("intermediate", "killed", "soak"),  # instruction by instruction, call by call; an hour
    )
)
"""Of the long form: processes that wait for one another or are stepped through, which emulation
makes too slow for their own time limits, and no kernel changes what they do to the tables."""
