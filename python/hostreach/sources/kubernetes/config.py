# SPDX-License-Identifier: Apache-2.0
"""Where the API server is, and how to be let in: a kubeconfig, or what every pod is given.

lightkube reads the files; what it leaves out is here: exec credentials of client authentication
v1, `proxy-url`, `tls-server-name`, and another address for the server.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import yaml
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import (
    DEFAULT_KUBECONFIG,
    SERVICE_ACCOUNT,
    KubeConfig,
    SingleConfig,
)
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from hostreach.errors import InvalidInput, Refused

from .credentials import ExecCredentials

log = logging.getLogger("hostreach.kubernetes")


def _never() -> None:
    """There are no files that could change."""


class Connection(NamedTuple):
    """What `httpx.Client` needs."""

    server: str
    verify: ssl.SSLContext
    auth: httpx.Auth | None
    proxy: str | None = None
    server_name: str | None = None
    """What the server's certificate is for, where that is not its address."""
    renewed: Callable[[], Connection | None] = _never
    """The same from what the files of certificates have now, if that is something else.

    Raises as reading them does, as while one of a pair is new and the other is not."""


def connection(
    kubeconfig: str | None = None,
    context: str | None = None,
    api_server: str | None = None,
    server_name: str | None = None,
    service_account: str = SERVICE_ACCOUNT,
) -> Connection:
    """From ``kubeconfig``, or else the pod's service account, $KUBECONFIG or ~/.kube/config.

    ``api_server`` is a URL, or a host and port, to go to instead of what is said there, and
    ``server_name`` what its certificate is for, where that is not the host. Raises `InvalidInput`
    for a file that is no kubeconfig, `Refused` where there is nothing to go by.
    """
    if kubeconfig is None and context is None and Path(service_account, "token").exists():
        return _in_cluster(service_account, api_server, server_name)
    path = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    path = path.split(os.pathsep)[0]
    if kubeconfig is None and not Path(path).expanduser().exists():
        raise Refused(
            "there is neither a service account here nor a kubeconfig; pass --kubeconfig FILE",
            object="kubernetes",
        )
    return _from_file(path, context, api_server, server_name)


def _in_cluster(
    service_account: str, api_server: str | None, server_name: str | None
) -> Connection:
    if api_server:
        # Nothing else need be said of where it is.
        os.environ.setdefault("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        os.environ.setdefault("KUBERNETES_SERVICE_PORT", "443")
    try:
        config = KubeConfig.from_service_account(service_account).get()
    except KeyError:
        raise Refused(
            "KUBERNETES_SERVICE_HOST is not set; pass --api-server", object="kubernetes"
        ) from None
    except (ConfigError, OSError) as error:
        raise Refused(str(error), object=service_account) from None
    assert config is not None
    return _made(config, api_server, None, server_name)


def _from_file(
    path: str, context: str | None, api_server: str | None, server_name: str | None
) -> Connection:
    try:
        file = Path(path).expanduser()
        text = file.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        config = KubeConfig.from_file(path).get(context)
        assert config is not None
        clusters = {each["name"]: each["cluster"] for each in raw["clusters"]}
        cluster = clusters[config.context.cluster]
        server_name = server_name or cluster.get("tls-server-name")
        if file.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            log.warning("%s: others may write to it, and so say what is run here", path)
        return _made(config, api_server, cluster.get("proxy-url"), server_name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput(f"cannot be read: {reason}", object=error.filename or path) from None
    except ConfigError as error:
        raise InvalidInput(str(error), object=path) from None
    except KeyError as error:
        what = f"something in it has no {error}"
        raise InvalidInput(f"is no kubeconfig that can be used: {what}", object=path) from None
    except (TypeError, AttributeError):
        what = "something in it is of another kind than it should be"
        raise InvalidInput(f"is no kubeconfig that can be used: {what}", object=path) from None
    except (ValueError, yaml.YAMLError) as error:
        what = str(error).split("\n")[0] or type(error).__name__
        raise InvalidInput(f"is no kubeconfig that can be used: {what}", object=path) from None


def _made(
    config: SingleConfig, api_server: str | None, proxy: str | None, server_name: str | None
) -> Connection:
    user = config.user or User()
    files = _certificate_files(config, user)
    before = _digest(files)  # first: what changes while they are read is read again
    if user.token_file is not None:
        user.token_file = str(config.abs_file(user.token_file))
    verify: Any = verify_cluster(config.cluster, user, config.abs_file)
    auth: httpx.Auth | None
    if user.exec and not (user.token or user.token_file):
        if "/" in user.exec.command:  # as kubectl has it; nobody's working directory says what runs
            user.exec.command = str(Path(config.abs_file(user.exec.command)).absolute())
        auth = ExecCredentials(user.exec, config.cluster, verify)
    else:
        auth = user_auth(user)
    server = _url(api_server) if api_server else config.cluster.server.rstrip("/")
    if server.startswith("https:") and verify.verify_mode == ssl.CERT_NONE:
        what = "whoever takes its place says where this node's connections go"
        log.warning(
            "%s: its certificate is not checked (insecure-skip-tls-verify): %s", server, what
        )

    def renewed() -> Connection | None:
        if _digest(files) == before:
            return None
        return _made(config, api_server, proxy, server_name)

    return Connection(server, verify, auth, proxy, server_name, renewed)


def _certificate_files(config: SingleConfig, user: User) -> list[str]:
    named = [config.cluster.certificate_auth]
    if not user.client_cert_data:
        named.append(user.client_cert)
    if not user.client_key_data:
        named.append(user.client_key)
    return [str(config.abs_file(path)) for path in named if path]


def _digest(files: list[str]) -> list[bytes]:
    """Of what they have, for some are made anew each hour with the same in them."""
    return [hashlib.sha256(Path(path).read_bytes()).digest() for path in files]


def _url(text: str) -> str:
    url = text if "://" in text else f"https://{text}"
    try:
        parsed = httpx.URL(url)
        good = parsed.scheme in ("http", "https") and parsed.host and not re.search(r"\s", url)
    except httpx.InvalidURL:
        good = False
    if not good:
        raise InvalidInput(
            "is no URL, nor a host and port; write it as https://192.0.2.1:6443",
            object=f"--api-server {text}",
        )
    return url.rstrip("/")
