"""Stores of a cache: what is put comes back or is missed, whatever happens to the disk, the server and the bytes."""

import contextlib
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import OrderedDict, namedtuple
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from kit.errors import UserError
from kit.techniques.caching import stores
from kit.techniques.caching.stores import MISS, entry, in_memory

VALUES = {
    "nothing": None,
    "a number": 3.25,
    "a text": "Füße 🦶",
    "bytes": b"\x00\xff",
    "an array": np.arange(12, dtype=np.float32).reshape(3, 4),
    "no array": np.empty((0, 7), np.int64),
    "times": np.array(["2013-01-01", "NaT"], "datetime64[ns]"),
    "a scalar": np.float32(0.1),
    "all together": {"label": "pdf", "scores": np.arange(3.0), "nested": [1, None, [True, {"deep": b"x"}]]},
    "a table": pa.table({"tail": ["N1", None, "N3"], "delay": [1.5, 2.5, None]}),
}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("redis")
    if stores.program() is None:
        pytest.skip("no redis-server is installed here")
    with stores.PrivateServer(mib=32) as running:
        yield running


def _memory(**options):
    return in_memory.InMemory(stores.in_memory.POLICIES["SIEVE"](2**20), **options)


KINDS = ["memory", "cachetools", "cachebox", "sqlite", "lmdb", "redis", "tiered"]


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    """A store of each kind, with a clock of its own."""
    kind, clock = request.param, Clock()
    if kind in ("cachetools", "cachebox", "lmdb"):
        pytest.importorskip(kind)
    if kind == "redis":
        url = request.getfixturevalue("server").url
        made = stores.Redis(url, prefix=f"{request.node.name}:", clock=clock, timeout_s=2)
    elif kind == "tiered":
        made = stores.Tiered(_memory(clock=clock), stores.SQLite(tmp_path / "c.sqlite", clock=clock), first_ttl=5)
    elif kind == "sqlite":
        made = stores.SQLite(tmp_path / "c.sqlite", clock=clock)
    elif kind == "lmdb":
        made = stores.LMDB(tmp_path / "lmdb", mib=16, clock=clock)
    elif kind == "memory":
        made = _memory(clock=clock)
    else:
        made = getattr(in_memory, f"by_{kind}")(1000)
        made.clock = clock
    with made:
        yield made


@pytest.mark.parametrize("name", VALUES)
def test_what_is_put_comes_back_equal_and_of_the_same_type(store, name):
    """A cached answer equals the one that was put, in value, type and shape, in every store."""
    value = VALUES[name]
    store.put("key", value)
    found = store.get("key")
    assert type(found) is type(value)
    assert _same(found, value)


def _same(a, b) -> bool:
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in b)
    if isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a.equals(b) if isinstance(b, pa.Table) else a == b


def test_absence_discarding_and_length(store):
    """What was never put or was discarded is a miss, which a cached None is not; entries and bytes are counted."""
    assert store.get("a") is MISS and store.find("a") is None
    store.put("a", None)
    store.put(b"b" * 5000, "long keys too")
    assert store.get("a") is None and store.get(b"b" * 5000) == "long keys too"
    assert len(store) == 2 and store.bytes > 0
    store.discard("a")
    assert store.get("a") is MISS and len(store) == 1


def test_entries_expire(store):
    """After its time to live an entry is a miss, and `add` may take its place; one without lives on."""
    store.put("short", 1, ttl=10)
    store.put("long", 2)
    store.clock.now += 9
    assert store.get("short") == 1
    store.clock.now += 2
    assert store.get("short") is MISS and store.get("long") == 2
    assert store.add("short", 3, ttl=10) and store.get("short") == 3


def test_only_one_adds(store):
    """Of many threads that add one key exactly one is told that it is theirs, and its value stands."""
    told = []
    threads = [threading.Thread(target=lambda n=n: told.append((store.add("lock", n, ttl=30), n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [n for won, n in told if won]
    assert store.get("lock") == winner


def test_fetch_computes_once(store):
    """`fetch` computes on a miss and not on a hit."""
    calls = []
    assert [store.fetch("k", lambda: calls.append(1) or [1, 2]) for _ in range(3)] == [[1, 2]] * 3
    assert len(calls) == 1


def test_an_answer_that_is_changed_does_not_change_the_cache(store):
    """Whoever writes into an answer, or into what they have put, does not change what others get."""
    array, plain = np.zeros(3), {"a": [1]}
    store.put("array", array)
    store.put("plain", plain)
    array[0] = plain["a"][0] = 9
    with pytest.raises(ValueError, match="read-only"):
        store.get("array")[1] = 9
    store.get("plain")["a"].append(9)
    assert store.get("array").tolist() == [0, 0, 0] and store.get("plain") == {"a": [1]}


def test_an_array_that_was_read_only_when_put_may_be_changed_by_its_owner(store):
    """The cache has a copy even of a read-only array, and no answer leads into it."""
    array = np.zeros(3)
    array.flags.writeable = False
    store.put("k", array)
    array.flags.writeable = True
    array[0] = 9
    found = store.get("k")
    with contextlib.suppress(ValueError):  # refused, or it is a copy of one's own
        found.flags.writeable = True
        found[0] = 9
    assert store.get("k").tolist() == [0, 0, 0]


def test_a_table_that_was_put_does_not_change_with_its_owners_array(store):
    """A table may lie in an array's own memory; what is cached, or handed out at a miss, does not."""
    array = np.arange(5.0)
    table = pa.table({"a": array})
    store.put("k", table)
    missed = store.fetch("l", lambda: table)
    array[:] = 99
    assert store.get("k")["a"].to_pylist() == missed["a"].to_pylist() == [0, 1, 2, 3, 4]


def test_a_miss_returns_what_a_hit_does(store):
    """Who computed gets a copy as all others do: read-only, and no way into the cache."""
    array, plain = np.zeros(3), {"a": [1]}
    assert not store.fetch("array", lambda: array).flags.writeable and array.flags.writeable
    store.fetch("plain", lambda: plain)["a"].append(9)
    assert plain == {"a": [1]} == store.get("plain")


def test_an_endless_time_to_live_is_none(store):
    """ttl=inf is as good as None, in every store."""
    store.put("k", 1, ttl=float("inf"))
    assert store.get("k") == 1 and store.add("l", 2, ttl=float("inf"))
    assert store.find("k").expires is None


@pytest.mark.parametrize("value", [(1, 2), [{1}], {(1, 2): 3}, object(), np.array([{}]), 2**70, "\ud800", [1 + 2j]])
def test_what_would_come_back_as_something_else_is_refused(store, value):
    """Nothing is kept that would come back as another type, and nothing that only pickle could keep."""
    with pytest.raises(UserError):
        store.put("k", value)
    assert store.get("k") is MISS


# Bytes


def _entries():
    return [entry.pack(b"key", value, expires) for value in VALUES.values() for expires in (None, 5.0)]


def test_every_cut_and_every_flipped_byte_is_noticed():
    """An entry that is cut anywhere, or has one byte flipped anywhere, is no entry."""
    for raw in _entries():
        assert entry.unpack(b"key", raw) is not None
        assert all(entry.unpack(b"key", raw[:length]) is None for length in range(len(raw)))
        for place in range(len(raw)):
            damaged = bytearray(raw)
            damaged[place] ^= 0x40
            assert entry.unpack(b"key", bytes(damaged)) is None, place


def test_an_entry_under_another_key_is_no_entry():
    """An entry that a restored backup or a bug put under another key is not taken for that key's."""
    assert entry.unpack(b"other", _entries()[0]) is None


def test_forged_entries_are_values_or_nothing():
    """Bytes with a right checksum and nonsense inside make a miss, never an exception."""
    from kit.techniques.caching.stores.entry import HEADER, MAGIC, _checksum

    random = np.random.default_rng(0)
    nonsense = [random.bytes(int(n)) for n in random.integers(0, 60, 400)]
    nonsense += [b"\x93\xa2|O\x91\x01\xc4\x08" + bytes(8), b"\x93\xa3<f8\x91\xff\xc4\x08" + bytes(8)]
    for kind in (b"p", b"a", b"t", b"x"):
        for payload in nonsense:
            header = HEADER.pack(MAGIC, kind, 5.0, _checksum(b"k", kind, 5.0, payload))
            entry.unpack(b"k", header + payload)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["sqlite", "lmdb", "redis"])
def test_a_foreign_pickle_is_a_miss_and_is_never_unpickled(kind, tmp_path, request):
    """A pickle that someone else wrote into the store does nothing; nor does any other foreign value."""
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    made, write = _opened(kind, tmp_path, request)
    with made:
        for foreign in (bomb, entry.MAGIC + bomb, b"", b"\x80\x04", b"3.14"):
            made.put("k", 1)
            write(foreign)
            assert made.get("k") is MISS
            assert made.fetch("k", lambda: 7) == 7 and made.get("k") == 7
            write(foreign)
            made.discard("k")
            assert made.get("k") is MISS
        assert made.troubles["damaged entry"] >= 5
    assert not (tmp_path / "exploded").exists()


def _opened(kind, tmp_path, request):
    """Return a store, and a function that writes raw bytes under the key "k" behind its back."""
    if kind == "sqlite":
        made = stores.SQLite(tmp_path / "c.sqlite")

        def write(raw):
            with contextlib.closing(sqlite3.connect(tmp_path / "c.sqlite")) as connection, connection:
                connection.execute("update entries set entry = ?", (raw,))

        return made, write
    pytest.importorskip(kind)
    if kind == "lmdb":
        made = stores.LMDB(tmp_path / "lmdb", mib=4)

        def write(raw):
            with made._environment.begin(made._entries, write=True) as transaction:
                transaction.put(b"k", raw)

        return made, write
    made = stores.Redis(request.getfixturevalue("server").url, prefix="foreign:", timeout_s=2)
    return made, partial(made._client.set, "foreign:k")


@pytest.mark.parametrize("kind", ["sqlite", "lmdb", "redis"])
def test_a_damaged_entry_does_not_stand_in_the_way_of_adding(kind, tmp_path, request):
    """`add` takes the place of an entry that is damaged, or a lock with one would be nobody's for ever."""
    made, write = _opened(kind, tmp_path, request)
    with made:
        made.put("k", 1)
        write(b"damaged, and long enough for a number")
        assert made.add("k", 2) and made.get("k") == 2
        assert not made.add("k", 3)


# Files


FILLING = """
import sys, numpy as np
from kit.techniques.caching import stores
store = stores.{kind}(sys.argv[1])
for number in range(10**9):
    store.put(str(number), np.full(5000, number))
    if number == 50:
        print("fifty", flush=True)
"""


@pytest.mark.parametrize("kind", ["SQLite", "LMDB"])
def test_a_process_killed_while_it_writes_leaves_whole_entries(kind, tmp_path):
    """After a writer was killed, each entry is whole or missing, and the store goes on."""
    if kind == "LMDB":
        pytest.importorskip("lmdb")
    path = tmp_path / "store"
    writer = subprocess.Popen(
        [sys.executable, "-c", FILLING.format(kind=kind), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "fifty\n"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    with getattr(stores, kind)(path) as store:
        found = [(number, store.get(str(number))) for number in range(10_000)]
        held = [(number, value) for number, value in found if value is not MISS]
        assert len(held) >= 50
        assert all((value == number).all() and len(value) == 5000 for number, value in held)
        store.put("new", 1)
        assert store.get("new") == 1


def _filled(kind, path):
    with getattr(stores, kind)(path, mib=64) as store:
        for number in range(300):
            store.put(str(number), np.full(1000, number))
    return path if kind == "SQLite" else path / "data.mdb"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["SQLite", "LMDB"])
def test_a_truncated_file_costs_entries_only(kind, share, tmp_path):
    """A store whose file was cut short has misses and no wrong answers, and can be written again."""
    if kind == "LMDB":
        pytest.importorskip("lmdb")
    file = _filled(kind, tmp_path / "store")
    os.truncate(file, int(share * file.stat().st_size))
    _still_right(kind, tmp_path / "store")


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bytes_anywhere_in_a_sqlite_file_cost_entries_only(seed, tmp_path):
    """Wherever bytes of the file are flipped, its own structures included, there are misses and no wrong answers."""
    file = _filled("SQLite", tmp_path / "store")
    raw = bytearray(file.read_bytes())
    random = np.random.default_rng(seed)
    for place in [*random.integers(0, len(raw), 300), *random.integers(0, 4096, 5 * (seed % 2))]:
        raw[place] ^= 1 << random.integers(8)
    file.write_bytes(raw)
    _still_right("SQLite", tmp_path / "store")


def _still_right(kind, path):
    with getattr(stores, kind)(path, mib=64) as store:
        for number in range(300):
            value = store.get(str(number))
            assert value is MISS or ((value == number).all() and len(value) == 1000)
        for number in range(300):
            store.put(str(number), -number)
            store.put(f"new {number}", number)
        right = [(store.get(str(n)), store.get(f"new {n}")) for n in range(300)]
        assert all(old in (MISS, -n) and new in (MISS, n) for n, (old, new) in enumerate(right))
        assert sum(new is not MISS for _, new in right) > 250


@pytest.mark.parametrize("kind", ["SQLite", "LMDB"])
def test_a_disk_store_stays_within_its_bound_and_keeps_the_newest(kind, tmp_path):
    """Where the bound is reached the oldest go, and what was put last is there."""
    if kind == "LMDB":
        pytest.importorskip("lmdb")
    with getattr(stores, kind)(tmp_path / "store", mib=1) as store:
        for number in range(500):
            store.put(str(number), bytes(10_000))
        assert store.bytes < 1.5 * 2**20
        assert store.get("499") is not MISS and store.get("0") is MISS


@pytest.mark.parametrize("kind", ["SQLite", "LMDB"])
def test_a_few_large_entries_make_room_among_many_small_ones(kind, tmp_path):
    """What is put may be far larger than what is evicted: the bound holds, and the newest are there."""
    if kind == "LMDB":
        pytest.importorskip("lmdb")
    with getattr(stores, kind)(tmp_path / "store", mib=4) as store:
        for number in range(3000):
            store.put(str(number), bytes(300))
        for number in range(10):
            store.put(f"large {number}", bytes(2**20))
            assert store.bytes < 5.5 * 2**20 and store.get(f"large {number}") is not MISS
        assert store.get("0") is MISS


READER = """
import os, signal, sys, threading
from kit.techniques.caching import stores
store = stores.LMDB(sys.argv[1], mib=2)
with store._environment.begin(store._entries) as transaction:
    transaction.get(b"k")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_reader_that_was_killed_does_not_jam_lmdb(tmp_path):
    """The pages that a killed reader held are used again: what others put afterwards is kept."""
    pytest.importorskip("lmdb")
    with stores.LMDB(tmp_path / "c", mib=2) as store:
        store.put("k", 1)
        subprocess.run([sys.executable, "-c", READER, str(tmp_path / "c")], timeout=60)
        for number in range(3000):
            store.put(str(number), bytes(10_000))
            assert store.get(str(number)) is not MISS


def test_a_damaged_file_costs_threads_nothing_but_entries(tmp_path):
    """While several threads read and write, a file that is damaged again and again neither ends nor fails any."""
    path, stop = tmp_path / "store", time.monotonic() + 2
    script = DAMAGED.format(path=str(path))
    user = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert user.stdout.readline() == "filled\n"
    random = np.random.default_rng(0)
    while time.monotonic() < stop:
        time.sleep(0.1)
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            for place in range(0, path.stat().st_size, 4096):
                file.seek(place)
                file.write(random.bytes(4096))
    said, _ = user.communicate(timeout=30)
    assert user.returncode == 0 and said == "[]\n"


DAMAGED = """
import threading, time, numpy as np
from kit.techniques.caching import stores
store, wrong, stop = stores.SQLite({path!r}), [], time.monotonic() + 3
def use(seed):
    random = np.random.default_rng(seed)
    try:
        while time.monotonic() < stop:
            number = int(random.integers(1000))
            value = store.fetch(str(number), lambda: np.full(500, number))
            if not (value == number).all():
                wrong.append(number)
    except Exception as error:
        wrong.append(repr(error))
for number in range(300):
    store.put(str(number), np.full(500, number))
print("filled", flush=True)
threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(wrong)
"""


def test_a_damaged_file_that_cant_be_set_aside_is_a_miss(tmp_path, monkeypatch):
    """In a folder that can't be written, or where another process is faster, a damaged file raises nothing."""
    file = _filled("SQLite", tmp_path / "store")
    file.write_bytes(b"no database" * 1000)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file), "replace", refuse)
    with stores.SQLite(file) as store:
        store.put("k", 1)
        assert store.get("k") is MISS and not store.add("k", 1) and len(store) == 0
        assert any("Permission denied" in reason for reason in store.troubles)


def test_lmdb_opened_twice_is_told_and_sets_nothing_aside(tmp_path):
    """A second store of the same folder in one process is the user's mistake, not damage: what is held stays."""
    pytest.importorskip("lmdb")
    with stores.LMDB(tmp_path / "c") as store:
        store.put("k", 1)
        with pytest.raises(UserError, match="once in a process"):
            stores.LMDB(tmp_path / "c")
        assert store.get("k") == 1
    assert not list(tmp_path.rglob("*.damaged"))


def test_an_lmdb_entry_with_a_damaged_number_can_be_evicted(tmp_path):
    """An entry whose place in the order is another's, or nobody's, gets one of its own when it is put again."""
    pytest.importorskip("lmdb")
    with stores.LMDB(tmp_path / "c", mib=1) as store:
        store.put("other", 1)
        for number in (1, 77):
            with store._environment.begin(store._entries, write=True) as transaction:
                transaction.put(b"k", number.to_bytes(8, "big") + b"foreign")
            store.put("k", 2)
            with store._environment.begin(store._entries) as transaction:
                assert transaction.get(transaction.get(b"k")[:8], db=store._order) == b"k"
        store.discard("k")
        for number in range(500):
            store.put(str(number), bytes(10_000))
        assert store.get("other") is MISS


@pytest.mark.parametrize("place", [b"odd", b"\xff" * 8, b"longer than eight"])
def test_a_damaged_place_in_lmdbs_order_costs_no_put(place, tmp_path):
    """An order whose last place is no number, or the highest, or names no entry, is mended by the next put."""
    pytest.importorskip("lmdb")
    with stores.LMDB(tmp_path / "c", mib=1) as store:
        store.put("k", 1)
        with store._environment.begin(store._order, write=True) as transaction:
            transaction.put(place, b"nobody")
            transaction.put(bytes(8), b"")
        store.put("l", 2)
        assert (store.get("k"), store.get("l")) == (1, 2)
        for number in range(300):
            store.put(str(number), bytes(10_000))
        assert store.get("299") is not MISS and store.bytes < 1.5 * 2**20


def test_a_store_closed_while_threads_use_it_raises_nothing(tmp_path):
    """Closing waits for who is in the midst of a query; everyone else misses, or opens the file anew."""
    script = CLOSED.format(path=str(tmp_path / "c"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


CLOSED = """
import threading, time, numpy as np
from kit.techniques.caching import stores
store, wrong, stop = stores.SQLite({path!r}), [], time.monotonic() + 1
def use(seed):
    random = np.random.default_rng(seed)
    try:
        while time.monotonic() < stop:
            number = int(random.integers(200))
            if not (store.fetch(str(number), lambda: np.full(20_000, number)) == number).all():
                wrong.append(number)
    except Exception as error:
        wrong.append(repr(error))
threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
[thread.start() for thread in threads]
while time.monotonic() < stop:
    store.close()
    time.sleep(0.002)
[thread.join() for thread in threads]
print(wrong + [why for why in store.troubles if "closed" not in why])
"""


def test_two_tiers_promote_and_do_not_outlive_expiry(tmp_path):
    """The first tier learns what the second has, trusts it no longer than agreed, and never beyond its expiry."""
    clock = Clock()
    first, second = _memory(clock=clock), stores.SQLite(tmp_path / "c", clock=clock)
    with stores.Tiered(first, second, first_ttl=5) as store:
        second.put("k", "old", ttl=8)
        assert store.get("k") == "old" == first.get("k")
        second.put("k", "new", ttl=8)
        assert store.get("k") == "old"  # the lag that first_ttl bounds
        clock.now += 5
        assert store.get("k") == "new"
        clock.now += 4
        assert first.get("k") is store.get("k") is MISS


def test_two_tiers_know_when_an_entry_expires(tmp_path):
    """However short the first tier trusts an entry, `find` tells when it really expires; early refresh goes by it."""
    clock = Clock()
    with stores.Tiered(_memory(clock=clock), stores.SQLite(tmp_path / "c", clock=clock), first_ttl=5) as store:
        store.put("k", 1, ttl=3600)
        store.put("l", 2)
        assert store.get("k") == 1 and store.find("k") == (1, clock.now + 3600) and store.find("l") == (2, None)


# Keys


Point, Size = namedtuple("Point", "x y"), namedtuple("Size", "width height")


def test_keys_differ_where_anything_does():
    """Another version, value, type, shape or grouping is another key; a dict's order and an array's layout are not."""
    array = np.arange(6.0).reshape(2, 3)
    inputs = [1, 1.0, True, "1", b"1", None, [1], [[1]], ["a", "bc"], ["ab", "c"], array, array.T, array.reshape(3, 2)]
    inputs += [array.astype("f4"), {"a": 1}, {"a": array}, {"1": 1}, {1: 1}]
    inputs += [
        (1,),
        np.float64(1),
        np.float32(1),
        np.str_("1"),
        np.bool_(True),
        np.int64(1),
        np.array(1),
        bytearray(b"1"),
    ]
    inputs += [Point(1, 2), Size(1, 2), (1, 2), [1, 2], OrderedDict(a=1)]
    flat = memoryview(bytes(range(16)))
    inputs += [flat, flat.cast("h"), flat.cast("B", (4, 4)), flat[::2], flat.tobytes(), np.str_("")]
    keys = [stores.key(version, one) for one in inputs for version in (None, "", "v1", "v2")]
    assert len(set(keys)) == len(keys)
    assert stores.key("v", {"a": 1, "b": 2}) == stores.key("v", {"b": 2, "a": 1})
    assert stores.key("v", array) == stores.key("v", np.asfortranarray(array))
    for mistake in (object(), np.ma.array([1, 2], mask=[0, 1]), np.array([{}])):
        with pytest.raises(UserError, match="can't be made of"):
            stores.key("v", mistake)
    for version, inputs in (("\ud800", 1), ("v", "\ud800")):
        with pytest.raises(UserError, match="surrogate"):
            stores.key(version, inputs)


def test_a_text_and_its_bytes_are_one_key(store):
    """In every store a text is the same key as its UTF-8; what has no UTF-8 is refused."""
    store.put("Füße", 1)
    assert store.get("Füße".encode()) == 1 and not store.add("Füße".encode(), 2) and len(store) == 1
    store.discard("Füße".encode())
    assert store.get("Füße") is MISS
    with pytest.raises(UserError, match="surrogate"):
        store.get("\ud800")


def test_a_mapped_array_has_the_key_of_its_values(tmp_path):
    """Whether inputs are mapped from a file or were read makes no other key."""
    np.save(tmp_path / "a.npy", np.arange(6.0))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert stores.key("v", mapped) == stores.key("v", np.arange(6.0))


def test_a_files_version_is_its_content(tmp_path):
    """A model's version changes with one byte of its file and with nothing else."""
    (tmp_path / "a").write_bytes(b"model")
    (tmp_path / "b").write_bytes(b"model")
    assert stores.content(tmp_path / "a") == stores.content(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"modem")
    assert stores.content(tmp_path / "a") != stores.content(tmp_path / "b")


# A server that goes away


@pytest.fixture
def private():
    pytest.importorskip("redis")
    if stores.program() is None:
        pytest.skip("no redis-server is installed here")
    with stores.PrivateServer(mib=8) as running:
        yield running


def test_the_work_goes_on_without_a_killed_server_and_recovers(private, caplog):
    """A server killed in mid-run costs no answer; the store says so, and uses it again when it is back."""
    caplog.set_level(logging.WARNING)
    with stores.Redis(private.url, retry_s=0.05, timeout_s=1) as store:
        right = lambda n: store.fetch(str(n % 10), lambda: {"square": (n % 10) ** 2}) == {"square": (n % 10) ** 2}  # noqa: E731
        assert all(right(n) for n in range(50)) and not store.outage
        private.kill()
        assert all(right(n) for n in range(50))
        assert "has not answered since" in store.outage and "Connection" in store.outage
        assert len(store) == store.bytes == 0 and not store.add("k", 1)
        private.start()
        time.sleep(0.1)
        assert all(right(n) for n in range(50))
        assert not store.outage and len(store) == 10
    said = [record.message for record in caplog.records if "redis" in record.message]
    assert len(said) == 2 and "goes on without" in said[0] and "is back" in said[1]
    assert private._password not in caplog.text


def test_a_hanging_server_is_waited_for_once(private):
    """A server that accepts and never answers holds up one lookup for its timeout, not each of them."""
    with stores.Redis(private.url, retry_s=60, timeout_s=0.2) as store:
        store.put("k", 1)
        os.kill(private.pid, signal.SIGSTOP)
        try:
            start = time.perf_counter()
            assert store.get("k") is MISS
            waited = time.perf_counter() - start
            start = time.perf_counter()
            assert all(store.get("k") is MISS for _ in range(100))
            assert time.perf_counter() - start < waited
        finally:
            os.kill(private.pid, signal.SIGCONT)
        assert "101 requests" in store.outage


def test_a_request_that_looks_up_and_puts_is_one_request(private):
    """Without the server, looking up, putting, adding and discarding for one request count as one."""
    with stores.Redis(private.url, retry_s=60) as store:
        private.kill()
        for number in range(20):
            store.fetch(str(number), lambda: 1)
            store.discard("k")
        assert "20 requests" in store.outage


def test_a_late_answer_is_not_taken_for_another_key(private):
    """After a timeout the answer that comes late is thrown away with its connection."""
    with stores.Redis(private.url, retry_s=0.01, timeout_s=0.1) as store:
        store.put("a", "of a")
        store.put("b", "of b")
        os.kill(private.pid, signal.SIGSTOP)
        assert store.get("a") is MISS
        os.kill(private.pid, signal.SIGCONT)
        time.sleep(0.05)
        assert [store.get("b") for _ in range(3)] == ["of b"] * 3


def test_threads_outlive_a_server_that_hangs_again_and_again(private):
    """While some threads time out the others' connections are left to them: no exception, no wrong answer."""
    with stores.Redis(private.url, retry_s=0.02, timeout_s=0.05) as store:
        stop, wrong = time.monotonic() + 2, []

        def use(seed):
            random = np.random.default_rng(seed)
            try:
                while time.monotonic() < stop:
                    number = int(random.integers(20))
                    if not (store.fetch(str(number), lambda n=number: np.full(2000, n)) == number).all():
                        wrong.append(number)
            except Exception as error:
                wrong.append(repr(error))

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        while time.monotonic() < stop - 0.3:
            time.sleep(0.1)
            os.kill(private.pid, signal.SIGSTOP)
            time.sleep(0.12)
            os.kill(private.pid, signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert not wrong and store.troubles["server gone"]


def test_clearing_takes_all_of_the_prefix_and_nothing_else(private):
    """A notebook leaves a server as it found it: its own entries go, those of others stay."""
    with (
        stores.Redis(private.url, prefix="a[b]*:", timeout_s=2) as own,
        stores.Redis(private.url, prefix="ab:", timeout_s=2) as other,
    ):
        for number in range(2500):
            own.put(str(number), number)
        other.put("k", 1)
        assert (len(own), len(other)) == (2500, 1) and own.bytes > 100 * other.bytes
        assert own.clear() == 2500 and own.clear() == 0
        assert len(own) == own.bytes == 0 and other.get("k") == 1


def test_a_server_that_refuses_is_no_outage(private):
    """A value that the server will not take, or a key of another type, is lost or missed; other lookups go on."""
    with stores.Redis(private.url, timeout_s=2) as store:
        store._client.lpush("kit:list", "x")
        assert store.get("list") is MISS
        store._client.config_set("maxmemory-policy", "noeviction")
        store._client.config_set("maxmemory", "1")
        store.put("k", 1)
        assert store.get("k") is MISS and not store.outage
        assert sum(store.troubles.values()) == 2


def test_a_server_forgets_what_it_was_lent_for(private):
    """With a longest time to live every entry has one on the server, whatever becomes of the process that put it."""
    with stores.Redis(private.url, timeout_s=2, most_ttl_s=60) as store:
        store.put("a", 1)
        store.put("b", 1, ttl=5)
        store.add("c", 1, ttl=500)
        left = [store._client.ttl(f"kit:{key}") for key in "abc"]
        assert 50 < left[0] <= 60 and 0 < left[1] <= 5 and 50 < left[2] <= 60
        with pytest.raises(UserError, match="seconds above 0"):
            store.put("d", 1, ttl=0)


def test_too_few_connections_are_no_outage(private):
    """More threads than an address allows connections for cost some lookups, and the cache goes on."""
    redis = pytest.importorskip("redis")
    if not hasattr(redis.exceptions, "MaxConnectionsError"):
        pytest.skip("this redis-py does not tell too few connections from none")
    with stores.Redis(f"{private.url}?max_connections=1", timeout_s=2) as store:
        store.put("k", 1)
        held = store._client.connection_pool.get_connection()
        assert store.get("k") is MISS and not store.outage
        store._client.connection_pool.release(held)
        assert store.get("k") == 1


def test_a_private_server_starts_again_and_ends_with_who_had_it(tmp_path):
    """One that was closed can be started again; one that is forgotten is ended."""
    pytest.importorskip("redis")
    if stores.program() is None:
        pytest.skip("no redis-server is installed here")
    server = stores.PrivateServer(mib=8, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    server.close()
    assert not list(tmp_path.iterdir())
    server.start()
    with stores.Redis(server.url, timeout_s=2) as store:
        store.put("k", 1)
        assert store.get("k") == 1
        process = server._process
        del server
        assert process.wait(10) == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_a_private_server_keeps_strangers_out(private):
    """Without the password that is in its address, a private server answers nothing."""
    import redis

    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=private.port, retry=None).get("k")
    with stores.Redis(f"redis://:wrong@127.0.0.1:{private.port}/0") as store:
        assert store.get("k") is MISS and "wrong" not in store.outage.partition("(")[0] and store.outage


@pytest.mark.parametrize("url", ["redis://:pa/ss@h:6379/0", "redis://:sec#ret@h:6379/0", "redis://:a?b@h:1/0"])
def test_no_piece_of_a_password_is_told(url):
    """A password with characters that must be escaped is answered by how to, and by none of its pieces."""
    pytest.importorskip("redis")
    with pytest.raises(UserError, match="%2F %23 %3F") as told:
        stores.Redis(url)
    assert not [piece for piece in ("pa", "sec", "a?b") if f"'{piece}" in str(told.value)]


@pytest.mark.parametrize(
    "url", ["redis://a..b:6379", "localhost:6379", "http://x", "redis://host:port/0", "redis://host/0?timeuot=1"]
)
def test_an_address_that_is_none_is_told(url):
    """An address that is not one of a Redis is the user's mistake, and is told at once."""
    pytest.importorskip("redis")
    with pytest.raises(UserError, match="no address"):
        stores.Redis(url)


def test_options_of_an_address(caplog):
    """An option that would make texts of bytes is refused, and a password among the options is not shown."""
    pytest.importorskip("redis")
    with pytest.raises(UserError, match="entries are bytes"):
        stores.Redis("redis://host/0?decode_responses=True")
    with stores.Redis("redis://127.0.0.1:1/0?password=secret") as store:
        assert store.get("k") is MISS and "secret" not in store.outage + caplog.text
    with pytest.raises(UserError) as raised:
        stores.Redis("redis://host/0?password=secret&timeuot=1")
    assert "secret" not in str(raised.value) and "timeuot" in str(raised.value)


def test_mistakes_are_told(tmp_path):
    """Each mistake that a user can make says what was got and what to give."""
    with pytest.raises(UserError, match="items=None and mib=None"):
        in_memory.own()
    with pytest.raises(UserError, match="there are LRU"):
        in_memory.own("LRUU", items=3)
    store = in_memory.own(items=3)
    for ttl in (0, -1, float("nan")):
        with pytest.raises(UserError, match="seconds above 0"):
            store.put("k", 1, ttl=ttl)
    with pytest.raises(UserError, match="first_ttl=0"):
        stores.Tiered(store, store, first_ttl=0)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "c", tmp_path):
        with pytest.raises(UserError, match="folder"):
            stores.SQLite(path)
    with pytest.raises(UserError, match="folder"):
        stores.LMDB(tmp_path / "file")
    with pytest.raises(UserError, match="empty"), stores.SQLite(tmp_path / "c") as disk:
        disk.get("")
