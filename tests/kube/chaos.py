# SPDX-License-Identifier: Apache-2.0
"""Changes as fast as they come, while everything that can happen to an API server does."""

from __future__ import annotations

import random
import time
from typing import Any

from .apiserver import ApiServer
from .objects import NEW, OLD, Json, leaving, piece, port, ready, service, unready

STEADY = 5
"""Services that never change: 10.96.9.1 and on, each with one backend, 10.0.0.1 and on."""
_NAMES = 60


def steady() -> list[Json]:
    made: list[Json] = []
    for n in range(1, STEADY + 1):
        made += [
            service(f"steady-{n}", f"10.96.9.{n}", created=OLD),
            piece(f"steady-{n}-a", f"10.0.0.{n}", of=f"steady-{n}"),
        ]
    return made


def storm(api: ApiServer, seconds: float, per_second: int, seed: int) -> dict[str, int]:
    """Put and delete at random; every half second something befalls the server. What happened."""
    draw = random.Random(seed)
    done = {"changes": 0}
    began = time.monotonic()
    next_blow = began + 0.5
    while (now := time.monotonic()) - began < seconds:
        for _ in range(max(0, int((now - began) * per_second) - done["changes"])):
            _change(api, draw)
            done["changes"] += 1
        if now >= next_blow:
            blow = draw.choice(_BLOWS)
            done[blow.__name__] = done.get(blow.__name__, 0) + 1
            blow(api, draw)
            next_blow = time.monotonic() + 0.5
        time.sleep(0.005)
    api.trouble = type(api.trouble)()
    return done


def _change(api: ApiServer, draw: random.Random) -> None:
    name = f"s{draw.randrange(_NAMES)}"
    made = _slice(name, draw) if draw.random() < 0.8 else _service(name, draw)
    key = made["kind"], f"default/{made['metadata']['name']}"
    if draw.random() < 0.1 and key in api.objects:
        api.delete(made)
    else:
        api.put(made)


def _slice(name: str, draw: random.Random) -> Json:
    kinds: list[Any] = [ready, ready, ready, unready, leaving]
    endpoints = [
        draw.choice(kinds)(f"10.0.0.{n}", node=draw.choice(("node-a", "node-b")))
        for n in draw.sample(range(1, 200), draw.randrange(6))
    ]
    return piece(f"{name}-{draw.choice('ab')}", *endpoints, of=name)


def _service(name: str, draw: random.Random) -> Json:
    return service(
        name,
        f"10.96.1.{draw.randrange(1, 100)}",
        created=draw.choice((OLD, NEW)),
        type=draw.choice(("ClusterIP", "ClusterIP", "NodePort", "ExternalName")),
        ports=[port(nodePort=30000 + draw.randrange(50))],
        internalTrafficPolicy=draw.choice(("Cluster", "Cluster", "Local")),
        sessionAffinity=draw.choice(("None", "None", "ClientIP")),
    )


def _dropped(api: ApiServer, _: random.Random) -> None:
    api.drop()


def _killed(api: ApiServer, draw: random.Random) -> None:
    api.stop()
    time.sleep(draw.random() / 3)
    api.start()


def _compacted(api: ApiServer, draw: random.Random) -> None:
    api.stop()
    _change(api, draw)
    api.compact()
    api.trouble.gone_in_event = draw.random() < 0.5
    api.start()


def _partitioned(api: ApiServer, draw: random.Random) -> None:
    """Connections stay, and nothing comes through them."""
    api.trouble.silent = True
    time.sleep(draw.random() / 2)
    api.drop()
    api.trouble.silent = False


def _cut(api: ApiServer, _: random.Random) -> None:
    api.trouble.cut = True


def _refused(api: ApiServer, draw: random.Random) -> None:
    codes = [draw.choice((401, 403, 429, 500, 503)) for _ in range(4)]
    api.trouble.answers = [(code, {"Retry-After": "0"}) for code in codes]
    api.drop()


def _repeated(api: ApiServer, draw: random.Random) -> None:
    api.trouble.twice = draw.random() < 0.5


_BLOWS = (_dropped, _killed, _compacted, _partitioned, _cut, _refused, _repeated)
