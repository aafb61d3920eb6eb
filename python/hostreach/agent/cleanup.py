# SPDX-License-Identifier: Apache-2.0
"""Waits until a DaemonSet is done on each node: `helm uninstall` ends when all are cleaned up.

Then it removes the DaemonSet. A node whose kubelet takes no pod, for it is down or cut off, is not
waited for longer than ``--seconds``: it keeps the DaemonSet, which cleans it up when it comes back.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from typing import NamedTuple

import httpx2 as httpx
import msgspec

from hostreach.errors import HostreachError
from hostreach.sources.kubernetes.client import ApiClient, ApiError, TooLarge
from hostreach.sources.kubernetes.config import Connection, connection

PERIOD = 1.0
"""Seconds between two questions."""
PATIENCE = 30.0
"""Seconds beyond the end for an API server that does not answer just then."""
IDLE = 10.0
"""Seconds of silence that are taken for no answer."""
NAMED = 20
"""How many nodes are named; of the others it is told how many there are."""


class _Owner(msgspec.Struct):
    uid: str = ""


class _Metadata(msgspec.Struct):
    name: str = ""
    uid: str = ""
    owners: list[_Owner] = msgspec.field(name="ownerReferences", default_factory=list)


class _Status(msgspec.Struct):
    seen: int = msgspec.field(name="observedGeneration", default=0)
    wanted: int = msgspec.field(name="desiredNumberScheduled", default=0)
    made: int = msgspec.field(name="currentNumberScheduled", default=0)
    ready: int = msgspec.field(name="numberReady", default=0)


class _DaemonSet(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    status: _Status = msgspec.field(default_factory=_Status)


class _PodSpec(msgspec.Struct):
    node: str = msgspec.field(name="nodeName", default="")


class _PodStatus(msgspec.Struct):
    taken: str = msgspec.field(name="startTime", default="")
    """When a kubelet took the pod; empty as long as none has."""


class _Pod(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _Pods(msgspec.Struct):
    items: list[_Pod] | None = None


class Left(NamedTuple):
    """Where it is not done.

    Attributes:
        away: nodes whose kubelets have taken no pod.
        begun: nodes, or else pods, where something else is in the way.
        missing: how many pods have yet to be made.
    """

    away: list[str]
    begun: list[str]
    missing: int


class Cleanup:
    """A DaemonSet whose pods carry its name, as the API server tells of it.

    All methods raise `ApiError`, `TooLarge` and ``msgspec.DecodeError``.
    """

    def __init__(self, where: Connection, namespace: str, name: str) -> None:
        self._where = where
        self._client = ApiClient(where, IDLE)
        self._path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._selector = f"app.kubernetes.io/name={name}"
        self._removing = False

    def look(self) -> _DaemonSet | None:
        """None if it was removed, and only the answer to that was lost."""
        try:
            return msgspec.json.decode(self._client.get(self._path, {}), type=_DaemonSet)
        except ApiError as error:
            if self._removing and error.code == 404:
                return None
            raise

    def left(self, found: _DaemonSet) -> Left:
        """A pod that once ran has cleaned up, whatever became of its node since."""
        asked = {"labelSelector": self._selector, "fieldSelector": "status.phase!=Running"}
        pods = msgspec.json.decode(self._client.get(self._pods, asked), type=_Pods).items
        away, begun = [], []
        for pod in pods or ():
            if found.metadata.uid not in {owner.uid for owner in pod.metadata.owners}:
                continue  # of a DaemonSet before this one, on a node that cannot end it
            if pod.spec.node and not pod.status.taken:
                away.append(pod.spec.node)
            else:
                begun.append(pod.spec.node or pod.metadata.name)
        missing = max(found.status.wanted - found.status.made, 0)
        return Left(sorted(away), sorted(begun), missing)

    def remove(self) -> None:
        """The DaemonSet, whose pods go with it; one that is gone is no error."""
        self._removing = True
        name = self._where.server_name
        try:
            with httpx.Client(
                base_url=self._where.server,
                verify=self._where.verify,
                auth=self._where.auth,
                proxy=self._where.proxy,
                timeout=IDLE,
            ) as client:
                answer = client.request(
                    "DELETE", self._path, extensions={"sni_hostname": name} if name else {}
                )
        except (httpx.HTTPError, HostreachError, OSError) as error:
            why = str(error) or type(error).__name__
            raise ApiError(0, f"the DaemonSet is not removed: {why}") from None
        code = answer.status_code
        if code not in (200, 202, 404):
            raise ApiError(code, f"the DaemonSet is not removed: {code} {answer.reason_phrase}")

    def close(self) -> None:
        self._client.close()


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="hostreach.agent.cleanup", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--daemonset", required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--api-server")
    parser.add_argument("--api-server-name")
    parser.add_argument("--kubeconfig")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0 when every node is cleaned up that can be."""
    chosen = options(argv)
    try:
        where = connection(chosen.kubeconfig, None, chosen.api_server, chosen.api_server_name)
        with closing(Cleanup(where, chosen.namespace, chosen.daemonset)) as cleanup:
            return _wait(cleanup, chosen)
    except HostreachError as error:
        print(f"hostreach: {error}", file=sys.stderr)
        return error.exit_code


def _wait(cleanup: Cleanup, chosen: argparse.Namespace) -> int:
    end = time.monotonic() + chosen.seconds
    told = ""
    while True:
        over = time.monotonic() - end
        try:
            found = cleanup.look()
            if found is None:
                return 0
            status = found.status
            said = f"{status.ready} of {status.wanted} nodes are cleaned up"
            if status.seen and status.ready == status.wanted:
                cleanup.remove()
                print(said)
                return 0
            if over >= 0:
                return _end(cleanup, found, chosen)
        except (ApiError, TooLarge, msgspec.DecodeError) as error:
            said = str(error)
            if over >= PATIENCE:
                print(said)
                return 1
        if said != told:
            print(said, flush=True)
        told = said
        time.sleep(PERIOD)


def _end(cleanup: Cleanup, found: _DaemonSet, chosen: argparse.Namespace) -> int:
    """What to say of nodes that are not cleaned up after all that time."""
    left = cleanup.left(found)
    wanted = found.status.wanted
    stays = f"the DaemonSet {chosen.namespace}/{chosen.daemonset} stays"
    if not found.status.seen or left.begun or left.missing:
        what = [f"not done: {_names(left.begun)}"] if left.begun else []
        what += [f"not reached: {_names(left.away)}"] if left.away else []
        what += [f"{left.missing} without a pod"] if left.missing else []
        what += [] if found.status.seen else ["no controller has seen it"]
        print(f"not all of {wanted} nodes are cleaned up in time: {'; '.join(what)}; {stays}")
        return 1
    if not left.away:
        cleanup.remove()
        print(f"{wanted} of {wanted} nodes are cleaned up")
        return 0
    print(
        f"{wanted - len(left.away)} of {wanted} nodes are cleaned up; not reached: "
        f"{_names(left.away)}; {stays}, and cleans up those that come back: delete it then"
    )
    return 0


def _names(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    sys.exit(main())
