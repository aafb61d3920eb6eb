# SPDX-License-Identifier: Apache-2.0
"""Programs that know nothing of hostreach, as clients and as servers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, kernel, linux, scaled
from .harness.box import environment
from .harness.clients import (
    KINDS,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    protocol_of,
)

if TYPE_CHECKING:
    from hostreach.node import Node

CLIENTS = Path(__file__).parent / "clients"
DNS_VIP = "10.96.0.10"


def need(program: str) -> str:
    found = shutil.which(program, path=environment()["PATH"])
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@pytest.fixture
def dns(box: Box, node: Node) -> None:
    """Two dnsmasq behind 10.96.0.10:53, UDP and TCP; each says which it is."""
    for host in ("10.0.0.2", "10.0.0.3"):
        box.spawn(
            [
                need("dnsmasq"),
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--user=root",
                "--no-resolv",
                "--no-hosts",
                "--cache-size=0",
                "--bind-interfaces",
                f"--listen-address={host}",
                "--except-interface=lo:1",
                "--port=5353",
                "--address=/service.test/10.1.2.3",
                "--address=/service.test/fd00::1:2:3",
                f"--txt-record=who.test,{host}",
                "--txt-record=long.test," + ",".join(["x" * 250] * 20),
            ],
            listening=["udp/5353", "tcp/5353"],
        )
    for protocol in ("udp", "tcp"):
        node.services.add(Service.of(f"{DNS_VIP}:53/{protocol}", "10.0.0.2:5353", "10.0.0.3:5353"))


@pytest.mark.usefixtures("dns")
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig(box: Box, transport: str) -> None:
    """dig checks by itself that the answer comes from whom it asked."""
    dig = [need("dig"), f"@{DNS_VIP}", transport, "+tries=1", f"+time={scaled(5):.0f}"]
    answers: set[str] = set()
    for _ in range(8):
        shown = box.run([*dig, "who.test", "TXT"])
        assert shown.returncode == 0, shown
        assert f"SERVER: {DNS_VIP}#53({DNS_VIP})" in shown.stdout
        assert "unexpected source" not in shown.stdout + shown.stderr
        answers.update(line for line in shown.stdout.splitlines() if line.startswith("who.test."))
    assert answers
    assert all(answer.endswith(('"10.0.0.2"', '"10.0.0.3"')) for answer in answers)


@pytest.mark.usefixtures("dns")
def test_dig_falls_back_to_tcp(box: Box) -> None:
    """An answer that does not fit a datagram: the same address again, by TCP."""
    command = [need("dig"), f"@{DNS_VIP}", "+bufsize=512", "+tries=1", "long.test", "TXT"]
    shown = box.run(command)
    assert shown.returncode == 0, shown
    assert "Truncated, retrying in TCP mode" in shown.stdout
    assert f"SERVER: {DNS_VIP}#53({DNS_VIP}) (TCP)" in shown.stdout


@pytest.fixture
def resolv_conf(tmp_path: Path) -> tuple[Path, ...]:
    """Files to lie over /etc: resolve by the service, and by nothing else."""
    resolv, nsswitch = tmp_path / "resolv.conf", tmp_path / "nsswitch.conf"
    resolv.write_text(f"nameserver {DNS_VIP}\noptions timeout:{scaled(5):.0f} attempts:1\n")
    nsswitch.write_text("hosts: dns\n")
    return resolv, nsswitch


def use(files: tuple[Path, ...]) -> None:
    linux.private_mounts()
    for file in files:
        target = Path("/etc", file.name)
        if target.exists():
            linux.mount(str(file), str(target.resolve()), flags=linux.MS_BIND)


@pytest.mark.usefixtures("dns")
@pytest.mark.parametrize("options", ["", "options use-vc", "options single-request"])
def test_c_library_resolver(box: Box, resolv_conf: tuple[Path, ...], options: str) -> None:
    """glibc connects its UDP sockets and checks the source; use-vc makes it use TCP."""
    with resolv_conf[0].open("a") as file:
        file.write(options + "\n")
    shown = box.run(["getent", "ahosts", "service.test"], prepare=lambda: use(resolv_conf))
    addresses = {line.split()[0] for line in shown.stdout.splitlines()}
    assert addresses == {"10.1.2.3", "fd00::1:2:3"}, shown

    def resolve() -> set[str]:
        use(resolv_conf)
        return {str(entry[4][0]) for entry in socket.getaddrinfo("service.test", 80)}

    assert box.call(resolve) == addresses


def test_curl_and_nginx(box: Box, node: Node, tmp_path: Path) -> None:
    nginx, curl = need("nginx"), need("curl")
    # Its workers are not root: the directory is for them too.
    tmp_path.chmod(0o755)
    for host in ("10.0.0.2", "10.0.0.3"):
        directory = tmp_path / host
        directory.mkdir()
        (directory / "nginx.conf").write_text(
            f"""
            daemon off; master_process off; pid {directory}/pid; error_log stderr;
            events {{ worker_connections 64; }}
            http {{
                access_log off;
                client_body_temp_path {directory}; proxy_temp_path {directory};
                fastcgi_temp_path {directory}; uwsgi_temp_path {directory};
                scgi_temp_path {directory};
                server {{ listen {host}:8080; listen [fd00::{host[-1]}]:8080;
                          location / {{ return 200 "{host}"; }} }}
            }}
            """
        )
        box.spawn([nginx, "-c", str(directory / "nginx.conf")], listening=["tcp/8080"])
    node.services.add(Service.of("10.96.0.20:80/tcp", "10.0.0.2:8080", "10.0.0.3:8080"))
    node.services.add(Service.of("[fd00:96::20]:80/tcp", "[fd00::2]:8080", "[fd00::3]:8080"))
    for url, shown_as in (
        ("http://10.96.0.20/", "10.96.0.20"),
        ("http://[fd00:96::20]/", "fd00:96::20"),
    ):
        form = "\n%{remote_ip} %{remote_port} %{http_code}"
        shown = box.run([curl, "-sS", "--noproxy", "*", "-w", form, *[url] * 8])
        assert shown.returncode == 0, shown
        lines = shown.stdout.replace("200", "200\n").split("\n")
        assert {line for line in lines if line.startswith("10.0.")} <= {"10.0.0.2", "10.0.0.3"}
        assert shown.stdout.count(f"{shown_as} 80 200") == 8


def test_redis(box: Box, node: Node, tmp_path: Path) -> None:
    server, client = need("redis-server"), need("redis-cli")
    command = [server, "--port", "6380", "--bind", "10.0.0.2", "--dir", str(tmp_path)]
    options = [
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
        "--logfile",
        "/dev/null",
    ]
    box.spawn([*command, *options], listening=["tcp/6380"])
    node.services.add(Service.of("10.96.0.30:6379/tcp", "10.0.0.2:6380"))
    redis = [client, "-h", "10.96.0.30", "-p", "6379"]
    assert box.run([*redis, "set", "key", "value"]).stdout.strip() == "OK"
    assert box.run([*redis, "get", "key"]).stdout.strip() == "value"
    assert "addr=" in box.run([*redis, "client", "list"]).stdout


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = need("gcc")
    program = tmp_path_factory.mktemp("c") / "connect"
    source = str(CLIENTS / "connect.c")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), source]
    subprocess.run(command, check=True)
    return str(program)


def add_service(box: Box, node: Node, family: Family, kind: str) -> tuple[str, str]:
    """Returns the service's host and its one server."""
    server = family.endpoint(family.backend(2), 8080)
    box.serve(f"{server}/{protocol_of(kind)}")
    frontend = f"{family.endpoint(family.vip(), 80)}/{protocol_of(kind)}"
    node.services.add(Service.of(frontend, server))
    return family.vip(), server


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [V4, V6], ids=str)
def test_c_client(box: Box, node: Node, family: Family, kind: str, c_client: str) -> None:
    host, server = add_service(box, node, family, kind)
    argument = "udp" if kind == "udp-connected" else kind
    assert box.run([c_client, host, "80", argument]).stdout == f"{server} {host} 80\n"
    if family is V4:
        # An IPv6 socket, as a program that only speaks IPv6 makes it.
        mapped = box.run([c_client, f"::ffff:{host}", "80", argument]).stdout
        assert mapped == f"{server} ::ffff:{host} 80\n"
    frontend = f"{family.endpoint(host, 80)}/{protocol_of(kind)}"
    node.services.set(Service.of(frontend))
    if kind != UDP_UNCONNECTED or kernel.refuses_at_once():  # else it would wait for ever
        assert box.run([c_client, host, "80", argument]).stdout == "ECONNREFUSED\n"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("family", [V4, V6], ids=str)
def test_node_client(box: Box, node: Node, family: Family, kind: str) -> None:
    """An event loop: sockets that never block, UDP ones bound and unconnected."""
    program = need("node")
    host, server = add_service(box, node, family, kind)
    command = [program, str(CLIENTS / "connect.js"), host, "80", kind]
    assert box.run(command, timeout=30).stdout == f"{server} {host} 80\n"
    node.services.set(Service.of(f"{family.endpoint(host, 80)}/{kind}"))
    if kind == "tcp" or kernel.refuses_at_once():  # else it would wait for ever
        assert box.run(command, timeout=30).stdout == "ECONNREFUSED\n"


def test_refused_at_once(box: Box, node: Node) -> None:
    """A program that meets a service without a backend does not hang."""
    node.services.add(Service.of("10.96.0.20:80/tcp"))
    started = time.monotonic()
    shown = box.run([need("curl"), "-sS", "--noproxy", "*", "http://10.96.0.20/"])
    assert shown.returncode == 7, shown
    assert time.monotonic() - started < scaled(2)
