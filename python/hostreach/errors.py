# SPDX-License-Identifier: Apache-2.0
"""Every exception that hostreach raises on purpose.

    HostreachError
    ├── InvalidInput (also a ValueError)   bad value, file or usage; nothing changed
    └── Refused                            a valid request that the state or the system refuses
        ├── AlreadyExists
        ├── NotFound
        ├── OwnerConflict
        ├── TableFull
        ├── TableBusy                      the writer's lock was not had in time
        ├── AttachedElsewhere
        ├── AbiMismatch
        └── KernelError                    ``errno`` is set
            ├── PermissionDenied           the message names the capability
            └── ProgramRejected            ``log`` keeps the verifier's output

``str(error)`` is one line, and exactly what the command line prints after ``hostreach: ``.
This module imports nothing: the compiled module raises these classes by name.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AbiMismatch",
    "AlreadyExists",
    "AttachedElsewhere",
    "HostreachError",
    "InvalidInput",
    "KernelError",
    "NotFound",
    "OwnerConflict",
    "PermissionDenied",
    "ProgramRejected",
    "Refused",
    "TableBusy",
    "TableFull",
]


class HostreachError(Exception):
    """The base of all of them.

    Attributes:
        message: what went wrong and, where something can be done, what to do.
        object: what it is about (a service, a path, a program), or None.
        errno: the kernel's error number (positive), or None.
        exit_code: what the command line exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        object: str | None = None,  # noqa: A002 - the attribute's name
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.object = object
        self.errno = errno

    def __str__(self) -> str:
        return f"{self.object}: {self.message}" if self.object else self.message


class InvalidInput(HostreachError, ValueError):
    """A value, file or usage that can never be right. Nothing was changed."""

    exit_code = 2


class Refused(HostreachError):
    """A valid request that the present state or the system refuses."""


class AlreadyExists(Refused):
    """To be added, but there already."""


class NotFound(Refused):
    """To be shown, changed or removed, but not there."""


class OwnerConflict(Refused):
    """The service belongs to another owner."""


class TableFull(Refused):
    """A table has no room for the whole request, of which nothing was done."""


class TableBusy(Refused):
    """Another writer held the lock for too long."""


class AttachedElsewhere(Refused):
    """This instance is attached to another cgroup."""


class AbiMismatch(Refused):
    """The pinned tables were made by a version with another layout."""


class KernelError(Refused):
    """A system call failed; ``errno`` says how."""


class PermissionDenied(KernelError):
    """The process lacks a capability, which the message names."""


class ProgramRejected(KernelError):
    """The verifier refused a program.

    Attributes:
        log: the verifier's output, as the kernel gave it; many lines.
    """

    def __init__(
        self,
        message: str,
        *,
        object: str | None = None,  # noqa: A002 - the attribute's name
        errno: int | None = None,
        log: str = "",
    ) -> None:
        super().__init__(message, object=object, errno=errno)
        self.log = log
