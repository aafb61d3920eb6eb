# SPDX-License-Identifier: Apache-2.0
"""Health checks: what may be said of them, what they find, and what is made of that."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from hostreach.agent.checks.probes import NotDone, ProbeError, Target, probe
from hostreach.agent.checks.runner import Health, Runner
from hostreach.checks import EXPECTED, Check
from hostreach.errors import InvalidInput
from hostreach.models import Service, validate
from hostreach.sources.file import load_entries

from .conftest import Run

FAST = Check(kind="tcp", interval="100ms", jitter="0s", rise=2, fall=2)

# --- what may be said --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "line", "message"),
    [
        ("check: yes", 4, "check must be a mapping such as {kind: tcp}, not true"),
        ("check: {}", 4, "kind is missing"),
        ("check: {kind: icmp}", 4, "kind must be tcp, http or dns, not 'icmp'"),
        ("check: {kind: tcp, path: /x}", 4, "path is of http checks, not of tcp ones"),
        ("check: {kind: http, name: a}", 4, "name is of dns checks, not of http ones"),
        ("check: {kind: dns}", 4, "a dns check needs a name to ask for"),
        ("check: {kind: dns, name: a..b}", 4, "name 'a..b' is no name that DNS knows"),
        ("check: {kind: http, path: healthz}", 4, "path 'healthz' is none; write it as /healthz"),
        ('check: {kind: http, path: "/a b"}', 4, "path '/a b' is none"),
        ('check: {kind: http, host: "a\\r\\nX: y"}', 4, "host 'a\\r\\nX: y' is no host's name"),
        ("check: {kind: http, status: 99}", 4, "status '99' is none; write it as 200 or 200-299"),
        ("check: {kind: http, status: 300-200}", 4, "status '300-200' is none"),
        ("check: {kind: http, status: true}", 4, "status must be a status such as 200"),
        ("check: {kind: tcp, interval: 5}", 4, "interval must be a duration such as 5s, not 5"),
        ("check: {kind: tcp, interval: 50ms}", 4, "interval must be at least 100ms, not '50ms'"),
        ("check: {kind: tcp, timeout: 0s}", 4, "timeout must be at least 1ms"),
        ("check: {kind: tcp, rise: 0}", 4, "rise must be an integer from 1 to 1000, not 0"),
        ('check: {kind: tcp, fall: "3"}', 4, "fall must be an integer from 1 to 1000, not '3'"),
        ("check: {kind: tcp, port: 0}", 4, "port must be an integer from 1 to 65535, not 0"),
        ("check: {kind: tcp, all_down: panic}", 4, "all_down must be use-all or refuse"),
        ("check: {kind: tcp, every: 5s}", 4, "unknown key 'every'"),
        ("check:\n    kind: tcp\n    fall: no", 6, "fall must be an integer"),
    ],
)
def test_wrong_checks(run: Run, said: str, line: int, message: str) -> None:
    text = f"version: 1\nservices:\n- frontend: 10.96.0.1:80/tcp\n  {said}\n"
    done = run("apply", "-f", "-", stdin=text)
    assert (done.code, done.out) == (2, "")
    assert f"standard input:{line}: {message}" in done.err
    assert done.err.count("\n") == 1


def test_a_check_with_everything(run: Run) -> None:
    text = (
        "version: 1\nservices:\n- frontend: 10.96.0.1:80/tcp\n  check:\n    kind: http\n"
        "    path: /healthz?x=%20\n    status: 200-299,401\n    host: www.example.com\n"
        "    port: 8081\n    interval: 500ms\n    timeout: 100ms\n    jitter: 0s\n"
        "    rise: 1\n    fall: 5\n    all_down: refuse\n"
    )
    done = run("apply", "-f", "-", stdin=text)
    assert done.code == 0
    assert "1 of the services have a check" in done.err


def test_durations() -> None:
    check = Check(kind="tcp")
    assert (check.interval_s, check.timeout_s, check.jitter_s) == (5, 2, 0.5)
    assert Check(kind="tcp", jitter="0s").jitter_s == 0


# --- what one check finds ----------------------------------------------------------------------

Handle = Callable[[socket.socket], None]


@contextmanager
def server(handle: Handle, kind: int = socket.SOCK_STREAM) -> Iterator[str]:
    """Where `handle` serves each connection, or each datagram's socket."""
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        stopped = threading.Event()
        listener.settimeout(0.05)

        def serve() -> None:
            while not stopped.is_set():
                try:
                    if kind == socket.SOCK_DGRAM:
                        handle(listener)
                    else:
                        with listener.accept()[0] as client:
                            client.settimeout(5)
                            handle(client)
                except (TimeoutError, ConnectionError):  # noqa: PERF203
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            thread.join()


def outcome(backend: str, protocol: str = "tcp", **said: object) -> str:
    """What a check of ``backend`` comes to, in a word or more."""
    fields = {"timeout": "500ms", **said}
    target = Target.of(backend, validate(Check, fields, fields=EXPECTED), protocol)  # type: ignore[arg-type]
    try:
        asyncio.run(probe(target))
    except ProbeError as error:
        return str(error)
    return "passes"


def says(answer: bytes) -> Handle:
    """Reads a little, says this, and closes."""

    def handle(client: socket.socket) -> None:
        if client.recv(4096):
            client.sendall(answer)

    return handle


def test_tcp() -> None:
    with server(lambda _: None) as at:
        assert outcome(at, kind="tcp") == "passes"
        closed = "127.0.0.1:9"
        assert outcome(closed, kind="tcp") == "connection refused"
        port = int(at.rpartition(":")[2])
        assert outcome(closed, kind="tcp", port=port) == "passes"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "passes"),
        (b"HTTP/1.0 301 Moved\r\n\r\n", "passes"),
        (b"HTTP/1.1 204\r\n", "passes"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
        (b"HTTP/1.1 OK\r\n", "no HTTP"),
        (b"x" * 100_000, "no HTTP"),
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200", "closed without an answer"),
    ],
)
def test_http(answer: bytes, found: str) -> None:
    with server(says(answer)) as at:
        assert outcome(at, kind="http") == found


def test_http_asks_as_it_was_told() -> None:
    asked: list[bytes] = []

    def handle(client: socket.socket) -> None:
        asked.append(client.recv(4096))
        client.sendall(b"HTTP/1.1 401 Who\r\n\r\n")

    with server(handle) as at:
        said = {"kind": "http", "path": "/x?y", "host": "a.example", "status": "200,400-404"}
        assert outcome(at, **said) == "passes"
        assert outcome(at, kind="http", status=401) == "passes"
    assert asked[0].startswith(b"GET /x?y HTTP/1.1\r\nHost: a.example\r\n")
    assert asked[1].startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:")


def test_a_server_that_says_nothing() -> None:
    def silent(client: socket.socket) -> None:
        client.recv(4096)
        time.sleep(1)

    with server(silent) as at:
        began = time.monotonic()
        assert outcome(at, kind="http", timeout="200ms") == "no answer within 200ms"
        assert time.monotonic() - began < 0.9


def dns(code: int = 0, number: int = 0, asked: bytes | None = None) -> Handle:
    """Answers with this code, another number, another question."""

    def handle(client: socket.socket) -> None:
        tcp = client.type == socket.SOCK_STREAM
        query, sender = client.recvfrom(4096)
        query = query[2:] if tcp else query
        (found,) = struct.unpack("!H", query[:2])
        head = struct.pack("!6H", (found + number) & 0xFFFF, 0x8180 | code, 1, 0, 0, 0)
        answer = head + (query[12:].upper() if asked is None else asked)
        client.sendall(struct.pack("!H", len(answer)) + answer) if tcp else client.sendto(
            answer, sender
        )

    return handle


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("handle", "found"),
    [
        (dns(), "passes"),
        (dns(code=3), "NXDOMAIN"),
        (dns(code=2), "SERVFAIL"),
        (dns(code=9), "error 9"),
        (dns(number=1), "an answer to something else"),
        (dns(asked=b"\x01x\0\0\x01\0\x01"), "an answer to something else"),
        (dns(asked=b""), "an answer to something else"),
    ],
)
def test_dns(protocol: str, handle: Handle, found: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with server(handle, kind) as at:
        assert outcome(at, protocol, kind="dns", name="www.example.com") == found


def test_dns_where_nobody_is() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    refused = outcome(f"127.0.0.1:{port}", "udp", kind="dns", name="example.com")
    assert refused == "connection refused"  # at once: not by the timeout


def test_what_this_node_lacks_says_nothing_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "open_connection", no_room)
    with pytest.raises(NotDone, match="too many open files"):
        outcome("127.0.0.1:1", kind="tcp")


# --- rise, fall, and who runs when ---------------------------------------------------------------


def test_the_first_result_decides_and_others_need_company() -> None:
    health = Health()
    steps = [
        ("no", True, False),  # the first
        (None, False, False),
        ("no", False, False),  # the row is broken
        (None, False, False),
        (None, True, True),  # rise: 2
        ("no", False, True),
        ("no", False, True),
        ("no", True, False),  # fall: 3
    ]
    for problem, changes, passes in steps:
        assert health.take(problem, rise=2, fall=3) == changes
        assert health.passes == passes
    inherited = Health(passes=False)
    assert not inherited.take(None, rise=2, fall=3)
    assert inherited.take(None, rise=2, fall=3)
    assert inherited.passes


def test_no_more_at_once_than_allowed() -> None:
    now = most = 0
    lock = threading.Lock()

    def handle(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    counted: Counter[str] = Counter()
    check = Check(kind="http", interval="100ms", jitter="0s", timeout="5s")

    async def slow(_: Target) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        await asyncio.sleep(0.02)
        with lock:
            now -= 1

    with server(handle), pytest.MonkeyPatch.context() as patch:
        patch.setattr("hostreach.agent.checks.runner.probe", slow)
        runner = Runner(3, lambda: None, lambda _, result, __: counted.update([result]))
        targets = [Target.of(f"127.0.0.1:{n}", check, "tcp") for n in range(1, 21)]
        runner.follow(targets, (), ())
        time.sleep(0.6)
        runner.close()
    assert most == 3
    assert counted["pass"] >= 20
    assert {each.passes for each in runner.health.values()} == {True}


def test_intervals_are_kept_and_spread() -> None:
    at: list[float] = []

    async def note(_: Target) -> None:
        at.append(time.monotonic())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hostreach.agent.checks.runner.probe", note)
        runner = Runner(3, lambda: None, lambda *_: None)
        check = Check(kind="tcp", interval="100ms", jitter="40ms")
        runner.follow([Target.of("127.0.0.1:1", check, "tcp")], (), ())
        time.sleep(1.5)
        runner.close()
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert len(gaps) >= 5
    assert all(gap > 0.095 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.002


@pytest.mark.parametrize("how", ["close", "drop"])
def test_ends_though_a_probe_loses_what_cancels_it(how: str) -> None:
    """As asyncio.wait_for before Python 3.12, where both happen at once."""
    probed = threading.Event()
    told: list[object] = []

    async def deaf(_: Target) -> None:
        probed.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hostreach.agent.checks.runner.probe", deaf)
        runner = Runner(3, lambda: None, lambda *result: told.append(result))
        target = Target.of("127.0.0.1:1", FAST, "tcp")
        runner.follow([target], (), ())
        assert probed.wait(10)
        if how == "drop":
            probed.clear()
            runner.follow((), [target], ())
            assert not probed.wait(0.5)
        ending = threading.Thread(target=runner.close, daemon=True)
        ending.start()
        ending.join(10)
    assert not ending.is_alive()
    assert told == []


def test_a_mistake_of_ours_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    async def stumble(_: Target) -> None:
        raise KeyError("oops")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hostreach.agent.checks.runner.probe", stumble)
        runner = Runner(3, lambda: None, lambda *_: None)
        runner.follow([Target.of("127.0.0.1:1", FAST, "tcp")], (), ())
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        runner.close()
    assert "a check goes on no longer" in caplog.text
    assert "oops" in caplog.text


def test_checks_are_no_part_of_a_service() -> None:
    with pytest.raises(InvalidInput, match="unknown key 'check'"):
        validate(Service, {"frontend": "10.96.0.1:80/tcp", "check": {"kind": "tcp"}})


def test_the_example_in_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/files.md").read_text()
    example = text.partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "example.yaml"
    file.write_text(example)
    first, second = load_entries(str(file), owner="file", alone=True)
    assert first.check == Check(
        kind="http",
        path="/healthz",
        status="200-299,401",
        host="www.example.com",
        interval="2s",
        timeout="500ms",
        jitter="200ms",
        all_down="refuse",
    )
    assert second.check == Check(kind="dns", name="example.com", port=5353)
