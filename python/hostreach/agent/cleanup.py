# SPDX-License-Identifier: Apache-2.0
"""Waits for a DaemonSet to be ready on each node: `helm uninstall` ends when all are cleaned up."""

from __future__ import annotations

import argparse
import sys
import time

import msgspec

from hostreach.errors import HostreachError
from hostreach.sources.kubernetes.client import ApiClient, ApiError
from hostreach.sources.kubernetes.config import connection


class _Status(msgspec.Struct):
    seen: int = msgspec.field(name="observedGeneration", default=0)
    wanted: int = msgspec.field(name="desiredNumberScheduled", default=0)
    ready: int = msgspec.field(name="numberReady", default=0)


class _DaemonSet(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


def main(argv: list[str] | None = None) -> int:
    """For as long as the Job that runs it may."""
    parser = argparse.ArgumentParser(prog="hostreach.agent.cleanup", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--daemonset", required=True)
    parser.add_argument("--api-server")
    parser.add_argument("--kubeconfig")
    chosen = parser.parse_args(argv)
    path = f"/apis/apps/v1/namespaces/{chosen.namespace}/daemonsets/{chosen.daemonset}"
    try:
        client = ApiClient(connection(chosen.kubeconfig, None, chosen.api_server))
    except HostreachError as error:
        print(f"hostreach: {error}", file=sys.stderr)
        return error.exit_code
    told = ""
    while True:
        try:
            status = msgspec.json.decode(client.get(path, {}), type=_DaemonSet).status
            said = f"{status.ready} of {status.wanted} nodes are cleaned up"
            if status.seen and status.ready == status.wanted:
                print(said)
                return 0
        except (ApiError, msgspec.DecodeError) as error:
            said = str(error)
        if said != told:
            print(said, flush=True)
        told = said
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
