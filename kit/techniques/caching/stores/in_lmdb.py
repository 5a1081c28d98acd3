"""A store on the disk, in LMDB: a tree of pages mapped into memory, shared by the processes of one machine.

The fastest to read of those that outlive a process. Its pages have no checksums: entries have their own, but a file
whose tree is damaged can end the process that reads it. Where that must not be, take SQLite.
"""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.errors import UserError
from kit.techniques.caching.stores import entry
from kit.techniques.caching.stores.store import Found, Key, Store, as_bytes, folder

_NUMBER = struct.Struct(">Q")


class LMDB(Store):
    """Hold entries in the folder `path`, at most so many MiB: what was written first is evicted first.

    Nothing waits for the disk: a process that is killed loses nothing, a power cut may cost the whole folder. Open it
    once in a process (`UserError` for the second time), and only on a disk of this machine. A file that is cut short is
    set aside and begun anew.
    """

    shared = True

    def __init__(self, path: Path | str, *, mib: float = 1024, clock: Callable[[], float] = time.time) -> None:
        import lmdb

        super().__init__(clock)
        self._lmdb = lmdb
        self._path, self._most = Path(path), mib * 2**20
        self._environment = self._open()
        self._entries = self._environment.open_db(b"entries")
        self._order = self._environment.open_db(b"order")

    def find(self, key: Key) -> Found | None:
        key = as_bytes(key)
        try:
            with self._environment.begin(self._entries) as transaction:
                raw = transaction.get(key)
        except self._lmdb.Error as error:
            self.troubles[str(error)] += 1
            return None
        return None if raw is None else self.living(key, memoryview(raw)[_NUMBER.size :])

    def put(self, key: Key, value: Any, ttl: float | None = None) -> None:
        self._put(key, value, ttl, replace=True)

    def add(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        return self._put(key, value, ttl, replace=False)

    def discard(self, key: Key) -> None:
        try:
            with self._environment.begin(self._entries, write=True) as transaction:
                key = as_bytes(key)
                if number := _number(transaction, self._order, key, transaction.pop(key)):
                    transaction.delete(number, db=self._order)
        except self._lmdb.Error as error:
            self.troubles[str(error)] += 1

    @property
    def bytes(self) -> int:
        with self._environment.begin() as transaction:
            return sum(_bytes(transaction.stat(tree)) for tree in (self._entries, self._order))

    def __len__(self) -> int:
        with self._environment.begin() as transaction:
            return transaction.stat(self._entries)["entries"]

    def close(self) -> None:
        self._environment.close()

    def _put(self, key: Key, value: Any, ttl: float | None, *, replace: bool) -> bool:
        key, expires = as_bytes(key), self.expiry(ttl)
        packed = entry.pack(key, value, expires)
        for tries_left in (1, 0):
            try:
                return self._written(key, packed, replace)
            except self._lmdb.Error as error:
                self.troubles[str(error)] += 1
                if tries_left:
                    self._recover()
        return False

    def _written(self, key: bytes, packed: bytes, replace: bool) -> bool:
        with self._environment.begin(self._entries, write=True) as transaction:
            old = transaction.get(key)
            if not replace and old is not None and self.living(key, memoryview(old)[_NUMBER.size :]):
                return False
            self._make_room(transaction, len(packed))
            number = _number(transaction, self._order, key, transaction.get(key)) or self._next(transaction, key)
            transaction.put(key, number + packed)
            return True

    def _recover(self) -> None:
        """Free what a full map is full of: pages that a killed reader's slot pins, and an eighth of the entries."""
        try:
            self._environment.reader_check()
            with self._environment.begin(write=True) as transaction:
                self._make_room(transaction, int(self._most / 8))
        except self._lmdb.Error as error:
            self.troubles[str(error)] += 1

    def _next(self, transaction: Any, key: bytes) -> bytes:
        """Put a new key at the end of the order, and return its number there."""
        cursor = transaction.cursor(self._order)
        while cursor.last() and not _is_number(cursor.key()):
            cursor.delete()  # damaged: no number could follow on it
        last = _NUMBER.unpack(cursor.key())[0] if cursor.key() else 0
        number = _NUMBER.pack(last + 1)
        transaction.put(number, key, append=True, db=self._order)
        return number

    def _make_room(self, transaction: Any, more: int) -> None:
        """Evict the oldest eighth while the pages in use are too many."""
        cursor = transaction.cursor(self._order)
        while _bytes(transaction.stat(self._entries)) + more > self._most and cursor.first():
            left = max(1, transaction.stat(self._entries)["entries"] // 8)
            while left and cursor.first():
                if cursor.value():  # a damaged place names none
                    transaction.delete(cursor.value(), db=self._entries)
                cursor.delete()
                left -= 1

    def _open(self) -> Any:
        file = self._path / "data.mdb"
        room = int(2 * self._most) + 2**24  # what readers still see is written beside it
        options = {"map_size": room, "max_dbs": 2, "max_readers": 512, "sync": False, "metasync": False}
        damage = (self._lmdb.InvalidError, self._lmdb.CorruptedError, self._lmdb.VersionMismatchError)
        for _ in range(2):
            folder(self._path)
            try:
                environment = self._lmdb.open(str(self._path), **options)
            except damage as error:
                self._begin_anew(str(error))
                continue
            except self._lmdb.Error as error:  # open in this process already, no permission, no room for the map
                raise UserError(
                    f"LMDB can't open {str(self._path)!r}; {error}: open it once in a process and share the store, "
                    "or give another path"
                ) from None
            whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            if file.stat().st_size >= whole:
                environment.reader_check()  # a process that was killed in a read has left its slot
                return environment
            environment.close()  # to read a page that isn't there would end the process
            self._begin_anew("the file was cut short")
        return self._lmdb.open(str(self._path), **options)

    def _begin_anew(self, why: str) -> None:
        self.troubles[why] += 1
        for name in ("data.mdb", "lock.mdb"):
            if (file := self._path / name).exists():
                file.replace(file.with_name(f"{name}.damaged"))


def _number(transaction: Any, order: Any, key: bytes, raw: bytes | None) -> bytes | None:
    """Return the place in the order that an entry names; None where that place is another's or nobody's: such a number
    is damaged, and what goes by it would never be evicted."""
    number = (raw or b"")[: _NUMBER.size]
    return number if number and transaction.get(number, db=order) == key else None


def _is_number(raw: bytes) -> bool:
    return len(raw) == _NUMBER.size and raw[0] < 0x80


def _bytes(stat: dict[str, int]) -> int:
    return stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
