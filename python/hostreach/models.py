# SPDX-License-Identifier: Apache-2.0
"""What a service is: frozen pydantic models that know nothing of files, tables or the kernel.

The constructors raise `pydantic.ValidationError`, as pydantic's do; `Frontend.parse`,
`Backend.parse`, `Service.of`, `model_copy` and `validate` raise `InvalidInput`, with one line for
people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_serializer,
    model_validator,
)

from .errors import InvalidInput
from .rules import BACKENDS_MAX, FieldProblem, check_backends, removal
from .syntax import (
    NAME_MAX,
    NODE,
    OWNER_MAX,
    check_label,
    describe,
    format_duration,
    format_endpoint,
    format_frontend,
    frontend_key,
    parse_backend,
    parse_cgroup,
    parse_duration,
    parse_endpoint,
    parse_frontend,
    parse_frontend_address,
    parse_networks,
    quote,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from typing_extensions import Self

WEIGHT_MAX = 65535
SOURCE_RANGES_MAX = 90
"""Networks: what fits into 4,096 bytes of text."""

Algorithm = Literal["random", "maglev", "least-conn"]
State = Literal["active", "draining", "down"]

_M = TypeVar("_M", bound=BaseModel)

_set_attribute = object.__setattr__  # of what is frozen


def _endpoint(text: str) -> str:
    return format_endpoint(*parse_endpoint(text))


def _name(text: str) -> str:
    return check_label(text, "name", NAME_MAX)


def _owner(text: str) -> str:
    return check_label(text, "owner", OWNER_MAX)


def _affinity(text: str) -> str:
    try:
        milliseconds = parse_duration(text)
    except InvalidInput as error:
        raise InvalidInput(f"affinity {error.message}") from None
    if not milliseconds:
        raise InvalidInput("affinity must be at least 1ms; leave it out for none")
    return format_duration(milliseconds)


def _from_cgroup(text: str) -> str:
    try:
        return parse_cgroup(text)
    except InvalidInput as error:
        raise InvalidInput(f"from_cgroup {error.message}") from None


def _source_ranges(text: str) -> str:
    try:
        networks = parse_networks(text)
    except InvalidInput as error:
        raise InvalidInput(f"source_ranges {error.message}") from None
    if len(networks) > SOURCE_RANGES_MAX:
        raise InvalidInput(f"source_ranges are at most {SOURCE_RANGES_MAX}, not {len(networks)}")
    return ",".join(networks)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def built(cls, values: dict[str, Any]) -> Self:
        """Of all its fields, which were validated before.

        What model_construct does, which looks at each field and takes five times as long.
        """
        made = cls.__new__(cls)
        _set_attribute(made, "__dict__", values)
        _set_attribute(made, "__pydantic_fields_set__", set(values))
        _set_attribute(made, "__pydantic_extra__", None)
        _set_attribute(made, "__pydantic_private__", None)
        return made

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, but what is updated is checked as by a constructor.

        Raises `InvalidInput`.
        """
        if not update:
            return super().model_copy(deep=deep)
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return validate(type(self), values | {**update})


class Frontend(_Model):
    """The address that clients use. TCP and UDP on one port are two frontends.

    Validates from ``"10.96.0.10:53/udp"`` too and serialises as that string. The address ``node``
    is every address of this node, and loopback in the host's network namespace: a NodePort.
    """

    address: Annotated[StrictStr, AfterValidator(parse_frontend_address)]
    port: Annotated[StrictInt, Field(ge=1, le=65535)]
    protocol: Literal["tcp", "udp"]

    @classmethod
    def parse(cls, text: str) -> Frontend:
        """From ``10.96.0.10:53/udp``, ``[fd00:96::a]:53/udp`` or ``node:30080/tcp``.

        Raises `InvalidInput`.
        """
        address, port, protocol = parse_frontend(text)
        return cls.built({"address": address, "port": port, "protocol": protocol})

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
    def family(self) -> Literal[0, 4, 6]:
        """4, 6, or 0 for ``node``, which has addresses of both."""
        if self.address == NODE:
            return 0
        return 6 if ":" in self.address else 4

    @property
    def sort_key(self) -> tuple[int, bytes, int, str]:
        """Orders by family, address, port, protocol; ``node`` is last."""
        return frontend_key(self.address, self.port, self.protocol)


class Backend(_Model):
    """A server behind a service: ``10.0.0.2:53`` or ``[fd00::2]:53``, its weight and its state.

    Weights are relative, 0 to 65,535; a backend of weight 0 gets no new traffic. A draining one
    gets no new connections either, unless no other is usable, but keeps those that it has, sticky
    clients included; one that is down keeps nothing.
    """

    address: Annotated[StrictStr, AfterValidator(_endpoint)]
    weight: Annotated[StrictInt, Field(ge=0, le=WEIGHT_MAX)] = 1
    state: State = "active"

    @classmethod
    def parse(cls, text: str) -> Backend:
        """From ``10.0.0.3:53`` or ``10.0.0.3:53,weight=3,state=down``; raises `InvalidInput`."""
        where = quote(text)[1:-1] if "," in text else ""
        return validate(cls, parse_backend(text), where)

    def __str__(self) -> str:
        weight = "" if self.weight == 1 else f",weight={self.weight}"
        state = "" if self.state == "active" else f",state={self.state}"
        return self.address + weight + state

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
    """A frontend, the backends behind it in the order given, and how one of them is chosen.

    Attributes:
        name: for people, up to 255 bytes without white space.
        owner: who may change it, up to 63 bytes without white space.
        algorithm: ``random``, by weight; ``maglev``, which gives a client, that is a network
            namespace and cgroup, the same backend each time; ``least-conn``, of two random ones
            that with fewer connections open from this node.
        affinity: how long a client, that is a network namespace, comes back to its backend after
            its last connection; None is not at all.
        host_only: only the host's network namespace uses the service.
        from_cgroup: only tasks below this cgroup use it. Whether it exists is seen when written.
        source_ranges: networks, as in ``10.0.0.0/8,fd00::/8``; clients whose network namespace has
            no address in them are refused. Which have is seen when the service is written, and
            by agents, a second later at most. None: everybody.
        on_removal: what becomes of a backend's connections when it is removed or down; None
            leaves it to the protocol, see `removal`.
    """

    frontend: Frontend
    name: Annotated[StrictStr, AfterValidator(_name)] | None = None
    owner: Annotated[StrictStr, AfterValidator(_owner)] = "manual"
    algorithm: Algorithm = "random"
    affinity: Annotated[StrictStr, AfterValidator(_affinity)] | None = None
    host_only: StrictBool = False
    from_cgroup: Annotated[StrictStr, AfterValidator(_from_cgroup)] | None = None
    source_ranges: Annotated[StrictStr, AfterValidator(_source_ranges)] | None = None
    on_removal: Literal["reset", "keep"] | None = None
    backends: Annotated[tuple[Backend, ...], Field(max_length=BACKENDS_MAX)] = ()

    @classmethod
    def of(
        cls,
        frontend: str,
        *backends: str,
        name: str | None = None,
        owner: str = "manual",
        algorithm: str = "random",
        affinity: str | None = None,
        host_only: bool = False,
        from_cgroup: str | None = None,
        source_ranges: str | None = None,
        on_removal: str | None = None,
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
                "affinity": affinity,
                "host_only": host_only,
                "from_cgroup": from_cgroup,
                "source_ranges": source_ranges,
                "on_removal": on_removal,
                "backends": [Backend.parse(backend) for backend in backends],
            },
        )

    @model_validator(mode="after")
    def _check_backends(self) -> Service:
        at = self.frontend
        check_backends(
            (at.address, at.port, at.protocol),
            self.algorithm,
            [backend.address for backend in self.backends],
        )
        return self

    @property
    def sort_key(self) -> tuple[int, bytes, int, str]:
        """Orders by family, address, port, protocol; ``node`` is last."""
        return self.frontend.sort_key

    @property
    def affinity_ms(self) -> int:
        """Milliseconds; 0 is none."""
        return parse_duration(self.affinity) if self.affinity else 0

    @property
    def removal(self) -> Literal["reset", "keep"]:
        """``on_removal`` or, where that is None, what the protocol makes of it."""
        return removal(self.frontend.protocol, self.on_removal)


_EXPECTED = {
    "address": "a string such as 10.0.0.2:53",
    "affinity": "a duration such as 3h (leave it out for none)",
    "algorithm": "random, maglev or least-conn",
    "backends": f"a list of at most {BACKENDS_MAX} backends",
    "from_cgroup": "a string such as /sys/fs/cgroup/system.slice",
    "frontend": "a string such as 10.96.0.10:53/udp",
    "host_only": "true or false",
    "name": "a string",
    "on_removal": "reset or keep",
    "owner": "a string",
    "port": "an integer from 1 to 65535",
    "protocol": "tcp or udp",
    "source_ranges": "a string such as 10.0.0.0/8,fd00::/8",
    "state": "active, draining or down",
    "weight": f"an integer from 0 to {WEIGHT_MAX}",
}


def validate(
    cls: type[_M], data: object, where: str = "", fields: Mapping[str, str] = _EXPECTED
) -> _M:
    """``data`` as a ``cls``, or `InvalidInput` with one line, which ``where`` begins.

    ``fields`` says what each field is to be.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(explain(error, fields)[1], object=where or None) from None


def explain(
    error: ValidationError, fields: Mapping[str, str] = _EXPECTED
) -> tuple[tuple[int | str, ...], str]:
    """The first problem of ``error``: where in the data it is, and one line for people.

    ``fields`` says what each field is to be.
    """
    problem = _to_tell(error.errors(include_url=False))
    path = problem["loc"]
    kind = problem["type"]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, FieldProblem):
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
    expected = fields.get(field, "a mapping")
    message = f"{field or 'it'} must be {expected}, not {describe(problem['input'])}"
    if expected == "a string" and not isinstance(problem["input"], (dict, list, type(None))):
        message += "; write it in quotes"
    return path, message


def _to_tell(problems: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first; but a key that is missing is mostly there, with a slip in it."""
    first = problems[0]
    if first["type"] == "missing":
        for other in problems:
            if other["type"] == "extra_forbidden" and other["loc"][:-1] == first["loc"][:-1]:
                return other
    return first
