"""A store on the disk, in one SQLite file: it outlives the process, and processes of one machine share it.

With a write-ahead log readers don't wait for a writer, and writers wait for each other. What a power cut takes is the
newest entries, not the file.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.errors import UserError
from kit.techniques.caching.stores import entry
from kit.techniques.caching.stores.store import Found, Key, Store, as_bytes, folder

_TABLE = """create table if not exists entries (
    number integer primary key, key blob not null unique, expires real not null, entry blob not null)"""
_ADD = """insert into entries (key, expires, entry) values (:key, :expires, :entry)
    on conflict (key) do update set expires = excluded.expires, entry = excluded.entry where expires <= :now"""
_PUT = """insert into entries (key, expires, entry) values (?, ?, ?)
    on conflict (key) do update set expires = excluded.expires, entry = excluded.entry"""
_PAGES = "pragma_page_count, pragma_freelist_count, pragma_page_size"
_EVICT = """delete from entries where number <=
    (select min(number) + (max(number) - min(number)) / 8 from entries)"""
_NEVER = float("inf")


class _Connection(sqlite3.Connection):
    """A thread's own connection, which another thread may close when it is not in the midst of a query."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.busy = threading.Lock()


class SQLite(Store):
    """Hold entries in the file `path`, at most so many MiB: what was written first is evicted first.

    A file that is damaged is set aside as `<path>.damaged` and begun anew. A write that has to wait for others longer
    than `wait_s` is lost: a cache that is late is worth nothing.
    """

    shared = True

    def __init__(
        self, path: Path | str, *, mib: float = 1024, wait_s: float = 1.0, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(clock)
        self._path, self._most, self._wait_s = Path(path), mib * 2**20, wait_s
        folder(self._path.parent)
        if self._path.is_dir():
            raise UserError(f"{str(path)!r} is a folder; give SQLite a file, as {str(self._path / 'cache.sqlite')!r}")
        self._threads = threading.local()
        self._opened: list[_Connection] = []
        self._opening = threading.RLock()
        self._generation = self._file = 0

    def find(self, key: Key) -> Found | None:
        key = as_bytes(key)
        row = self._first("select entry from entries where key = ?", (key,))
        if row is None:
            return None
        return self.living(key, row[0])

    def put(self, key: Key, value: Any, ttl: float | None = None) -> None:
        key, expires = as_bytes(key), self.expiry(ttl)
        self._write(_PUT, (key, expires or _NEVER, entry.pack(key, value, expires)))

    def add(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        key, expires = as_bytes(key), self.expiry(ttl)
        row = {"key": key, "expires": expires or _NEVER, "entry": entry.pack(key, value, expires), "now": self.clock()}
        if self._write(_ADD, row) == 1:
            return True
        held = self._first("select entry from entries where key = ?", (key,))
        if held is None or self.living(key, held[0]) is not None:
            return False
        self._write("delete from entries where key = ? and entry = ?", (key, held[0]))  # damaged: as good as none
        return self._write(_ADD, row) == 1

    def discard(self, key: Key) -> None:
        self._write("delete from entries where key = ?", (as_bytes(key),))

    @property
    def bytes(self) -> int:
        used = self._first("select (page_count - freelist_count) * page_size from " + _PAGES, ())
        return 0 if used is None else used[0]

    def __len__(self) -> int:
        row = self._first("select count(*) from entries", ())
        return 0 if row is None else row[0]

    def close(self) -> None:
        """Close the file. Who is in the midst of a query is waited for; who asks afterwards opens the file anew."""
        with self._opening:
            self._generation += 1
            for connection in self._opened:
                with connection.busy:
                    connection.close()
            self._opened.clear()

    def _first(self, sql: str, values: Any) -> tuple | None:
        try:
            connection = self._connection()
            with connection.busy:
                return connection.execute(sql, values).fetchone()
        except (sqlite3.Error, OverflowError, OSError) as error:
            self._failed(error)
            return None

    def _write(self, sql: str, values: Any) -> int:
        """Return how many rows changed; 0 if it failed."""
        try:
            connection = self._connection()
            with connection.busy:
                changed = connection.execute(sql, values).rowcount
                if sql.startswith("insert"):
                    self._make_room(connection)
            return changed
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            return 0

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """Evict the oldest eighth while the file is too full: in one go, for each eviction is a transaction."""
        while self._used(connection) > self._most and connection.execute(_EVICT).rowcount:
            pass

    def _used(self, connection: sqlite3.Connection) -> int:
        pages, free, size = connection.execute("select page_count, freelist_count, page_size from " + _PAGES).fetchone()
        return (pages - free) * size

    def _connection(self) -> _Connection:
        """Return this thread's own connection."""
        own = self._threads
        if getattr(own, "generation", None) != self._generation or own.connection is None:
            with self._opening:
                own.generation, own.connection = self._generation, None
                own.connection = self._open()
        return own.connection

    def _open(self) -> _Connection:
        connection = sqlite3.connect(
            self._path, self._wait_s, isolation_level=None, check_same_thread=False, factory=_Connection
        )
        self._file = self._path.stat().st_ino
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute(_TABLE)
        self._opened.append(connection)
        return connection

    def _failed(self, error: Exception) -> None:
        self.troubles[str(error)] += 1
        if type(error) is sqlite3.DatabaseError:  # "malformed", "not a database": the file itself
            with self._opening:
                if self._threads.generation == self._generation:  # no other thread has done so already
                    self._generation += 1
                    self._opened.clear()  # each thread lets go of its own: another may be in the midst of a query
                    try:
                        self._set_aside()
                    except OSError as failure:  # another process was faster, or the folder can't be written
                        self.troubles[str(failure)] += 1

    def _set_aside(self) -> None:
        if not self._path.exists() or self._path.stat().st_ino != self._file:
            return  # another process was first
        for suffix in ("-wal", "-shm", ""):  # the file last: a log left alone would be taken for the new one's
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.replace(file.with_name(file.name + ".damaged"))
