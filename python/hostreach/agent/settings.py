# SPDX-License-Identifier: Apache-2.0
"""What the user says of an agent, checked: the border where people write the input."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hostreach.checks import AllDown
from hostreach.errors import InvalidInput
from hostreach.syntax import (
    Protocol,
    parse_address,
    parse_duration,
    parse_networks,
    quote,
)

MetricsServices = Annotated[int, Field(ge=0, le=100_000)]
LISTEN = "127.0.0.1:9879"
"""Where /healthz, /readyz and /metrics are."""


class ExporterSettings(BaseModel):
    """Of ``hostreach agent metrics``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: tuple[str, int]
    metrics_services: MetricsServices = 100


class KeeperSettings(BaseModel):
    """What all agents are told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocols: tuple[Protocol, ...] = ("tcp", "udp")
    cgroup: str | None = None
    host_netns: str | None = None
    protect_binds: bool = False
    window_ms: Annotated[int, Field(ge=0, le=60_000)] = 50
    listen: tuple[str, int] | None = None
    metrics_services: MetricsServices = 100
    detach_on_exit: bool = False


class Settings(KeeperSettings):
    """Of ``hostreach agent kubernetes``, but for where the API server is."""

    node_name: str
    node_port_addresses: Literal["all", "primary"] | tuple[str, ...] = "all"
    node_ports: bool = True
    external_ips: bool = True
    health_check_ports: bool = True
    pod_info: bool = False


class FileSettings(KeeperSettings):
    """Of ``hostreach agent file``.

    Attributes:
        node_addresses: CIDRs, as `Node.attach` takes them.
        all_down: what becomes of a service all of whose backends fail their checks, unless it says.
        checks_at_once: how many checks may be under way.
    """

    paths: tuple[str, ...]
    owner: str
    node_addresses: tuple[str, ...] | None = None
    all_down: AllDown = "use-all"
    checks_at_once: Annotated[int, Field(ge=1, le=10_000)] = 64


EXPECTED = {
    "listen": "an address and port",
    "all_down": "use-all or refuse",
    "checks_at_once": "an integer from 1 to 10000",
    "metrics_services": "an integer from 0 to 100000",
}
"""What `hostreach.models.validate` says of each field that is not parsed below."""


def parse_node_name(text: str) -> str:
    """As the Node object is named."""
    if not text or len(text) > 253 or not text.replace("-", "").replace(".", "").isalnum():
        raise InvalidInput(f"--node-name: {quote(text)} is no node's name")
    return text


def parse_listen(text: str) -> tuple[str, int] | None:
    """``127.0.0.1:9879`` or ``[::1]:9879``; ``off`` is None. Any of the node's addresses may be."""
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = str(ip_address(host))
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else -1
        if not colon or not 0 <= number <= 65535:
            raise ValueError
    except ValueError:
        raise InvalidInput(
            f"--listen: {quote(text)} is no address with a port; write it as {LISTEN}, or off"
        ) from None
    return address, number


def parse_node_ports(text: str) -> Literal["all", "primary"] | tuple[str, ...]:
    """``all``, ``primary``, or networks such as ``10.0.0.0/8,fd00::/8``."""
    if text in ("all", "primary"):
        return text  # type: ignore[return-value]
    try:
        return parse_networks(text)
    except InvalidInput as error:
        raise InvalidInput(f"--nodeport-addresses: {error.message}; or all, or primary") from None


def parse_window(text: str) -> int:
    """Milliseconds."""
    try:
        found = 0 if text == "0" else parse_duration(text)
    except InvalidInput as error:
        raise InvalidInput(f"--window: {error.message}") from None
    if found > 60_000:
        raise InvalidInput(f"--window: {quote(text)} is too long; at most 1m")
    return found


def primary_networks(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """A node's addresses as networks of one address each."""
    found = []
    for text in addresses:
        try:
            address = parse_address(text)
        except InvalidInput:
            continue  # the API's word, not the user's
        found.append(f"{address}/{128 if ':' in address else 32}")
    return tuple(found)
