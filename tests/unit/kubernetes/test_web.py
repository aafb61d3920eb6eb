# SPDX-License-Identifier: Apache-2.0
"""Short answers over HTTP, also to clients that are none."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from hostreach.agent import guests
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


LITTLE = Answer(200, b"ok\n")


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


def test_clients_that_say_too_much(web: WebServer) -> None:
    port = web.listen("a", "127.0.0.1", 0, ask)
    assert say(port, "GET / HTTP/1.1\r\nX: " + "x" * 9_000) in ("", "reset")
    assert say(port, "GET /x HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 200 ")


@contextmanager
def crowd(port: int, size: int) -> Iterator[list[int]]:
    """Connections that say nothing, each opened anew when it is closed; how often one was."""
    poll, held, reopened, done = select.poll(), dict[int, socket.socket](), [0], threading.Event()

    def come() -> None:
        client = socket.create_connection(("127.0.0.1", port))
        held[client.fileno()] = client
        poll.register(client, select.POLLIN)

    def stay() -> None:
        while not done.is_set():
            for number, _ in poll.poll(20):
                poll.unregister(number)
                held.pop(number).close()
                come()
                reopened[0] += 1

    for _ in range(size):
        come()
    thread = threading.Thread(target=stay)
    thread.start()
    try:
        yield reopened
    finally:
        done.set()
        thread.join()
        for client in held.values():
            client.close()


def test_who_says_nothing_keeps_nobody_out(web: WebServer) -> None:
    """However many there are, and though they come again at once."""
    port = web.listen("a", "127.0.0.1", 0, ask)
    other = web.listen("b", "127.0.0.1", 0, ask)
    with crowd(port, 200) as reopened:
        for _ in range(10):
            for each in (port, other):
                assert say(each, "GET /x HTTP/1.1\r\n\r\n").endswith("this is /x\n")
    assert reopened[0] > 0


def test_who_was_let_in_has_a_moment_to_ask(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is put out for those who came right behind him."""
    monkeypatch.setattr(guests, "PATIENCE", 1.0)  # machines may be slow
    port = web.listen("a", "127.0.0.1", 0, ask)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client, crowd(port, 150):
        client.sendall(b"GET /x HTTP/1.1\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b"this is /x\n")


def test_a_question_has_its_time_in_all(web: WebServer) -> None:
    """However often a little more of it comes."""
    port = web.listen("a", "127.0.0.1", 0, ask)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nX: ")
        while time.monotonic() - began < 4:
            with suppress(TimeoutError):
                try:
                    client.sendall(b"x")
                    if not client.recv(1):
                        break
                except (ConnectionResetError, BrokenPipeError):
                    break
        else:
            pytest.fail("it was heard out")
    assert time.monotonic() - began > 1


def test_who_does_not_take_an_answer_holds_it_for_a_while(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostreach.agent.web._SECONDS", 0.5)
    port = web.listen("a", "127.0.0.1", 0, lambda _: Answer(200, bytes(50 << 20)))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET /x HTTP/1.1\r\n\r\n")
        assert client.recv(5) == b"HTTP/"
        wait_until(lambda: not asyncio.run_coroutine_threadsafe(tasks(), web._loop).result())


def test_who_does_not_take_an_answer_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """/metrics may be more than the kernel keeps for a client that does not read."""
    monkeypatch.setattr("hostreach.agent.web._AT_ONCE", 6)
    monkeypatch.setattr("hostreach.agent.web._SECONDS", 60.0)
    web, large = WebServer(), Answer(200, bytes(20 << 20))
    port = web.listen("a", "127.0.0.1", 0, lambda path: (lambda: large) if path == "/x" else LITTLE)
    with ExitStack() as stack:
        stack.callback(web.close)
        for _ in range(6):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            client.sendall(b"GET /x HTTP/1.1\r\n\r\n")
            assert client.recv(5) == b"HTTP/"
        for _ in range(3):
            assert say(port, "GET /healthz HTTP/1.1\r\n\r\n").endswith("ok\n")


async def tasks() -> set[asyncio.Task[object]]:
    """Of connections, but for the ones that ports accept them by."""
    return {task for task in asyncio.all_tasks() if "_serve" in repr(task.get_coro())}


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it never came")


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


def test_threads_that_find_answers_are_few(web: WebServer) -> None:
    """Whoever asks and goes leaves one behind, until it is done."""
    begun, told = threading.Semaphore(0), threading.Event()

    def slow() -> Answer:
        begun.release()
        assert told.wait(30)
        return Answer(200, b"at last\n")

    port = web.listen("a", "127.0.0.1", 0, lambda path: slow if path == "/slow" else ask(path))
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
            assert begun.acquire(timeout=30)
    assert say(port, "GET /slow HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 503 ")
    assert say(port, "GET /x HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 200 ")
    assert not begun.acquire(blocking=False)
    told.set()
    wait_until(lambda: say(port, "GET /slow HTTP/1.1\r\n\r\n").endswith("at last\n"))


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
