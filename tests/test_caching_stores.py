"""Caching: what is stored comes back or is missed, whatever happens to disk, server and bytes; keys differ."""

import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest

from kit.common import services
from kit.errors import UserError
from kit.techniques.caching import stores, variants, workload

VALUES = {
    "a number": 3.25,
    "text": "Füße 🦶",
    "bytes": b"\x00\xff",
    "an array": np.arange(12, dtype=np.float32).reshape(3, 4),
    "an empty array": np.empty((0, 7), np.int64),
    "times": np.array(["2013-01-01", "NaT"], "datetime64[ns]"),
    "all together": {"label": "pdf", "scores": [1.5, None, True], "nested": {"deep": [b"x"]}},
}


@pytest.fixture(scope="module")
def server():
    """A private server and its URL."""
    running, url, why = stores.redis_server(mib=32)
    if running is None:
        pytest.skip(why)
    with running:
        yield running, url


@pytest.fixture(params=["memory", "cachetools", "sqlite", "lmdb", "redis"])
def store(request, tmp_path):
    """A store of each kind."""
    made = {
        "memory": lambda: stores.in_memory("SIEVE", 1_000),
        "cachetools": lambda: stores.by_cachetools(1_000),
        "sqlite": lambda: stores.SQLite(tmp_path / "new" / "cache.sqlite"),
        "lmdb": lambda: stores.LMDB(tmp_path / "new" / "lmdb", mib=16),
        "redis": lambda: stores.Redis(request.getfixturevalue("server")[1], prefix=f"{tmp_path}:", timeout_s=30),
    }[request.param]()
    yield made
    made.close()


def same(a, b) -> bool:
    if isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


def test_what_is_stored_comes_back(store):
    """A cached answer equals the one stored in value, type and shape, in every store; None is never stored."""
    for name, value in VALUES.items():
        key = stores.key("1", name)
        assert store.get(key) is None
        store.set(key, value)
        assert same(store.get(key), value), name
    store.set(b"none", None)
    assert store.get(b"none") is None
    store.set(stores.key("1", "text"), "new")
    assert store.get(stores.key("1", "text")) == "new"
    store.clear()
    assert store.get(stores.key("1", "text")) is None and not store.errors


def test_a_caller_cannot_change_the_cache(store):
    """Who changes an answer after storing it, or the one found, does not change the next answer."""
    array, listed = np.arange(3.0), [1, 2]
    store.set(b"array", array)
    store.set(b"list", listed)
    array[0] = listed[0] = 9
    store.get(b"list").append(3)
    with pytest.raises(ValueError, match="read-only"):
        store.get(b"array")[1] = 9
    assert store.get(b"array").tolist() == [0, 1, 2] and store.get(b"list") == [1, 2]


def test_no_store_unpickles(store):
    """What would run code when it is read is refused; bytes of a pickle in the store are a miss, and run nothing."""
    for value in (object(), 1j, np.array([object()]), 2**70, "\ud800"):
        with pytest.raises(UserError, match=r"cannot store this without pickle: .*; give numbers, text or arrays"):
            store.set(b"k", value)
    for raw in (pickle.dumps(np.arange(3)), b"", b"\xc1", stores.encode(np.arange(99))[:50]):
        store._write(b"k", raw)
        assert store.get(b"k") is None
    assert store.errors["damaged entry"] == 4


def test_threads_share_a_store(store):
    """Threads that write and read at once lose nothing and see only whole answers."""
    wrong = []

    def use(number):
        for turn in range(40):
            key = stores.key("1", (number, turn % 8))
            store.set(key, np.full(100, number))
            found = store.get(key)
            wrong.append(found is None or (found != number).any())

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(wrong) == 160 and not any(wrong) and not store.errors


@pytest.mark.parametrize("kind", ["SQLite", "LMDB"])
def test_a_disk_store_outlives_its_process(kind, tmp_path):
    """What a process stored that was killed by SIGKILL is there for the next one."""
    code = (
        f"from kit.techniques.caching import stores; import os\n"
        f"store = stores.{kind}({str(tmp_path / 'cache')!r})\n"
        "for number in range(100): store.set(stores.key('1', number), number)\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    store = getattr(stores, kind)(tmp_path / "cache")
    assert [store.get(stores.key("1", number)) for number in range(100)] == list(range(100))
    store.close()


def test_a_full_or_damaged_disk_store_costs_hits_only(tmp_path):
    """A full LMDB loses writes and keeps its answers; of a damaged SQLite file every lookup is a miss."""
    full = stores.LMDB(tmp_path / "lmdb", mib=1)
    for number in range(40):
        full.set(stores.key("1", number), np.zeros(8_000))
    assert full.errors["the map is full"] > 0 and full.get(stores.key("1", 0)).shape == (8_000,)
    full.close()
    (tmp_path / "damaged").write_bytes(b"no database" * 1_000)
    damaged = stores.SQLite(tmp_path / "damaged")
    damaged.set(b"k", 1)
    assert damaged.get(b"k") is None and damaged.errors["file is not a database"] > 1


def test_a_stopped_server_costs_no_answer(server):
    """With the server killed in the middle every answer is right, lookups do not wait, and hits come back with it."""
    running, url = server
    work = workload.waiting(0)
    store = stores.Redis(url, prefix="outage:", timeout_s=30, retry_s=0.05)
    hits = []
    for turn in range(60):
        if turn == 20:
            running.kill()
        if turn == 40:
            running.start()
            time.sleep(0.1)
        found = variants.answer(work, store, turn % 5)
        assert found.value.tolist() == [turn % 5]
        hits.append(found.hit)
    assert sum(hits[:20]) == 15 and not any(hits[20:40]) and sum(hits[40:]) == 15 and store.errors.total() >= 1


def test_the_private_server_is_private(server):
    """Without its password nobody reads it, and its command line does not show it."""
    import psutil
    import redis

    running, url = server
    password = url.split(":")[2].split("@")[0]
    assert password not in " ".join(psutil.Process(running.pid).cmdline())
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(f"redis://127.0.0.1:{running.port}").get("k")


def test_a_server_that_is_not_there_is_told(monkeypatch):
    """No server at the address, an address that is none, and no program for a private one: each in one sentence."""
    with pytest.raises(UserError, match=r"no server answers at redis_url= .ConnectionError."):
        stores.Redis(f"redis://:secret@127.0.0.1:{services.free_port()}/0")
    with pytest.raises(UserError, match=r"no server answers at redis_url= .ValueError."):
        stores.Redis("localhost")
    monkeypatch.setenv("PATH", "")
    server, url, why = stores.redis_server()
    assert (server, url) == (None, "") and "is not installed; apt-get install redis-server, or give redis_url=" in why


INPUTS = [
    1, 1.0, True, None, "1", b"1", [1], {"a": 1}, {"a": [1]}, [[1], []], [[], [1]], "ab", ["a", "b"], np.float32(1),
    np.array([1]), np.array([1], np.int8), np.array([[1]]), np.array([1.0]), np.array(["1"]), [np.array([1])],
]  # fmt: skip


def test_different_inputs_and_versions_have_different_keys():
    """Inputs that differ in value, type, shape or nesting differ in key, and so do versions; a dict's order and an
    array's layout in memory do not matter."""
    made = [stores.key(version, inputs) for inputs in INPUTS for version in ("1", "2")]
    assert len(set(made)) == len(made) and {len(one) for one in made} == {16}
    assert stores.key("1", {"a": 1, "b": 2}) == stores.key("1", {"b": 2, "a": 1})
    array = np.arange(6).reshape(2, 3)
    assert stores.key("1", array) == stores.key("1", np.asfortranarray(array)) != stores.key("1", array.T)


def test_stores_are_opened_in_each_process():
    """What opens a store can be sent to a worker."""
    import cloudpickle

    store = cloudpickle.loads(cloudpickle.dumps(partial(stores.in_memory, "S3-FIFO", 10)))()
    store.set(b"k", 1)
    assert store.get(b"k") == 1
