# SPDX-License-Identifier: Apache-2.0
"""Configurations, and what a client with one of them sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hostreach.sources.kubernetes.client import ApiClient
from hostreach.sources.kubernetes.config import connection
from hostreach.sources.kubernetes.source import SERVICES


def kubeconfig(path: Path, server: str, user: dict[str, Any], **cluster: Any) -> str:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return str(path)


def names(path: str | None = None, **options: Any) -> list[str]:
    """The services that a client with this configuration sees."""
    client = ApiClient(connection(path, **options))
    try:
        found = json.loads(client.get(SERVICES, {}))
    finally:
        client.close()
    return [each["metadata"]["name"] for each in found["items"]]
