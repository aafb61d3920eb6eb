# SPDX-License-Identifier: Apache-2.0
"""List, then watch, for as long as it takes: one kind of object, in a thread of its own.

Whatever happens to the connection, what was learned stands.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from . import objects
from .abilities import Abilities
from .client import ApiClient, ApiError, Silent, TooLarge, TooLong
from .heads import page_of
from .news import Listed, Listing, News
from .patience import Backoff, Patience
from .telling import Resource, Teller

log = logging.getLogger("hostreach.kubernetes")

PAGE = 500
WHOLE_MAX = 32 << 20
"""Bytes of a list in one answer; larger ones are read page by page, to hold no more at a time."""
GONE = 410
BUSY = 429
# Made while there is one thread: msgspec describes a type to itself when it first meets it, and a
# second thread that meets it meanwhile takes half a description for a whole one, and crashes.
_page = msgspec.json.Decoder(objects.Page)
_raw = msgspec.json.Decoder(objects.Event[msgspec.Raw])
_error = msgspec.json.Decoder(objects.Event[objects.Status])
_mark = msgspec.json.Decoder(objects.Event[objects.Bookmark])

_MISSING = (400, 404, 422)
"""How servers without WatchList answer, or one that has it turned off."""
_NOT_SO_NEW = (400, 410, 422, 504)
"""How those answer that have no list as new as was asked for, or do not know what that means."""


@dataclass
class Watching:
    """How it goes, for others to read.

    Attributes:
        restarts: how often a watch or list ended, by why.
        heard: when the server last said something, by time.monotonic(); 0 is never.
    """

    connected: bool = False
    listed: bool = False
    heard: float = 0.0
    restarts: Counter[str] = field(default_factory=Counter)
    trouble: str | None = None


class _Again(Exception):
    """List anew."""


class Watcher:
    """Runs in the thread that calls `run`, until ``stop`` is set."""

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        tell: Callable[[News], None],
        stop: threading.Event,
        patience: Patience,
    ) -> None:
        self.state = Watching()
        self._client = client
        self._resource = resource
        self._tell = tell
        self._stop = stop
        self._patience = patience
        self._backoff = Backoff(patience)
        self._connected_at = 0.0
        self._version: str | None = None
        self._known = self._cached = ""
        self._abilities = Abilities()
        self._params = {**resource.params, **resource.spares}
        self._relist = False
        self._mute = False
        self._event = msgspec.json.Decoder(objects.Event[resource.type])  # type: ignore[name-defined]
        self._objects = Teller(resource, tell)

    def relist(self) -> None:
        """List anew at the next event, as when objects are to be read in another way."""
        self._relist = True

    def run(self) -> None:
        """List and watch; what fails is tried again."""
        while not self._stop.is_set():
            try:
                delay = self._turn()
            except Exception:
                # Ours to mend, but no reason to leave the node without news from now on.
                log.exception("%s: unexpected failure", self._resource.path)
                self._lose_place()
                self._restarted("failure")
                delay = self._backoff.take()
            self._stop.wait(delay)

    def _turn(self) -> float:
        """One list or watch to its end; the seconds to wait then."""
        began = time.monotonic()
        try:
            if self._version is not None and self._mute and self._has_settled():
                self._check_place(self._version)
            if self._version is None:
                self._abilities.renew()
                if not self._abilities.streams:
                    self._list()
                    return 0.0
            try:
                self._watch()
            except Silent:
                # No failure, once it was connected: there is nothing to say while nothing of this
                # kind changes, and etcd may tell the server but every ten minutes how far it is.
                if not self.state.connected:
                    raise
            self._restarted("ended")
            self._forgive()
            lasted = time.monotonic() - began
            return 0.0 if lasted > self._patience.first else self._backoff.take()
        except _Again:
            self._lose_place()
            self._restarted("expired")
            self._forgive()
            return self._backoff.take()
        except ApiError as error:
            return self._failed(error)
        except msgspec.DecodeError as error:
            return self._failed(ApiError(0, f"what it says is garbled: {error}"))
        finally:
            self.state.connected = False

    def _forgive(self) -> None:
        """What failed before a watch that went well for a while. To be asked when it ends.

        Not at its first word: a stream that breaks after each would be asked for again and again,
        and so would lists, of which each costs the server much.
        """
        if self.state.connected and self._has_settled():
            self._backoff.reset()

    def _has_settled(self) -> bool:
        return time.monotonic() - self._connected_at >= self._patience.settled

    def _lose_place(self) -> None:
        """There is nowhere to watch from: a list is needed, but none from before what we know."""
        self._known = self._version or self._known
        self._version = None

    def _check_place(self, version: str) -> None:
        """A watch that ended without a word may be from a version that is yet to come.

        Versions go back where etcd was restored. Such a watch hears nothing until they have caught
        up, and then not what had been lost, or was changed meanwhile. Where nobody can tell, as
        while etcd is away, the watch is better than nothing: it hears what comes first.
        """
        params = {**self._params, "limit": "1", "timeout": "5s"}
        with suppress(ApiError, TooLarge):
            now = self._page_of(self._client.get(self._resource.path, params)).metadata
            if is_older(now.resource_version, version):
                text = "%s: the server is at version %s, before %s; reading all anew"
                log.warning(text, self._resource.path, now.resource_version, version)
                self._lose_place()
                self._known = ""

    # --- what the server says --------------------------------------------------------------------

    def _list(self) -> None:
        self._tell(Listing(self._resource.kind))
        meta = self._whole()
        if meta is None or meta.next_page:
            meta = self._paged(meta.next_page or "" if meta else "")
        self._complete(meta.resource_version)

    def _whole(self) -> objects.ListMeta | None:
        """In one answer, for so the server has it from its cache; None where that cannot be.

        It is to be as new as what we know: the cache of a server that lags would take us back in
        time. The first list is none of these, for the tables may know more than such a cache.
        """
        if not (self._known and self._abilities.whole):
            return None
        if self._known == self._cached:
            return None  # the last one led nowhere: another server has forgotten what came after it
        newer = {"resourceVersion": self._known, "resourceVersionMatch": "NotOlderThan"}
        params = {**self._params, **newer}
        try:
            found = self._page_of(self._client.get(self._resource.path, params, WHOLE_MAX))
        except TooLarge:
            self._abilities.lacks_whole()
            return None
        except ApiError as error:
            if error.code in _NOT_SO_NEW:
                return None
            raise
        if is_older(found.metadata.resource_version, self._known):
            return None  # it does not know what was asked for
        self._items(found)
        self._cached = found.metadata.resource_version
        return found.metadata

    def _paged(self, page: str) -> objects.ListMeta:
        """As it is now, page by page, each as large as can be taken."""
        limit = PAGE
        while True:
            params = {**self._params, "limit": str(limit)}
            if page:
                params["continue"] = page
            try:
                found = self._page_of(self._client.get(self._resource.path, params))
                meta = found.metadata
                self._items(found)
            except TooLarge as error:
                if limit > 1:
                    limit = max(1, limit // 10)
                    continue
                meta = self._meta(page_of(error.head))
                self._objects.too_large(error.head)
                self._heard()
            page = meta.next_page or ""
            if not page:
                return meta

    def _page_of(self, body: bytes) -> objects.Page:
        try:
            found = _page.decode(body)
        except msgspec.DecodeError as error:
            raise ApiError(0, f"no list was sent: {error}") from None
        self._meta(found)
        return found

    def _meta(self, page: objects.PageHead) -> objects.ListMeta:
        """What is no list, or of nothing that can be watched, would count as an empty one."""
        if page.kind != f"{self._resource.kind}List":
            raise ApiError(0, f"no list was sent, but a {page.kind or 'thing without kind'}")
        if not page.metadata.resource_version:
            raise ApiError(0, "no list was sent: it has no resourceVersion")
        return page.metadata

    def _items(self, page: objects.Page) -> None:
        for item in page.items or ():
            self._objects.item(bytes(item))
        self._heard()

    def _watch(self) -> None:
        """From where we are or, with WatchList, from nothing."""
        low, high = self._patience.watch
        params = {
            **self._params,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(low, high)),
        }
        initial = self._version is None
        if initial:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            self._tell(Listing(self._resource.kind))
        params["resourceVersion"] = self._version or ""
        self._mute = False
        with self._client.lines(self._resource.path, params) as lines:
            if not initial:
                self._connected()
                self._mute = True
            for line in lines:
                self._mute = False
                if isinstance(line, TooLong):
                    self._objects.too_large(line.head)
                elif line:
                    self._line(line)
                self._heard()
                if self._stop.is_set():
                    return
                if self._relist:
                    self._relist = False
                    raise _Again
        if self._version is None:
            raise ApiError(0, "the list ended before it was complete")

    def _line(self, line: bytes) -> None:
        try:
            event = self._event.decode(line)
        except msgspec.DecodeError as error:
            self._undecodable(line, error)
            return
        if event.type == "ERROR":
            self._refused(line)
        elif event.type == "BOOKMARK":
            self._bookmark(line)
        elif self._is_news(event.object.metadata.resource_version):
            self._objects.changed(event.object, gone=event.type == "DELETED")

    def _refused(self, line: bytes) -> None:
        status = _error.decode(line).object
        code = status.code or 0
        if code == GONE or status.reason in ("Expired", "Gone"):
            raise _Again
        if self._version is None and code != BUSY:
            # As where etcd is too old to tell how far it is: it would say so for ever.
            self._abilities.lacks_streams()
        raise ApiError(code, f"{code} {status.message or status.reason or ''}".strip())

    def _bookmark(self, line: bytes) -> None:
        mark = _mark.decode(line).object.metadata
        if not mark.resource_version:
            raise ApiError(0, "a bookmark has no resourceVersion")
        if self._version is not None:
            if not is_older(mark.resource_version, self._version):
                self._version = mark.resource_version
        elif mark.annotations and mark.annotations.value == "true":
            self._complete(mark.resource_version)
        else:
            # It does not know what was asked for, so that end would never come.
            self._abilities.lacks_streams()
            raise _Again

    def _is_news(self, version: str) -> bool:
        """A watch is in order: what it says twice, it says late."""
        if self._version is None:
            return True
        if version == self._version or is_older(version, self._version):
            return False
        self._version = version or self._version
        return True

    # --- what that means -------------------------------------------------------------------------

    def _undecodable(self, line: bytes, error: msgspec.DecodeError) -> None:
        """Bad JSON is a bad connection; good JSON of the wrong types is a bad object."""
        try:
            event = _raw.decode(line)
        except msgspec.DecodeError:
            raise ApiError(0, "an event was garbled") from None
        if event.type == "ERROR":
            self._refused(line)
        if event.type == "BOOKMARK":
            self._bookmark(line)
            return
        message = str(error).replace("$.object", "$")
        self._objects.spoiled(bytes(event.object), message, gone=event.type == "DELETED")

    def _complete(self, version: str) -> None:
        self._version = version
        self._tell(Listed(self._resource.kind))
        self.state.listed = True
        self._connected()

    def _connected(self) -> None:
        if self.state.trouble:
            log.info("%s: watched again", self._resource.path)
        self.state.connected, self.state.trouble = True, None
        self._abilities.answered()
        self._connected_at = time.monotonic()
        self._heard()

    def _heard(self) -> None:
        self.state.heard = time.monotonic()

    def _restarted(self, why: str) -> None:
        self.state.restarts[why] += 1

    def _failed(self, error: ApiError) -> float:
        if self._version is None and self._abilities.streams and error.code in _MISSING:
            log.info("%s: no streamed lists here (%s)", self._resource.path, error)
            self._abilities.lacks_streams()
            return 0.0
        if error.code == 400 and self._params != self._resource.params:
            log.info("%s: not all selectors are known here (%s)", self._resource.path, error)
            self._params = {**self._resource.params}
            return 0.0
        if error.code == GONE:
            self._lose_place()
            self._abilities.answered()
        else:
            self._abilities.failed()
        known = {GONE: "expired", 401: "unauthorized", 403: "forbidden", BUSY: "throttled"}
        self._restarted(known.get(error.code) or ("server" if error.code >= 500 else "connection"))
        self._forgive()
        delay = self._backoff.take(error.retry_after)
        if str(error) != self.state.trouble and not self._stop.is_set():
            log.warning("%s: %s; trying again", self._resource.path, quote_line(str(error)))
        self.state.trouble = str(error)
        return delay


def is_older(version: str, than: str) -> bool:
    """Of resourceVersions; those that are no numbers cannot be told."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def quote_line(text: str) -> str:
    """A message from afar, in one line and not too long."""
    return "".join(c if c.isprintable() else " " for c in text)[:300]
