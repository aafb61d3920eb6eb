# SPDX-License-Identifier: Apache-2.0
"""The rules that kube-proxy would write for the same services, for iptables and for nftables."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

PODS = "10.0.0.0/8"
"""Who is in the cluster; the services' other clients would be masqueraded."""


class Balanced(NamedTuple):
    """One service, IPv4, all of whose backends are ready."""

    name: str
    host: str
    port: int
    protocol: str  # "tcp" or "udp"
    backends: Sequence[tuple[str, int]]
    called: bool = True  # that nobody calls it may make its rules simpler, never others'


class Rival(NamedTuple):
    """Somebody else's way to a backend."""

    text: str
    command_line: Sequence[str]  # takes the rules on its standard input
    rules: Callable[[Sequence[Balanced]], Iterator[str]]

    def is_here(self) -> bool:
        """Its command is installed, and this kernel takes its rules; nothing of them stays."""
        if shutil.which(self.command_line[0]) is None:
            return False
        command = ("unshare", "--net", *self.command_line)
        some = Balanced("some/service", "10.96.0.1", 80, "tcp", _SOME_BACKENDS)
        return _works(command, "\n".join(self.rules([some])) + "\n")

    def version(self) -> str:
        """As its own command says it."""
        command = [self.command_line[0], "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


_SOME_BACKENDS = (("10.0.0.1", 80), ("10.0.0.2", 80))


@cache
def _works(command: Sequence[str], rules: str) -> bool:
    done = subprocess.run(command, input=rules, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split())
        print(f"bench: {command[2]} is left out, for its rules fail: {reason}", file=sys.stderr)
    return done.returncode == 0


def _iptables(services: Sequence[Balanced]) -> Iterator[str]:
    """As pkg/proxy/iptables writes it: one rule a service in KUBE-SERVICES, tried in turn."""
    yield from (
        "*filter",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-PROXY-FIREWALL - [0:0]",
        ":KUBE-FORWARD - [0:0]",
        "-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
        "-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
        "-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES",
        "-A FORWARD -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "COMMIT",
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-POSTROUTING - [0:0]",
        ":KUBE-MARK-MASQ - [0:0]",
    )
    for service in services:
        yield f":{_chain('SVC', service)} - [0:0]"
        yield from (f":{_chain('SEP', service, to)} - [0:0]" for to in service.backends)
    yield from (
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
    )
    for service in services:
        chain, protocol = _chain("SVC", service), service.protocol
        comment = f'-m comment --comment "{service.name} cluster IP"'
        to = f"-d {service.host}/32 -p {protocol} -m {protocol} --dport {service.port}"
        yield f"-A KUBE-SERVICES {comment} {to} -j {chain}"
        yield f"-A {chain} {comment} {to} ! -s {PODS} -j KUBE-MARK-MASQ"
        left = len(service.backends)
        for host, port in service.backends:
            there = _chain("SEP", service, (host, port))
            comment = f'-m comment --comment "{service.name} -> {host}:{port}"'
            chance = f"-m statistic --mode random --probability {1 / left:.10f}"
            yield f"-A {chain} {comment} {chance if left > 1 else ''} -j {there}"
            left -= 1
            comment = f'-m comment --comment "{service.name}"'
            yield f"-A {there} {comment} -s {host}/32 -j KUBE-MARK-MASQ"
            dnat = f"-m {protocol} -p {protocol} -j DNAT --to-destination {host}:{port}"
            yield f"-A {there} {comment} {dnat}"
    yield "COMMIT"


def _nftables(services: Sequence[Balanced]) -> Iterator[str]:
    """As pkg/proxy/nftables writes it: one map that leads to the service's chain."""
    key = "ip daddr . meta l4proto . th dport"
    kind = "type ipv4_addr . inet_proto . inet_service : verdict"
    yield f"""\
add table ip kube-proxy
add map ip kube-proxy service-ips {{ {kind} ; }}
add map ip kube-proxy firewall-ips {{ {kind} ; }}
add map ip kube-proxy no-endpoint-services {{ {kind} ; }}
add chain ip kube-proxy services
add chain ip kube-proxy firewall-check
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy filter-prerouting {{ type filter hook prerouting priority -110 ; }}
add chain ip kube-proxy filter-output {{ type filter hook output priority -110 ; }}
add chain ip kube-proxy nat-prerouting {{ type nat hook prerouting priority -100 ; }}
add chain ip kube-proxy nat-output {{ type nat hook output priority -100 ; }}
add chain ip kube-proxy nat-postrouting {{ type nat hook postrouting priority 100 ; }}
add rule ip kube-proxy filter-prerouting ct state new jump firewall-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump firewall-check
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy mark-for-masquerade meta mark set meta mark or 0x4000
add rule ip kube-proxy masquerading meta mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading meta mark set meta mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy firewall-check {key} vmap @firewall-ips
add rule ip kube-proxy service-endpoints-check {key} vmap @no-endpoint-services
add rule ip kube-proxy services {key} vmap @service-ips"""
    for service in services:
        yield f"add chain ip kube-proxy {_nft('service', service)}"
        for to in service.backends:
            yield f"add chain ip kube-proxy {_nft('endpoint', service, to)}"
    for service in services:
        chain, protocol = _nft("service", service), service.protocol
        ends = [(_nft("endpoint", service, to), to) for to in service.backends]
        to_service = f"ip daddr {service.host} {protocol} dport {service.port}"
        yield (
            f"add rule ip kube-proxy {chain} {to_service} "
            f"ip saddr != {PODS} jump mark-for-masquerade"
        )
        choices = " , ".join(f"{n} : goto {end}" for n, (end, _) in enumerate(ends))
        # The kernel names such a map by a look at all others (nf_tables_set_alloc_name): 30,000 of
        # them would take it minutes, and no call to another service comes by here.
        choose = f"numgen random mod {len(ends)} vmap {{ {choices} }}"
        yield f"add rule ip kube-proxy {chain} {choose if service.called else f'goto {ends[0][0]}'}"
        for end, (host, port) in ends:
            yield f"add rule ip kube-proxy {end} ip saddr {host} jump mark-for-masquerade"
            yield f"add rule ip kube-proxy {end} meta l4proto {protocol} dnat to {host}:{port}"
    for start in range(0, len(services), 500):
        elements = ", ".join(
            f"{each.host} . {each.protocol} . {each.port} : goto {_nft('service', each)}"
            for each in services[start : start + 500]
        )
        yield f"add element ip kube-proxy service-ips {{ {elements} }}"


def _chain(kind: str, service: Balanced, backend: tuple[str, int] | None = None) -> str:
    return f"KUBE-{kind}-{_hash(service, backend, 16)}"


def _nft(kind: str, service: Balanced, backend: tuple[str, int] | None = None) -> str:
    name = re.sub(r"[^A-Za-z0-9/._-]", "/", f"{service.name}/{service.protocol}")
    end = f"__{backend[0]}/{backend[1]}" if backend else ""
    return f"{kind}-{_hash(service, backend, 8)}-{name}{end}"


def _hash(service: Balanced, backend: tuple[str, int] | None, length: int) -> str:
    raw = f"{service.name}{service.protocol}{backend}".encode()
    return base64.b32encode(hashlib.sha256(raw).digest()).decode()[:length]


IPTABLES = Rival("iptables", ("iptables-legacy-restore",), _iptables)
IPTABLES_NFT = Rival("iptables-nft", ("iptables-nft-restore",), _iptables)
NFTABLES = Rival("nftables", ("nft", "-f", "-"), _nftables)
RIVALS = {each.text: each for each in (IPTABLES, IPTABLES_NFT, NFTABLES)}
