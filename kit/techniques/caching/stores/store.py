"""What all stores have in common: a value for a key until it expires, and a miss for whatever goes wrong."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kit.errors import UserError
from kit.measure.work import Ceiling
from kit.techniques.caching.stores.entry import Found, alike, unpack

Key = bytes | str


class Miss:
    """What `get` returns where nothing is held: any value, None too, can be cached."""

    def __repr__(self) -> str:
        return "MISS"

    def __bool__(self) -> bool:
        return False


MISS: Final = Miss()


class Store:
    """A place for values by key. A store adds `find`, `put`, `add`, `discard`, `close`, `len()` and `bytes`.

    Safe for several threads. Neither `get` nor `put` raises for what lies in the store or for its absence: what cannot
    be read is a miss, what cannot be kept is lost, and `troubles` counts both, by reason.
    """

    shared = False
    """Whether other processes see what is put here."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: the time now in seconds since 1970, the same for all that share the store, as `time.time`."""
        self.clock = clock
        self.troubles: Counter[str] = Counter()

    def find(self, key: Key) -> Found | None:
        """Return what is held for `key` with its time of expiry, or None."""
        raise NotImplementedError

    def put(self, key: Key, value: Any, ttl: float | None = None) -> None:
        """Keep `value` for `key`, for `ttl` seconds; None: until it is evicted. Raise `UserError` for a value that
        cannot be kept safely (see `entry`), and for a `ttl` that is no time."""
        raise NotImplementedError

    def add(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        """Keep `value` only if nothing is held for `key`, in one step. Return whether it was: then the key is yours."""
        raise NotImplementedError

    def discard(self, key: Key) -> None:
        """Forget `key` if it is held."""
        raise NotImplementedError

    @property
    def available(self) -> bool:
        """Whether anything can be had from it just now; only a server can be out of reach."""
        return True

    @property
    def bytes(self) -> int:
        """What is held takes so many bytes, keys and the store's own structures included where it can tell."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Number of entries, with those that have expired and have not been asked for since."""
        raise NotImplementedError

    def bound(self, num_bytes: int) -> Ceiling | None:
        """Return which ceiling bounds a hit on, or a put of, a value of so many bytes; None where it can't be told."""
        return handed_over(num_bytes, "from memory, not from the disk" if self.shared else HERE)

    def close(self) -> None:
        """Let go of files and connections."""

    def get(self, key: Key) -> Any:
        """Return the value of `key`, or `MISS`."""
        found = self.find(key)
        return MISS if found is None else found.value

    def fetch(self, key: Key, compute: Callable[[], Any], ttl: float | None = None) -> Any:
        """Return the value of `key`; if it is not held, what `compute()` returns, which is kept then.

        A miss returns what a hit will: a copy, arrays read-only.
        """
        value = self.get(key)
        if value is MISS:
            value = alike(compute())
            self.put(key, value, ttl)
        return value

    def living(self, key: bytes, raw: Any) -> Found | None:
        """Return what `raw` was packed as for `key`, unless it has expired or is damaged, which is counted."""
        found = unpack(key, raw)
        if found is None:
            self.troubles["damaged entry"] += 1
            return None
        return None if found.expires is not None and found.expires <= self.clock() else found

    def expiry(self, ttl: float | None) -> float | None:
        """Return when what is put now expires; None for never, as after an endless `ttl`."""
        if ttl is None or ttl == float("inf"):
            return None
        if not ttl > 0:
            raise UserError(f"ttl={ttl!r} is no time to live; give seconds above 0, or None for no end")
        return self.clock() + ttl

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


HERE = "though a hit in this process hands out a view"


def handed_over(num_bytes: int, how: str = HERE) -> Ceiling:
    """Return what a value of so many bytes is held against on its way out of memory: a copy of it."""
    note = f"the {num_bytes:,} bytes of a value, read once, {how}"
    return Ceiling("memory_copy_gib_per_s", num_bytes / 2**30, note)


def as_bytes(key: Key) -> bytes:
    """Return a key as bytes that every store takes: a text is its UTF-8, a long one is hashed."""
    if type(key) is bytes and 0 < len(key) <= 256:  # LMDB takes 511
        return key
    try:
        key = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise UserError(f"the key {key!r:.60} has half a character (a surrogate); give whole text, or bytes") from None
    if not key:
        raise UserError("a key is empty; give at least one byte")
    if len(key) <= 256:
        return key
    from hashlib import blake2b

    return b"long:" + blake2b(key, digest_size=32).digest()


def folder(path: Path) -> None:
    """Make a folder for a store if it is not there. Raise `UserError` where none can be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"a store can't have its folder at {str(path)!r}; {error.strerror}: give another path"
        ) from None
