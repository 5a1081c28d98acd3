"""Two stores together: a small fast one before a large one that lasts or that others share."""

from typing import Any

from kit.errors import UserError
from kit.techniques.caching.stores.store import MISS, Found, Key, Store


class Tiered(Store):
    """Look into `first`, then into `second`; what is found there is put into `first` as well.

    No other process can tell the first tier of a change, so it trusts an entry for at most `first_ttl` seconds: that is
    how long an answer may be old after another process has put a new one. Nothing outlives its own expiry.
    """

    def __init__(self, first: Store, second: Store, first_ttl: float = 60.0) -> None:
        if not first_ttl > 0:
            raise UserError(f"first_ttl={first_ttl!r} is no time; give the seconds that the first tier may lag behind")
        super().__init__(second.clock)
        self.first, self.second, self._first_ttl = first, second, first_ttl
        self.shared = second.shared

    def get(self, key: Key) -> Any:
        value = self.first.get(key)
        if value is not MISS:
            return value
        found = self._promoted(key)
        return MISS if found is None else found.value

    def find(self, key: Key) -> Found | None:
        """Return what is held for `key` with its time of expiry, which the second tier alone knows, or None."""
        found = self._promoted(key)
        return self.first.find(key) if found is None else found

    def _promoted(self, key: Key) -> Found | None:
        found = self.second.find(key)
        if found is not None:
            left = self._first_ttl if found.expires is None else found.expires - self.clock()
            if left > 0:
                self.first.put(key, found.value, min(left, self._first_ttl))
        return found

    def put(self, key: Key, value: Any, ttl: float | None = None) -> None:
        self.second.put(key, value, ttl)
        self.first.put(key, value, min(ttl or self._first_ttl, self._first_ttl))

    def add(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        if not self.second.add(key, value, ttl):
            return False
        self.first.put(key, value, min(ttl or self._first_ttl, self._first_ttl))
        return True

    def discard(self, key: Key) -> None:
        self.second.discard(key)
        self.first.discard(key)

    @property
    def available(self) -> bool:
        return self.second.available

    @property
    def bytes(self) -> int:
        return self.first.bytes + self.second.bytes

    def __len__(self) -> int:
        """Number of entries of the second tier, which has all that the first one has unless it is out of reach."""
        return len(self.second)

    def close(self) -> None:
        self.first.close()
        self.second.close()
