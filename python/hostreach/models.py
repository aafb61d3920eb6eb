# SPDX-License-Identifier: Apache-2.0
"""What a service is: frozen pydantic models that know nothing of files, tables or the kernel.

The constructors raise `pydantic.ValidationError`, as pydantic's do; `Frontend.parse`,
`Backend.parse`, `Service.of` and `validate` raise `InvalidInput`, with one line for people.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    model_serializer,
    model_validator,
)

from .errors import InvalidInput
from .syntax import (
    NAME_MAX,
    OWNER_MAX,
    check_label,
    format_endpoint,
    format_frontend,
    frontend_key,
    parse_address,
    parse_endpoint,
    parse_frontend,
    quote,
)

BACKENDS_MAX = 4096
"""Backends of one service: each usable one needs a slot of its own."""
WEIGHT_MAX = 65535

_M = TypeVar("_M", bound=BaseModel)


def _endpoint(text: str) -> str:
    return format_endpoint(*parse_endpoint(text))


def _name(text: str) -> str:
    return check_label(text, "name", NAME_MAX)


def _owner(text: str) -> str:
    return check_label(text, "owner", OWNER_MAX)


class _BackendProblem(InvalidInput):
    """Found by the service, but to be shown where the backend stands."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.path = ("backends", index)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Frontend(_Model):
    """The address that clients use. TCP and UDP on one port are two frontends.

    Validates from ``"10.96.0.10:53/udp"`` too and serialises as that string.
    """

    address: Annotated[StrictStr, AfterValidator(parse_address)]
    port: Annotated[StrictInt, Field(ge=1, le=65535)]
    protocol: Literal["tcp", "udp"]

    @classmethod
    def parse(cls, text: str) -> Frontend:
        """From ``10.96.0.10:53/udp`` or ``[fd00:96::a]:53/udp``; raises `InvalidInput`."""
        address, port, protocol = parse_frontend(text)
        return cls(address=address, port=port, protocol=protocol)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        if isinstance(data, str):
            return dict(zip(("address", "port", "protocol"), parse_frontend(data), strict=True))
        return data

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return format_frontend(self.address, self.port, self.protocol)

    @property
    def family(self) -> Literal[4, 6]:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def sort_key(self) -> tuple[int, bytes, int, str]:
        """Orders by family, address, port, protocol."""
        return frontend_key(self.address, self.port, self.protocol)


class Backend(_Model):
    """A server behind a service: ``10.0.0.2:53`` or ``[fd00::2]:53``, and its weight.

    Weights are relative; a backend of weight 0 gets no new traffic.
    """

    address: Annotated[StrictStr, AfterValidator(_endpoint)]
    weight: Annotated[StrictInt, Field(ge=0, le=WEIGHT_MAX)] = 1

    @classmethod
    def parse(cls, text: str) -> Backend:
        """From ``10.0.0.3:53`` or ``10.0.0.3:53,weight=3``; raises `InvalidInput`."""
        address, *options = text.split(",")
        values: dict[str, object] = {"address": address}
        for option in options:
            key, equals, value = option.partition("=")
            if key != "weight" or not equals:
                raise InvalidInput(f"{quote(text)}: unknown option {quote(option)}; use weight=N")
            if key in values:
                raise InvalidInput(f"{quote(text)}: weight is given twice")
            digits = value.isascii() and value.isdigit() and len(value) <= 9
            values[key] = int(value) if digits else value
        return validate(cls, values)

    def __str__(self) -> str:
        return self.address if self.weight == 1 else f"{self.address},weight={self.weight}"

    @property
    def host(self) -> str:
        """The address without the port, unbracketed."""
        return parse_endpoint(self.address)[0]

    @property
    def port(self) -> int:
        """1 to 65535."""
        return int(self.address.rpartition(":")[2])

    @property
    def family(self) -> Literal[4, 6]:
        """4 or 6."""
        return 6 if self.address[0] == "[" else 4


class Service(_Model):
    """A frontend and the backends behind it, in the order given."""

    frontend: Frontend
    name: Annotated[StrictStr, AfterValidator(_name)] | None = None
    owner: Annotated[StrictStr, AfterValidator(_owner)] = "manual"
    algorithm: Literal["random"] = "random"
    backends: Annotated[tuple[Backend, ...], Field(max_length=BACKENDS_MAX)] = ()

    @classmethod
    def of(
        cls,
        frontend: str,
        *backends: str,
        name: str | None = None,
        owner: str = "manual",
        algorithm: str = "random",
    ) -> Service:
        """From text, as on the command line; raises `InvalidInput`.

        >>> Service.of("10.96.0.10:53/udp", "10.0.0.2:53", "10.0.0.3:53,weight=3")
        """
        return validate(
            cls,
            {
                "frontend": frontend,
                "name": name,
                "owner": owner,
                "algorithm": algorithm,
                "backends": [Backend.parse(backend) for backend in backends],
            },
        )

    @model_validator(mode="after")
    def _check_backends(self) -> Service:
        family = self.frontend.family
        for i, backend in enumerate(self.backends):
            if backend.family != family:
                raise _BackendProblem(
                    f"backend {backend.address} is IPv{backend.family}, "
                    f"but frontend {self.frontend} is IPv{family}",
                    i,
                )
        if len({backend.address for backend in self.backends}) != len(self.backends):
            addresses = [backend.address for backend in self.backends]
            twice = next(i for i, address in enumerate(addresses) if address in addresses[:i])
            raise _BackendProblem(f"backend {addresses[twice]} is given twice", twice)
        return self

    @property
    def sort_key(self) -> tuple[int, bytes, int, str]:
        """Orders by family, address, port, protocol."""
        return self.frontend.sort_key


def validate(cls: type[_M], data: object, where: str = "") -> _M:
    """``data`` as a ``cls``, or `InvalidInput` with one line, which ``where`` begins."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(explain(error)[1], object=where or None) from None


_EXPECTED = {
    "address": "a string such as 10.0.0.2:53",
    "algorithm": "random",
    "backends": f"a list of at most {BACKENDS_MAX} backends",
    "frontend": "a string such as 10.96.0.10:53/udp",
    "name": "a string",
    "owner": "a string",
    "port": "an integer from 1 to 65535",
    "protocol": "tcp or udp",
    "weight": f"an integer from 0 to {WEIGHT_MAX}",
}


def explain(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """The first problem of ``error``: where in the data it is, and one line for people."""
    problem = error.errors(include_url=False)[0]
    path = problem["loc"]
    kind = problem["type"]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, _BackendProblem):
        return path + cause.path, str(cause)
    if isinstance(cause, InvalidInput):
        return path, str(cause)
    field = path[-1] if path else ""
    if kind == "missing":
        return path, f"{field} is missing"
    if kind == "extra_forbidden":
        return path, f"unknown key {quote(str(field))}"
    if isinstance(field, int):
        return path, f"an entry of {path[-2]} must be a mapping, not {describe(problem['input'])}"
    expected = _EXPECTED.get(field, "a mapping")
    message = f"{field or 'it'} must be {expected}, not {describe(problem['input'])}"
    if expected == "a string" and not isinstance(problem["input"], (dict, list, type(None))):
        message += "; write it in quotes"
    return path, message


def describe(value: object) -> str:
    """A value as people would name it, never a Python repr."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    return quote(str(value))[1:-1]
