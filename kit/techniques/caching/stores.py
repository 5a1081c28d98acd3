"""Stores for cached answers: in this process, in SQLite, in LMDB, on a Redis server. None unpickles.

All are used alike: `get(key)`, which returns None for a miss, `set(key, value)`, `clear()`, `close()`. What cannot be
read is a miss, what cannot be written is lost: a store costs hits, never answers.
"""

import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kit.common import services
from kit.errors import UserError
from kit.techniques.caching.policies import POLICIES


class Store:
    """A place for answers by key. A store adds `_read`, `_write`, `clear` and `close`. errors: how often, by kind."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()

    def get(self, key: bytes) -> Any:
        """Return the answer of `key`, or None."""
        raw = self._read(key)
        try:
            return None if raw is None else decode(raw)
        except (msgspec.MsgspecError, ValueError, TypeError):  # damaged, or written by another program
            self.errors["damaged entry"] += 1
            return None

    def set(self, key: bytes, value: Any) -> None:
        """Store an answer, unless it is None. Raise `UserError` for a type that cannot be stored safely."""
        if value is not None:
            self._write(key, encode(value))

    def fill(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Replace all entries by these keys and encoded answers, requested in this order."""
        self.clear()
        for key, raw in entries:
            if self._read(key) is None:
                self._write(key, raw)

    def close(self) -> None:
        """Close files and connections."""


class InMemory(Store):
    """Answers in a bounded mapping behind a lock, as bytes: a caller who changes an answer does not change the cache.

    make: returns an empty mapping with `get` and `put`, as `policies.LRU(1_000)` does.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make, self._lock = make, threading.Lock()
        self.clear()

    def clear(self) -> None:
        self._cached = self._make()

    def _read(self, key: bytes) -> bytes | None:
        with self._lock:  # a lookup changes the order in most policies
            return self._cached.get(key)

    def _write(self, key: bytes, raw: bytes) -> None:
        with self._lock:
            self._cached.put(key, raw)


def in_memory(policy: str, items: int) -> InMemory:
    """Return a store that evicts by one of the policies of `policies.POLICIES`."""
    return InMemory(lambda: POLICIES[policy](items))


def by_cachetools(items: int) -> InMemory:
    """Return a store in cachetools' LRUCache."""
    from cachetools import LRUCache

    class Policy(LRUCache):
        put = LRUCache.__setitem__

    return InMemory(lambda: Policy(items))


class SQLite(Store):
    """Answers in one file, shared by the processes of a machine. It grows without bound."""

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self._lock = threading.Lock()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        self._run("pragma journal_mode = wal")  # readers do not wait for a writer
        self._run("pragma synchronous = normal")
        self._run("create table if not exists entries (key blob primary key, value blob) without rowid")

    def clear(self) -> None:
        self._run("delete from entries")

    def fill(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        self._run("begin")  # one transaction, not one for each
        super().fill(entries)
        self._run("commit")

    def close(self) -> None:
        self._connection.close()

    def _read(self, key: bytes) -> bytes | None:
        row = self._run("select value from entries where key = ?", key)
        return row[0] if row else None

    def _write(self, key: bytes, raw: bytes) -> None:
        self._run("insert or replace into entries values (?, ?)", key, raw)

    def _run(self, statement: str, *values: bytes) -> tuple | None:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:  # locked for longer than the time-out, no space left, a damaged file
            self.errors[str(error)] += 1
            return None


class LMDB(Store):
    """Answers in a memory-mapped tree, shared by the processes of a machine; beyond `mib` writes are lost."""

    def __init__(self, folder: Path | str, mib: int = 1024) -> None:
        import lmdb

        super().__init__()
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._full = lmdb.MapFullError
        self._environment = lmdb.open(str(folder), map_size=mib * 2**20, sync=False)  # a power cut may damage it

    def clear(self) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.drop(self._environment.open_db(txn=transaction), delete=False)

    def fill(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        self.clear()
        with self._environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(entries)

    def close(self) -> None:
        self._environment.close()

    def _read(self, key: bytes) -> bytes | None:
        with self._environment.begin() as transaction:
            return transaction.get(key)

    def _write(self, key: bytes, raw: bytes) -> None:
        try:
            with self._environment.begin(write=True) as transaction:
                transaction.put(key, raw)
        except self._full:
            self.errors["the map is full"] += 1


class Redis(Store):
    """Answers on a server that many machines share; they expire after `ttl_s`, and the server bounds its memory.

    A server that does not answer within `timeout_s` gets no requests for `retry_s`: each lookup is a miss at once.
    Raise `UserError` if none answers at the beginning.
    """

    def __init__(
        self, url: str, prefix: str = "kit:", ttl_s: int = 3600, timeout_s: float = 0.2, retry_s: float = 1.0
    ) -> None:
        import redis

        super().__init__()
        self._error, self._prefix, self._ttl_s, self._retry_s = redis.RedisError, prefix.encode(), ttl_s, retry_s
        self._retry_at = 0.0
        try:
            self._client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
            self._client.ping()
        except (ValueError, redis.RedisError) as error:
            raise UserError(
                f"no server answers at redis_url= ({type(error).__name__}); give redis://host:6379/0, or nothing"
            ) from None

    def clear(self) -> None:
        keys = self._ask(lambda: list(self._client.scan_iter(self._prefix + b"*", count=1000)))
        if keys:
            self._ask(self._client.unlink, *keys)

    def fill(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        self.clear()
        with self._client.pipeline(transaction=False) as pipeline:
            for key, raw in entries:
                pipeline.set(self._prefix + key, raw, self._ttl_s)
            self._ask(pipeline.execute)

    def close(self) -> None:
        self._client.close()

    def _read(self, key: bytes) -> bytes | None:
        return self._ask(self._client.get, self._prefix + key)

    def _write(self, key: bytes, raw: bytes) -> None:
        self._ask(self._client.set, self._prefix + key, raw, self._ttl_s)

    def _ask(self, command: Callable, *values: Any) -> Any:
        if time.monotonic() < self._retry_at:
            return None
        try:
            return command(*values)
        except self._error as error:
            self.errors[type(error).__name__] += 1
            self._retry_at = time.monotonic() + self._retry_s
            return None


def redis_server(url: str = "", mib: int = 256) -> tuple[services.Service | None, str, str]:
    """Return a server to be closed, its URL, and why there is none: the one at `url`, which is not ours to close, or a
    private one for this process alone.

    The private one listens on a free port of 127.0.0.1 behind a password, writes nothing to disk, evicts by LRU above
    `mib`, and ends with this process, however that ends. Raise `UserError` if no server answers at `url`.
    """
    if url:
        Redis(url).close()
        return None, url, ""
    try:
        program = services.installed(
            ("redis-server", "valkey-server"), "apt-get install redis-server, or give redis_url="
        )
    except UserError as reason:
        return None, "", str(reason)
    password = secrets.token_hex(16)
    settings = f"""
        bind 127.0.0.1
        port {{port}}
        requirepass {password}
        save ""
        maxmemory {mib}mb
        maxmemory-policy allkeys-lru
    """
    server = services.Service("redis-server", [program, "-"], stdin=settings)  # a command line would show the password
    return server.start(), f"redis://:{password}@127.0.0.1:{server.port}/0", ""


def key(version: str, inputs: Any) -> bytes:
    """Return the key of the answer to these inputs by this version of the model or code: 16 bytes.

    version: whatever changes when answers may change, e.g. the hash of the model's file; without it the cache would
    keep answering for the old model. inputs: as `encode` takes; those that differ in type or shape differ in key.
    """
    return blake2b(encode([version, inputs]), digest_size=16).digest()


def encode(value: Any) -> bytes:
    """Return a value as bytes: numbers, text, bytes, NumPy arrays, and lists and dicts of them.

    Raise `UserError` for other types: they would need pickle, which runs code when it is read.
    """
    try:
        return msgspec.msgpack.encode(value, enc_hook=_extension, order="deterministic")
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise UserError(f"a cache cannot store this without pickle: {error}; give numbers, text or arrays") from None


def decode(raw: bytes) -> Any:
    """Return the value whose bytes `encode` made; arrays are read-only, tuples and sets are lists."""
    return msgspec.msgpack.decode(raw, ext_hook=_array)


def _extension(value: Any) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.hasobject:
        raise TypeError(f"it has the type {type(value).__name__}")
    parts = [value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()]
    return msgspec.msgpack.Ext(1, msgspec.msgpack.encode(parts))


def _array(code: int, data: memoryview) -> np.ndarray:
    dtype, shape, raw = msgspec.msgpack.decode(data)
    return np.frombuffer(raw, dtype).reshape(shape)
