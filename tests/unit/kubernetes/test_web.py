# SPDX-License-Identifier: Apache-2.0
"""Short answers over HTTP, also to clients that are none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from hostreach.agent.web import Answer, WebServer


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def say(port: int, text: str, host: str = "127.0.0.1") -> str:
    with socket.create_connection((host, port), timeout=30) as client:
        answer = b""
        try:
            client.sendall(text.encode())
            while part := client.recv(4096):
                answer += part
        except ConnectionResetError:
            return "reset"
    return answer.decode()


def ask(path: str) -> Answer:
    return Answer(200, f"this is {path}\n".encode())


def test_questions(web: WebServer) -> None:
    port = web.listen("a", "127.0.0.1", 0, ask)
    answer = say(port, "GET /x?y=z HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert answer.endswith("\r\n\r\nthis is /x\n")
    assert "Content-Length: 11\r\n" in answer
    assert say(port, "HEAD /x HTTP/1.1\r\n\r\n").endswith("\r\n\r\n")
    assert say(port, "POST /x HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 405 ")
    assert say(port, "what?\r\n\r\n").startswith("HTTP/1.1 400 ")


def test_clients_that_say_too_much_or_nothing(web: WebServer) -> None:
    port = web.listen("a", "127.0.0.1", 0, ask)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    assert say(port, "GET / HTTP/1.1\r\nX: " + "x" * 9_000) in ("", "reset")
    for each in silent:
        each.close()
    assert say(port, "GET /x HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 200 ")


def test_who_takes_his_time_keeps_nobody_waiting(web: WebServer) -> None:
    asked, told = threading.Event(), threading.Event()

    def slow() -> Answer:
        asked.set()
        assert told.wait(30)
        return Answer(200, b"at last\n")

    port = web.listen("a", "127.0.0.1", 0, lambda path: slow if path == "/slow" else ask(path))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert asked.wait(30)
        assert say(port, "GET /x HTTP/1.1\r\n\r\n").endswith("this is /x\n")
        told.set()
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\nat last\n")


def test_what_fails_is_an_answer_too(web: WebServer) -> None:
    def broken() -> Answer:
        raise RuntimeError("no")

    port = web.listen("a", "127.0.0.1", 0, lambda _: broken)
    assert say(port, "GET /x HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 500 ")


def test_ports_come_and_go(web: WebServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    web.listen("a", None, port, ask)
    assert say(port, "GET / HTTP/1.1\r\n\r\n", "::1").startswith("HTTP/1.1 200 ")
    with pytest.raises(OSError, match="in use"):
        web.listen("b", "127.0.0.1", port, ask)
    web.stop("a")
    with pytest.raises(ConnectionRefusedError):
        say(port, "")
    web.listen("b", "127.0.0.1", port, ask)
