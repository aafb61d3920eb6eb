# SPDX-License-Identifier: Apache-2.0
"""The command line: ``hostreach``.

Exit status: 0 done; 2 bad usage or input; 1 a valid request that the state or the system refuses.
Whatever goes wrong is told in one line on standard error.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TextIO

from hostreach.errors import HostreachError

from . import made

__all__ = ["main"]

_SIGPIPE = 128 + 13
_SIGINT = 128 + 2
_TRACEBACK = "HOSTREACH_TRACEBACK"
_OUTPUT = "standard output"
_MADE = "; the change is made"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit status."""
    _replace_closed_streams()
    try:
        return _main(argv)
    finally:
        _give_up_unwritten()
        if isinstance(sys.stdout, _Output):
            sys.stdout = sys.stdout.give_back()


def _main(argv: Sequence[str] | None) -> int:
    # Imported here so that an interrupt while they load is quiet too.
    try:
        made.begin()
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout = _Output(sys.stdout)
        code = _run(sys.argv[1:] if argv is None else [*argv])
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except HostreachError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _drop(sys.stdout)
        return _fail(f"interrupted{_MADE}", _SIGINT) if made.anything() else _SIGINT
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        what += (error.strerror or str(error)).lower()
        if error.filename == _OUTPUT and made.anything():
            what += _MADE
        elif isinstance(error, BrokenPipeError):
            return _SIGPIPE  # nobody reads on
        return _fail(what, _SIGPIPE if isinstance(error, BrokenPipeError) else 1)
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        what = f"{type(error).__name__}: {error}"
        return _fail(f"unexpected failure: {what}; with {_TRACEBACK}=1 it shows where", 1)


class _Output(TextIOWrapper):
    """Standard output that, where it cannot be written, says so: a change is made by then."""

    def __init__(self, stream: TextIOWrapper) -> None:
        stream.flush()
        self._replaced = stream  # each closes what both write to when it goes
        super().__init__(
            stream.buffer,
            encoding="utf-8",  # of names, whatever the locale: `export` must not depend on it
            errors="surrogateescape",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def give_back(self) -> TextIOWrapper:
        """What it replaced; this one is of no use any more."""
        self.detach()
        return self._replaced

    def write(self, text: str) -> int:
        with _named_output():
            return super().write(text)

    def flush(self) -> None:
        with _named_output():
            super().flush()


@contextmanager
def _named_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _OUTPUT
        raise


def _replace_closed_streams() -> None:
    """A stream that is not there fails when it is used, and no file of ours takes its number.

    So input is what can only be written, and output what can only be read.
    """
    for fd, name, mode, flags in (
        (0, "stdin", "r", os.O_WRONLY),
        (1, "stdout", "w", os.O_RDONLY),
        (2, "stderr", "w", os.O_WRONLY),
    ):
        if not _is_open(fd) and os.open(os.devnull, flags) == fd:
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _give_up_unwritten() -> None:
    """The interpreter tries once more at its end, complains, and makes the exit status 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if not _flushed(stream):
            _drop(stream)


def _drop(stream: TextIO) -> None:
    """What is yet to be written there goes nowhere: whoever should read it may never do so."""
    with suppress(OSError):  # of a test there is no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _flushed(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _run(argv: list[str]) -> int:
    _take_descriptors()
    gc.set_threshold(50_000)  # what commands load stays, and most end before anything is garbage
    # What runs as root loads nothing that it does not know of; and to look for it takes a while.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    import typer
    from typer.exceptions import TyperException
    from typer.main import get_command

    from .app import build

    for word in argv:
        if not _is_text(word):
            return _fail(f"{word!a} is not UTF-8", 2)
    completes = "_HOSTREACH_COMPLETE" in os.environ
    command = get_command(build(None if completes else argv))
    if completes:  # set by the shell's completion
        from .completion import complete

        complete(command, argv)
        return 0
    # Not command.main(): it answers interrupts and closed pipes in its own way.
    try:
        with command.make_context("hostreach", argv) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        return _SIGINT
    except TyperException as error:
        return _fail(_usage(error), 2)
    return 0


def _take_descriptors() -> None:
    """As many as there may be: 1,024, as systemd gives, are fewer than users make namespaces."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _usage(error: Exception) -> str:
    """One line in the style of all the others: ``svc add: missing argument 'FRONTEND'``."""
    message = getattr(error, "format_message", error.__str__)().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    where = context.command_path.partition(" ")[2] if context is not None else ""
    return (f"{where}: " if where else "") + message[:1].lower() + message[1:]


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split("\n"))
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with suppress(OSError):  # the exit status says it all the same
        print(f"hostreach: {shown}", file=sys.stderr)
    return code
