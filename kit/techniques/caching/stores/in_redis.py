"""A store on a server that many machines share: Redis or Valkey. Its absence costs hits, never answers."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from kit.errors import UserError
from kit.measure.work import Ceiling
from kit.techniques.caching.stores import entry
from kit.techniques.caching.stores.store import Found, Key, Store, as_bytes

log = logging.getLogger(__name__)

_DISCARD_IF = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class Redis(Store):
    """Hold entries on the server at `url`, as "redis://host:6379/0", under keys that begin with `prefix`.

    A server that does not answer within `timeout_s` is left alone: for `retry_s` seconds every lookup is a miss at once
    and every put is lost, then one lookup tries again. Outage and return are logged, and `outage` says what is known.
    How much it holds is for the server to bound (its `maxmemory`); most_ttl_s: entries live no longer, so that the
    server forgets them whatever becomes of who put them. What could not be put or discarded while the server was out of
    reach stays as it was: where an answer may change under its key, give entries a `ttl`.
    """

    shared = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "kit:",
        timeout_s: float = 0.1,
        retry_s: float = 1.0,
        most_ttl_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raise `UserError` for an address that is none; whether a server is there, the first lookup finds out."""
        super().__init__(clock)
        self._client, self._errors = _client(url, timeout_s)
        refusals = (getattr(self._errors, name, None) for name in ("ResponseError", "MaxConnectionsError"))
        self._refusals = tuple(filter(None, refusals))  # the second is new
        self.name = _without_password(url)
        self._prefix, self._retry_s, self._most_ttl_s = prefix.encode(), retry_s, most_ttl_s
        self._turn = threading.Lock()
        self._try_after = 0.0
        self._since: float | None = None
        self._reason, self._without = "", 0

    @property
    def outage(self) -> str:
        """Since when and why the server is left alone, in a sentence; empty while it answers."""
        if self._since is None:
            return ""
        when = time.strftime("%H:%M:%S", time.localtime(self._since))
        return f"{self.name} has not answered since {when} ({self._reason}); {self._without:,} requests went without it"

    @property
    def available(self) -> bool:
        return self._since is None

    def bound(self, num_bytes: int) -> Ceiling | None:
        if urlsplit(self.name).hostname not in ("127.0.0.1", "localhost", "::1"):
            return None  # nobody has measured the way to that machine
        return Ceiling("loopback_round_trips_per_s", 1, "one round trip of one byte; a value is more")

    def find(self, key: Key) -> Found | None:
        key = as_bytes(key)
        raw = self._ask(self._client.get, self._prefix + key)
        if raw is None and self._since is not None:  # a request is a lookup: what is put after it is the same one
            self._without += 1
        return None if raw is None else self.living(key, raw)

    def put(self, key: Key, value: Any, ttl: float | None = None) -> None:
        self._set(key, value, ttl)

    def add(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        if self._set(key, value, ttl, nx=True):
            return True
        key = as_bytes(key)
        raw = self._ask(self._client.get, self._prefix + key)
        if raw is None or self.living(key, raw) is not None:
            return False
        self._ask(self._client.eval, _DISCARD_IF, 1, self._prefix + key, raw)  # damaged or expired: as good as none
        return bool(self._set(key, value, ttl, nx=True))

    def discard(self, key: Key) -> None:
        self._ask(self._client.delete, self._prefix + as_bytes(key))

    @property
    def bytes(self) -> int:
        """The server's memory for the entries, by its own account of the first hundred; counted as by len()."""
        keys = self._keys()
        weighed = [self._ask(self._client.memory_usage, key, samples=0) or 0 for key in keys[:100]]
        return round(sum(weighed) / max(1, len(weighed)) * len(keys))

    def __len__(self) -> int:
        """Number of entries under the prefix. The server walks all its keys for that (SCAN with MATCH), a thousand at a
        time between other requests, and sends those of the prefix only."""
        return len(self._keys())

    def clear(self) -> int:
        """Discard all entries under the prefix, those of other processes too, and return how many there were."""
        keys = self._keys()
        parts = (keys[first : first + 1000] for first in range(0, len(keys), 1000))
        return sum(self._ask(self._client.unlink, *part) or 0 for part in parts)

    def close(self) -> None:
        self._client.close()

    def _set(self, key: Key, value: Any, ttl: float | None, **how: bool) -> Any:
        if self._most_ttl_s is not None:
            self.expiry(ttl)  # tells a `ttl` that is no time
            ttl = min(ttl or self._most_ttl_s, self._most_ttl_s)
        key, expires = as_bytes(key), self.expiry(ttl)
        packed = entry.pack(key, value, expires)
        alive_ms = None if expires is None else max(1, round(1000 * ttl))
        return self._ask(self._client.set, self._prefix + key, packed, px=alive_ms, **how)

    def _keys(self) -> list[bytes]:
        """Return the keys under the prefix; none if the server does not answer."""
        match = _literal(self._prefix) + b"*"
        return self._ask(lambda: list(set(self._client.scan_iter(match=match, count=1000)))) or []

    def _ask(self, command: Callable, *values: Any, **options: Any) -> Any:
        """Return the server's answer; None if it has none, refuses, or is left alone."""
        if self._since is not None and not self._my_turn():
            return None
        try:
            answer = command(*values, **options)
        except self._refusals as error:
            # it answers, but not to this: no memory left, a key of another type, more threads than connections
            self.troubles[str(error)] += 1
            answer = None
        except (self._errors.RedisError, OSError) as error:
            self._went(error)
            return None
        if self._since is not None:
            self._came_back()
        return answer

    def _my_turn(self) -> bool:
        """Whether this request is the one that tries again."""
        with self._turn:
            now = time.monotonic()
            if now < self._try_after:
                return False
            self._try_after = now + self._retry_s
            return True

    def _went(self, error: Exception) -> None:
        with self._turn:
            first = self._since is None
            self._try_after = time.monotonic() + self._retry_s
            self._reason = f"{type(error).__name__}: {error}"[:120]
            self._since = self._since or time.time()
        self.troubles["server gone"] += first
        # a connection that timed out closed itself; the idle ones are of no use, and those of others are theirs
        self._client.connection_pool.disconnect(inuse_connections=False)
        if first:
            log.warning("%s does not answer (%s); the work goes on without this cache", self.name, self._reason)

    def _came_back(self) -> None:
        with self._turn:
            since, without = self._since, self._without
            self._since, self._without = None, 0
        if since is not None:
            log.warning("%s is back after %.1f s; %d requests went without it", self.name, time.time() - since, without)


def _client(url: str, timeout_s: float) -> tuple[Any, Any]:
    """Return a client that waits for nothing longer than `timeout_s`, and the module of its errors."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna"), parts.port  # raise for a host and a port that are none
        # a connection that the server has closed is opened again once; what timed out is not asked twice
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,)),
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # opens nothing, but knows its options
    except (ValueError, TypeError, AttributeError, redis.RedisError) as error:
        # the library's words may hold a piece of the password, cut off where its / or # or ? stands
        why = "write / # ? in a password as %2F %23 %3F" if "@" in url else error
        raise UserError(f"{_without_password(url)!r} is no address of a Redis; {why}") from None
    if pool.connection_kwargs.get("decode_responses"):
        raise UserError(
            f"the address {_without_password(url)!r} has decode_responses, but entries are bytes; leave it out"
        )
    return client, redis.exceptions


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"


def _literal(prefix: bytes) -> bytes:
    return b"".join(b"\\" + bytes([one]) if one in rb"*?[]\^" else bytes([one]) for one in prefix)
