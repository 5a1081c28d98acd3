"""A server that is stopped in mid-run and comes back: the work goes on without the cache, and with it again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.measure import answers
from kit.techniques.caching.layers.cached import Behind
from kit.techniques.caching.layers.work import Work
from kit.techniques.caching.stores import PrivateServer, Redis

RETRY_S = 0.1
"""Seconds for which a server that did not answer is left alone here; a store of your own waits longer."""


@dataclass(frozen=True)
class Stage:
    """What requests met with while the server was as `server` says. wrong: answers that are not the work's own.
    longest_s: of one request. said: what the store says of its server afterwards; empty while it answers."""

    server: str
    requests: int
    from_cache: int
    wrong: int
    longest_s: float
    said: str


def run(work: Work, server: PrivateServer, keys: Sequence[int] | np.ndarray) -> list[Stage]:
    """Answer the items of `keys` in three parts: with the server up, killed, and started again, with nothing in it."""
    first, second, third = np.array_split(np.asarray(keys), 3)
    with Redis(server.url, prefix="kit:outage:", retry_s=RETRY_S) as store:
        ask = Behind(work, store)
        stages = [_stage("up", ask, store, work, first)]
        server.kill()
        stages.append(_stage("killed", ask, store, work, second))
        server.start()
        time.sleep(2 * RETRY_S)
        return [*stages, _stage("back, empty", ask, store, work, third)]


def _stage(server: str, ask: Behind, store: Redis, work: Work, keys: np.ndarray) -> Stage:
    hits, took_s, wrong, right = ask.hits, [], 0, {}
    for item in keys.tolist():
        start = time.perf_counter()
        answer = ask(item)
        took_s.append(time.perf_counter() - start)
        if item not in right:
            right[item] = answers.portable(work.answer(item))
        wrong += answers.equal(answers.portable(answer), right[item]).state == "broken"
    return Stage(server, len(keys), ask.hits - hits, wrong, max(took_s), store.outage)
