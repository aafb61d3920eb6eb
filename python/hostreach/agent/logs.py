# SPDX-License-Identifier: Apache-2.0
"""One line on standard error for each thing that happens, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


def set_up(level: str, form: str) -> None:
    """For this process; libraries are heard from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("hostreach").setLevel(level.upper())


def _line(record: logging.LogRecord) -> str:
    """Control characters, of a hostile name for example, reach no terminal."""
    text = record.getMessage()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"{_when(record)} {record.levelname.lower()} {_line(record)}"
        return text + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        text = json.dumps(said, ensure_ascii=False)
        return text if text.isprintable() else json.dumps(said)  # which is ASCII


def _when(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
