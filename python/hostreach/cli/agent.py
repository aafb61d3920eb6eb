# SPDX-License-Identifier: Apache-2.0
"""``agent``: processes that keep an instance in step with a source, or tell of it."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from hostreach.errors import InvalidInput, Refused

from .completion import choices
from .options import (
    GrowBackends,
    GrowServices,
    GrowSlots,
    Owner,
    Pin,
    check_netns,
    of_option,
    open_node,
    parsed,
)

if TYPE_CHECKING:
    from hostreach.agent.settings import ExporterSettings, KeeperSettings

S = TypeVar("S", bound="KeeperSettings | ExporterSettings")

Cgroup = Annotated[str | None, typer.Option(metavar="PATH", help="As `attach` takes it.")]
Protocols = Annotated[str, typer.Option(metavar="LIST", help="tcp, udp or tcp,udp.")]
HostNetns = Annotated[
    str | None, typer.Option(metavar="PATH", help="As `attach` takes it.", callback=check_netns)
]
ProtectBinds = Annotated[bool, typer.Option("--protect-binds", help="As `attach` takes it.")]
Window = Annotated[
    str, typer.Option(metavar="DURATION", help="Changes so soon after a write go together.")
]
Listen = Annotated[
    str, typer.Option(metavar="ADDRESS:PORT|off", help="Where /healthz, /readyz and /metrics are.")
]
MetricsServices = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="How many frontends, entries of the table, have metrics of their own: those that are "
        "used most.",
    ),
]
DetachOnExit = Annotated[
    bool,
    typer.Option(
        "--detach-on-exit",
        help="Take the programs off at the end, unless another agent runs still.",
    ),
]
LogLevel = Annotated[
    str,
    typer.Option(
        metavar="LEVEL",
        help="debug, info, warning or error.",
        autocompletion=choices("debug", "info", "warning", "error"),
    ),
]
LogFormat = Annotated[
    str,
    typer.Option(metavar="FORMAT", help="text or json.", autocompletion=choices("text", "json")),
]

ENDING = 15.0
"""Seconds for the agent before this one: a pod or unit of ours is killed after 10."""

PATIENCE = 1.0
"""Seconds that a second Ctrl-C is thought to be of the same wish as the first."""

app = typer.Typer(help="Follow a source of services, or tell Prometheus of them.")


@app.callback(invoke_without_command=True)
def root(context: typer.Context, pin: Pin = None) -> None:
    if pin is not None:
        context.obj = pin
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def kubernetes(
    context: typer.Context,
    kubeconfig: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Default: the pod's service account, or else $KUBECONFIG or ~/.kube/config.",
        ),
    ] = None,
    kube_context: Annotated[
        str | None, typer.Option("--context", metavar="NAME", help="Of the kubeconfig.")
    ] = None,
    api_server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the API server is, past all services: needed where no kube-proxy runs. "
            "This process's cgroup is exempt then.",
        ),
    ] = None,
    api_server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What its certificate is for. Default: its host."),
    ] = None,
    node_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="NODE_NAME",
            help="This node's. Default: $NODE_NAME, or the host's name in lower case.",
        ),
    ] = None,
    cgroup: Cgroup = None,
    protocols: Protocols = "tcp,udp",
    host_netns: HostNetns = None,
    nodeport_addresses: Annotated[
        str,
        typer.Option(
            metavar="all|primary|CIDR[,CIDR]",
            help="Where NodePorts are reached: all of this node's addresses, those that its Node "
            "object names, or those in these networks.",
        ),
    ] = "all",
    node_ports: Annotated[bool, typer.Option(help="Whether NodePorts are served.")] = True,
    external_ips: Annotated[bool, typer.Option(help="Whether externalIPs are served.")] = True,
    health_check_node_ports: Annotated[
        bool,
        typer.Option(help="Whether healthCheckNodePorts are answered, where kube-proxy does not."),
    ] = True,
    protect_binds: ProtectBinds = False,
    window: Window = "50ms",
    listen: Listen = "127.0.0.1:9879",
    metrics_services: MetricsServices = 100,
    max_services: GrowServices = None,
    max_backends: GrowBackends = None,
    max_slots: GrowSlots = None,
    pod_info: Annotated[
        bool,
        typer.Option(
            "--pod-info",
            help="Watch this node's pods too: those with the annotation hostreach.io/exempt "
            '"true" see no service.',
        ),
    ] = False,
    detach_on_exit: DetachOnExit = False,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    pin: Pin = None,
) -> None:
    """Follow a cluster's Services and EndpointSlices. SIGTERM ends it; all it wrote stays."""
    try:
        from hostreach import running
        from hostreach.agent import logs
        from hostreach.agent.loop import Agent
        from hostreach.agent.settings import (
            Settings,
            parse_listen,
            parse_node_name,
            parse_node_ports,
            parse_window,
        )
        from hostreach.sources.kubernetes.client import ApiClient
        from hostreach.sources.kubernetes.config import connection
        from hostreach.sources.kubernetes.services import Rules
        from hostreach.sources.kubernetes.source import KubernetesSource
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("hostreach"):
            raise
        raise Refused(
            f"needs the module {error.name}; install hostreach[kubernetes]",
            object="agent kubernetes",
        ) from None
    from hostreach.syntax import parse_protocols

    _check_logs(log_level, log_format)
    if node_name is None:
        node_name = socket.gethostname().strip().lower()  # as the kubelet does
    settings = _checked(
        Settings,
        {
            "node_name": parse_node_name(node_name),
            "protocols": parsed("--protocols", parse_protocols, protocols),
            "cgroup": cgroup,
            "host_netns": host_netns,
            "protect_binds": protect_binds,
            "node_port_addresses": parse_node_ports(nodeport_addresses),
            "node_ports": node_ports,
            "external_ips": external_ips,
            "health_check_ports": health_check_node_ports,
            "window_ms": parse_window(window),
            "listen": parse_listen(listen),
            "metrics_services": metrics_services,
            "pod_info": pod_info,
            "detach_on_exit": detach_on_exit,
        },
        "agent kubernetes",
    )
    logs.set_up(log_level, log_format)
    where = connection(kubeconfig, kube_context, api_server, api_server_name)
    # Tables may have grown since these options were chosen.
    node = open_node(context, pin, max_services, max_backends, max_slots, at_least=True)
    with running.alone(node.pin, Agent.source_name, ENDING, _waits_for):
        stopped = _signals()
        rules = Rules(
            frozenset(settings.protocols),
            settings.node_ports,
            settings.external_ips,
            source_ranges=node.knows_host(),
        )
        client = ApiClient(where)
        source = KubernetesSource(client, settings.node_name, rules, pods=settings.pod_info)
        Agent(node, source, settings).run(lambda: bool(stopped))


@app.command("file")
def file_(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Files of services, as `apply` takes them, or directories of such files "
            "(*.yaml, *.yml, *.json). They may come later.",
        ),
    ],
    owner: Owner = "file",
    all_down: Annotated[
        str,
        typer.Option(
            metavar="use-all|refuse",
            help="What becomes of a service all of whose backends fail their checks, unless it "
            "says so itself.",
            autocompletion=choices("use-all", "refuse"),
        ),
    ] = "use-all",
    checks_at_once: Annotated[
        int, typer.Option(metavar="N", help="How many checks may be under way.")
    ] = 64,
    cgroup: Cgroup = None,
    protocols: Protocols = "tcp,udp",
    host_netns: HostNetns = None,
    node_addresses: Annotated[
        str | None, typer.Option(metavar="CIDR[,CIDR]", help="As `attach` takes it.")
    ] = None,
    protect_binds: ProtectBinds = False,
    window: Window = "50ms",
    listen: Listen = "127.0.0.1:9879",
    metrics_services: MetricsServices = 100,
    max_services: GrowServices = None,
    max_backends: GrowBackends = None,
    max_slots: GrowSlots = None,
    detach_on_exit: DetachOnExit = False,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    pin: Pin = None,
) -> None:
    """Follow files of services. SIGTERM ends it; all it wrote stays."""
    from hostreach import running
    from hostreach.agent import logs
    from hostreach.agent.following import FileAgent, source_name
    from hostreach.agent.settings import FileSettings, parse_listen, parse_window
    from hostreach.syntax import OWNER_MAX, check_label, parse_networks, parse_protocols

    _check_logs(log_level, log_format)
    if "" in paths:
        raise InvalidInput("a path is empty", object="agent file")
    settings = _checked(
        FileSettings,
        {
            "paths": tuple(paths),
            "owner": check_label(owner, "owner", OWNER_MAX),
            "all_down": all_down,
            "checks_at_once": checks_at_once,
            "protocols": parsed("--protocols", parse_protocols, protocols),
            "cgroup": cgroup,
            "host_netns": host_netns,
            "node_addresses": None
            if node_addresses is None
            else parsed("--node-addresses", parse_networks, node_addresses),
            "protect_binds": protect_binds,
            "window_ms": parse_window(window),
            "listen": parse_listen(listen),
            "metrics_services": metrics_services,
            "detach_on_exit": detach_on_exit,
        },
        "agent file",
    )
    # Tables may have grown since these options were chosen.
    node = open_node(context, pin, max_services, max_backends, max_slots, at_least=True)
    with running.alone(node.pin, source_name(settings.owner)):
        logs.set_up(log_level, log_format)
        stopped = _signals()
        FileAgent(node, settings).run(lambda: bool(stopped))


@app.command()
def metrics(
    context: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where /healthz, /readyz and /metrics are.")
    ] = "127.0.0.1:9879",
    metrics_services: MetricsServices = 100,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    pin: Pin = None,
) -> None:
    """Export the tables' metrics for Prometheus.

    Other agents of the instance do so too: this is for where there is none.
    """
    from hostreach.agent import logs
    from hostreach.agent.exporter import Exporter
    from hostreach.agent.settings import ExporterSettings, parse_listen

    _check_logs(log_level, log_format)
    if listen == "off":
        raise InvalidInput("--listen is an address and port: there is nothing else to do")
    settings = _checked(
        ExporterSettings,
        {"listen": parse_listen(listen), "metrics_services": metrics_services},
        "agent metrics",
    )
    with open_node(context, pin) as node:
        logs.set_up(log_level, log_format)
        stopped = _signals()
        Exporter(node, settings).run(lambda: bool(stopped))


def _checked(kind: type[S], values: dict[str, object], command: str) -> S:
    """The settings, each of which is an option of the command."""
    from hostreach.agent.settings import EXPECTED
    from hostreach.models import validate

    try:
        return validate(kind, values, command, EXPECTED)
    except InvalidInput as error:
        raise of_option(error, *values) from None


def _waits_for(who: str) -> None:
    import logging

    log = logging.getLogger("hostreach.agent")
    log.info("%s is this instance's agent still: waiting for its end", who)


def _check_logs(level: str, form: str) -> None:
    from hostreach.agent.logs import FORMATS, LEVELS

    for name, value, known in (("level", level, LEVELS), ("format", form, FORMATS)):
        if value not in known:
            raise InvalidInput(f"--log-{name} is {', '.join(known[:-1])} or {known[-1]}")


def _signals() -> list[int]:
    """Filled by the first SIGTERM or SIGINT.

    Others change nothing, for the end is under way, and managers send some twice; but Ctrl-C by
    somebody who has waited ends the process as it stands.
    """
    caught: list[int] = []
    began = 0.0

    def note(number: int, _: object) -> None:
        nonlocal began
        if not caught:
            began = time.monotonic()
            caught.append(number)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to the interpreter's very end
        elif number == signal.SIGINT and time.monotonic() - began >= PATIENCE:
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return caught
