# SPDX-License-Identifier: Apache-2.0
"""What a small API server answers: lists in pages, and watches in chunks.

It is as Kubernetes does it: resource versions, bookmarks, streamed lists, selectors, both forms
of 410.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from .objects import Json

if TYPE_CHECKING:
    from .apiserver import ApiServer

KINDS = {
    "/api/v1/services": "Service",
    "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice",
    "/api/v1/nodes": "Node",
    "/api/v1/pods": "Pod",
}
GONE = b'{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}'
END = {"k8s.io/initial-events-end": "true"}


class Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Tests have enough to say."""

    def do_GET(self) -> None:
        api = self.api
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        api.requests.append(self.path)
        if not api.is_running:
            self.close_connection = True
            return
        with contextlib.suppress(IndexError):  # two may come for the last one
            self._refuse(*api.trouble.answers.pop(0))
            return
        if not self._is_let_in():
            self._refuse(401, {})
        elif parts.path.startswith("/api/v1/nodes/"):
            self._get("Node", parts.path.rpartition("/")[2], query)
        elif parts.path not in KINDS:
            self._refuse(404, {})
        elif KINDS[parts.path] in api.forbidden:
            self._refuse(403, {})
        elif not api.service_fields and "spec.clusterIP" in query.get("fieldSelector", ""):
            self._refuse(400, {}, "field label not supported: spec.clusterIP")
        elif query.get("watch") in ("1", "true"):
            self._watch(KINDS[parts.path], query)
        else:
            self._list(KINDS[parts.path], query)

    def _is_let_in(self) -> bool:
        token, name = self.api.token, self.api.certificate
        if token and self.headers["Authorization"] != f"Bearer {token}":
            return False
        return not name or self._common_name() == name

    def _common_name(self) -> str:
        """Of the certificate that came with the connection, as it was made."""
        assert isinstance(self.connection, ssl.SSLSocket)
        found = self.connection.getpeercert() or {}
        subject: Any = found.get("subject", ())
        return str(dict(pair for group in subject for pair in group).get("commonName", ""))

    def _get(self, kind: str, name: str, query: dict[str, str]) -> None:
        objects = self.api.objects
        if query.get("resourceVersion") == "0" and self.api.cache:
            objects, _ = self.api.cache
        found = objects.get((kind, f"/{name}"))
        if found is None:
            self._refuse(404, {})
        else:
            self._send(200, found, {})

    def _refuse(self, code: int, headers: dict[str, str], message: str = "") -> None:
        reason = {410: "Expired", 403: "Forbidden", 401: "Unauthorized"}.get(code, "")
        status = {"kind": "Status", "code": code, "reason": reason, "message": message or reason}
        self._send(code, status, headers)

    def _send(self, code: int, body: Json, headers: dict[str, str]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(raw)

    # --- lists -----------------------------------------------------------------------------------

    def _list(self, kind: str, query: dict[str, str]) -> None:
        api = self.api
        wanted = _selected(query)
        begin, _, version = query.get("continue", "").partition("@")
        asked = query.get("resourceVersion", "")
        if begin and asked:
            self._refuse(400, {}, "specifying resource version is not allowed when using continue")
            return
        if "resourceVersionMatch" in query and not asked:
            self._refuse(422, {}, "resourceVersionMatch is forbidden unless resourceVersion is set")
            return
        cached = asked == "0" or (asked and "limit" not in query)
        if cached and api.trouble.whole_lists:
            self._refuse(api.trouble.whole_lists, {})
            return
        with api.changed:
            if version and int(version) < api.oldest:
                self._refuse(410, {})
                return
            objects, current = api.objects, api.version
            if cached and api.cache:
                objects, current = api.cache
            if cached and int(asked) > current and not api.trouble.any_version:
                message = f"Too large resource version: {asked}, current: {current}"
                self._refuse(504, {"Retry-After": "1"}, message)
                return
            items = sorted(
                (key, value)
                for (of, key), value in objects.items()
                if of == kind and key > begin and wanted(value)
            )
            version = version or str(current)
        limit = len(items) if cached else int(query.get("limit", "0")) or len(items)
        meta = {"resourceVersion": version}
        if len(items) > limit:
            meta["continue"] = f"{items[limit - 1][0]}@{version}"
        found = [_without_kind(value) for _, value in items[:limit]]
        body: Json = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": meta, "items": found}
        body |= api.trouble.lists
        self._send(200, {key: value for key, value in body.items() if value is not None}, {})

    # --- watches ---------------------------------------------------------------------------------

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        api = self.api
        streamed = query.get("sendInitialEvents") == "true"
        if streamed and not api.streamed_lists:
            self._refuse(422, {}, "sendInitialEvents is forbidden for watch")
            return
        wanted = _selected(query)
        deadline = time.monotonic() + float(query.get("timeoutSeconds", "300"))
        with api.changed:
            epoch = api.epoch
            version = int(query.get("resourceVersion") or api.version)
            initial = [
                value
                for (of, _), value in sorted(api.objects.items(), key=lambda item: item[0])
                if of == kind and wanted(value)
            ]
            gone = version < api.oldest
            if streamed:
                version, gone = api.version, False
        if gone and not api.trouble.gone_in_event:
            self._refuse(410, {})
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            if gone:
                self._event("ERROR", GONE)
            elif streamed and (code := api.trouble.stream_error):
                self._event("ERROR", b'{"kind":"Status","code":%d}' % code)
            else:
                if streamed:
                    for value in initial:
                        self._event("ADDED", json.dumps(value).encode())
                    self._bookmark(kind, version, END)
                self._follow(kind, wanted, version, epoch, deadline)
            if api.epoch == epoch:
                self.wfile.write(b"0\r\n\r\n")
                return
        self.close_connection = True

    def _follow(
        self,
        kind: str,
        wanted: Callable[[Json], bool],
        version: int,
        epoch: int,
        deadline: float,
    ) -> None:
        api = self.api
        asked, marked = version, time.monotonic()
        while True:
            with api.changed:
                silent = api.trouble.silent  # what is not said now is said later, or to the next
                if api.epoch == epoch and (silent or api.version <= version):
                    api.changed.wait(min(api.bookmarks, 0.5))
                ended = api.epoch != epoch
                if not silent:
                    missed = version < api.oldest
                    news = [entry for entry in _after(api.log, version) if entry[2] == kind]
                    version = max(version, api.version)
            if ended or time.monotonic() > deadline:
                return
            if silent:
                continue
            if missed:
                self._event("ERROR", GONE)
                return
            for _, event, _, line, before in news:
                self._change(event, line, before, wanted)
            if version > asked and time.monotonic() - marked > api.bookmarks:
                marked = time.monotonic()
                self._bookmark(kind, version)

    def _change(
        self, event: str, line: bytes, before: Json, wanted: Callable[[Json], bool]
    ) -> None:
        """By a selector an object may come and go that was merely modified."""
        now = event != "DELETED" and wanted(json.loads(line))
        was = bool(before) and wanted(before)
        if not now and not was:
            return
        if event != "DELETED" and not now:  # as it was, by the version of what it became
            version = json.loads(line)["metadata"]["resourceVersion"]
            gone = {**before, "metadata": {**before["metadata"], "resourceVersion": version}}
            line = json.dumps(gone).encode()
        self._event(("MODIFIED" if was else "ADDED") if now else "DELETED", line)
        if self.api.trouble.twice:
            self._event("MODIFIED" if now else "DELETED", line)
            if before and was:
                self._event("MODIFIED", json.dumps(before).encode())

    def _bookmark(self, kind: str, version: int, annotations: Json | None = None) -> None:
        meta: Json = {"resourceVersion": str(version)}
        if annotations:
            meta["annotations"] = annotations
        mark: Json = {"kind": kind, "apiVersion": "v1", "metadata": meta}
        if kind == "Service":  # Go writes out what is empty
            mark |= {"spec": {}, "status": {"loadBalancer": {}}}
        elif kind == "EndpointSlice":
            mark["apiVersion"] = "discovery.k8s.io/v1"
            mark |= {"addressType": "", "endpoints": None, "ports": None}
        self._event("BOOKMARK", json.dumps(mark).encode())

    def _event(self, event: str, line: bytes) -> None:
        trouble = self.api.trouble
        raw = b'{"type":"%s","object":%s}\n' % (event.encode(), line)
        if trouble.cut and event != "BOOKMARK":
            trouble.cut = False
            self._chunk(raw[: len(raw) // 2])
            self.connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        if trouble.dribble:
            for at in range(0, len(raw), 97):
                self._chunk(raw[at : at + 97])
                time.sleep(0.001)
        else:
            self._chunk(raw)

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))


def _after(log: list[tuple[int, str, str, bytes, Json]], version: int) -> list[Any]:
    at = len(log)
    while at and log[at - 1][0] > version:
        at -= 1
    return log[at:]


def _without_kind(value: Json) -> Json:
    """As in a list, whose own kind says it."""
    return {key: each for key, each in value.items() if key not in ("kind", "apiVersion")}


def _selected(query: dict[str, str]) -> Callable[[Json], bool]:
    """The few selectors that are used: a label that is not there, a field with a value or not."""
    label = re.fullmatch(r"!(.+)", query.get("labelSelector", ""))
    fields = re.fullmatch(r"spec\.(\w+)(!?=)([\w-]+)", query.get("fieldSelector", ""))

    def wanted(value: Json) -> bool:
        if label and label[1] in (value["metadata"].get("labels") or {}):
            return False
        if fields is None:
            return True
        same = bool(value.get("spec", {}).get(fields[1]) == fields[3])
        return same == (fields[2] == "=")

    return wanted
