# SPDX-License-Identifier: Apache-2.0
"""A service load balancer for a Linux node, at the socket layer.

    with hostreach.open() as node:
        node.attach()
        node.services.add(hostreach.Service.of("10.96.0.10:53/udp", "10.0.0.2:53"))

Names are loaded when they are first used: importing the package costs next to nothing.
"""

from __future__ import annotations

from ._version import __version__

TYPE_CHECKING = False  # as in typing, which takes longer to import than all that is here
if TYPE_CHECKING:
    from .changes import Change
    from .ending import EndResult
    from .errors import (
        AbiMismatch,
        AlreadyExists,
        AttachedElsewhere,
        HostreachError,
        InvalidInput,
        KernelError,
        NotFound,
        OwnerConflict,
        PermissionDenied,
        ProgramRejected,
        Refused,
        TableBusy,
        TableFull,
    )
    from .exempt import Exemptions
    from .models import Backend, Frontend, Service
    from .node import Capacities, Node, open  # noqa: A004 - as in hostreach.open()
    from .services import Services
    from .status import AttachResult, DetachResult, Status

__all__ = [
    "AbiMismatch",
    "AlreadyExists",
    "AttachResult",
    "AttachedElsewhere",
    "Backend",
    "Capacities",
    "Change",
    "DetachResult",
    "EndResult",
    "Exemptions",
    "Frontend",
    "HostreachError",
    "InvalidInput",
    "KernelError",
    "Node",
    "NotFound",
    "OwnerConflict",
    "PermissionDenied",
    "ProgramRejected",
    "Refused",
    "Service",
    "Services",
    "Status",
    "TableBusy",
    "TableFull",
    "__version__",
    "open",
]

_HOME = {
    **dict.fromkeys(("Backend", "Frontend", "Service"), "models"),
    **dict.fromkeys(("Capacities", "Node", "open"), "node"),
    **dict.fromkeys(("AttachResult", "DetachResult", "Status"), "status"),
    "EndResult": "ending",
    "Change": "changes",
    "Services": "services",
    "Exemptions": "exempt",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
