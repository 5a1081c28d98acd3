"""Layers of caches before real work: equal answers, nothing from an old model, and honest sums of what they save."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kit import Comparison
from kit.errors import UserError
from kit.techniques.caching import stores, traces
from kit.techniques.caching.layers import cached, dataset, prefix, serving, staleness, work
from kit.techniques.caching.stores import in_memory, operations, rates

ITEMS = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small ONNX model: scores of three classes, of eight numbers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype("f4"), name)
        for name, shape in {"w": (8, 32), "v": (32, 3)}.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["scores"]),
    ]
    places = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])]
        for name, size in (("x", 8), ("scores", 3))
    ]
    graph = helper.make_graph(nodes, "small", *places, weights)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(ITEMS, 8)).astype("f4")}


TRACE = np.random.default_rng(2).zipf(1.5, 400) % ITEMS


# Predictions and features


def test_variants_behind_a_cache_answer_as_without_one(model, inputs, tmp_path):
    """In a real comparison each variant's answers equal the uncached ones, and each proves its hits."""
    asked = cached.Requests(partial(work.prediction, model, inputs), TRACE, warm=100, a_reading=20)
    comparison = Comparison("prediction", baseline="no cache", size=ITEMS, unit="items", seconds=0.3, max_rounds=10)
    comparison.variant("no cache", cached.Cached())
    comparison.variant("lru_cache", cached.Memoized(20))
    comparison.variant("SIEVE", cached.Cached(partial(in_memory.own, "SIEVE", items=20)))
    comparison.variant("SQLite", cached.Cached(partial(stores.SQLite, tmp_path / "c.sqlite")))
    result = comparison.run(asked)
    for name in ("lru_cache", "SIEVE", "SQLite"):
        assert result[name].verdict not in ("failed", "invalid", "skipped"), result[name]
    assert result.record.points[0].variants[2].engagement.facts["hits"] > 0


def test_answers_that_are_known_are_not_worked_out_again(model, inputs):
    """A cache is filled with the answers that are known; only what is missing among them is worked out."""
    real, worked_out = work.prediction(model, inputs), []

    def opening():
        return replace(real, answer=lambda item: worked_out.append(item) or real.answer(item))

    known = {item: real.answer(item) for item in set(TRACE[:100].tolist()) - {int(TRACE[0])}}
    for variant in (cached.Cached(partial(in_memory.own, items=ITEMS)), cached.Memoized(ITEMS)):
        prepared = variant(cached.Requests(opening, TRACE, warm=100, a_reading=20, known=known))
        assert worked_out == [TRACE[0]]
        missed = set(TRACE[100:120].tolist()) - set(TRACE[:100].tolist())
        prepared.call()
        assert set(worked_out[1:]) == missed
        worked_out.clear()
        prepared.close()


def test_a_cache_that_answers_nothing_is_no_technique(model, inputs):
    """A cache without a hit is said to have fallen back to working everything out."""
    asked = cached.Requests(partial(work.prediction, model, inputs), np.arange(ITEMS), warm=10, a_reading=5)
    prepared = cached.Cached(partial(in_memory.own, items=1))(asked)
    prepared.call()
    assert prepared.engagement().state == "fell back"
    prepared.close()


@pytest.mark.parametrize("kind", ["memory", "disk", "lru_cache"])
def test_all_readings_are_of_the_same_hits(kind, model, inputs, tmp_path):
    """Each reading has the hits that a cache has after the requests that go ahead, whatever was asked before."""
    asked = cached.Requests(partial(work.prediction, model, inputs), TRACE, warm=60, a_reading=40)
    variant = {
        "memory": cached.Cached(partial(in_memory.own, items=8)),
        "disk": cached.Cached(partial(stores.SQLite, tmp_path / "c")),
        "lru_cache": cached.Memoized(8),
    }[kind]
    lru, hits = in_memory.own(items=8 if kind != "disk" else 1000), 0
    for place, item in enumerate(TRACE[:100].tolist()):
        hits += lru.fetch(str(item), lambda place=place: place) != place and place >= 60
    for _ in range(2):  # a second process finds what the first one left on the disk
        prepared = variant(asked)
        readings = [prepared.call() for _ in range(3)]
        assert [reading.metrics["hit_ratio"] for reading in readings] == [hits / 40] * 3
        readings[-1].answer()
        prepared.close()


@pytest.mark.parametrize("write", [work.quantized, work.disturbed])
def test_a_new_model_is_not_answered_for_by_the_old(write, model, inputs, tmp_path):
    """With the version in the key no answer is the old model's; without it they are, and are counted."""
    old = work.prediction(model, inputs)
    new = work.prediction(write(model, tmp_path / "new.onnx"), inputs)
    with stores.SQLite(tmp_path / "with") as store:
        right = cached.wrong_after_change(old, new, store, TRACE, versioned=True)
    with stores.SQLite(tmp_path / "without") as store:
        wrong = cached.wrong_after_change(old, new, store, TRACE, versioned=False)
    assert (right.answers, right.decisions) == (0, 0) and right.from_cache > 0
    assert wrong.answers > 0.9 * len(TRACE) and wrong.from_cache == wrong.requests == len(TRACE)


def test_weights_beside_the_model_are_part_of_its_version(model, tmp_path):
    """A model with its weights in another file, of its graph or inside a node's, is another with other weights."""
    import onnx
    from onnx import TensorProto, helper

    inner = onnx.load(model).graph
    flag = helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["flag"], ["out"], then_branch=inner, else_branch=inner)
    nested = helper.make_model(helper.make_graph([flag, choice], "nested", [], []))
    for name, loaded in (("plain", onnx.load(model)), ("nested", nested)):
        path = tmp_path / f"{name}.onnx"
        onnx.save(
            loaded, path, save_as_external_data=True, location=f"{name}.data", size_threshold=0, convert_attribute=True
        )
        before = work.content(path)
        weights = bytearray((tmp_path / f"{name}.data").read_bytes())
        assert work.content(path) == before != stores.content(path)
        weights[5] ^= 1
        (tmp_path / f"{name}.data").write_bytes(weights)
        assert work.content(path) != before
    assert work.content(model) == stores.content(model)


def test_a_miss_and_a_hit_are_alike():
    """Behind a cache the answer that was worked out can be changed no more than one that was found."""
    ask = cached.Behind(work.waiting(0), in_memory.own(items=9))
    assert [ask(3).flags.writeable for _ in range(2)] == [False, False] and (ask.misses, ask.hits) == (1, 1)


def test_a_stopped_server_costs_no_answer(model, inputs):
    """With the server gone in mid-run every answer is still right."""
    pytest.importorskip("redis")
    if stores.program() is None:
        pytest.skip("no redis-server is installed here")
    real = work.prediction(model, inputs)
    with stores.PrivateRedis(retry_s=0.02, timeout_s=1) as store:
        ask = cached.Behind(real, store)
        for turn, item in enumerate(TRACE[:300].tolist()):
            if turn == 100:
                store.server.kill()
            if turn == 200:
                store.server.start()
            assert np.array_equal(ask(item), real.answer(item))
        assert ask.hits > 0 and store.troubles["server gone"] >= 1


def test_features_of_aircraft_come_from_their_flights():
    """An aircraft's features are those of its flights, and the trace is that of the departures as scheduled."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path, aircraft, trace = work.departures()
    assert len(trace) == 334_264 and trace.max() + 1 == len(aircraft) == 4_043
    assert np.array_equal(trace, traces.tail_numbers().keys)
    made = work.features(path, aircraft)
    table = pq.read_table(path, columns=["tailnum", "dep_delay", "dest"])
    for item in (0, 17):
        own = table.filter(pc.equal(table["tailnum"], aircraft[item]))
        found = made.answer(item)
        assert found.shape == (8,) and found[0] == own.num_rows == (trace == item).sum()
        assert found[1] == pytest.approx(pc.mean(own["dep_delay"]).as_py())
        assert found[5] == pc.count_distinct(own["dest"]).as_py()
    made.close()


# What users wait for


def test_a_cache_keeps_up_where_the_work_alone_does_not():
    """At a rate above what the work can answer, latency grows without a cache and does not with one; the sums agree."""
    slow = work.waiting(0.004, ITEMS)
    rate = 1.5 * serving.capacity(slow, TRACE)
    alone = serving.serve(slow, TRACE[:200], rate)
    behind = serving.serve(slow, TRACE[:200], rate, in_memory.own(items=ITEMS))
    assert np.array_equal(alone.due, behind.due) and not alone.hit.any()
    assert behind.hit_ratio == 1 - len(set(TRACE[:200].tolist())) / 200
    assert alone.busy > 1 > behind.busy
    assert alone.latency(0.99) > 3 * behind.latency(0.99)
    assert alone.latency_s[-20:].mean() > 3 * alone.latency_s[:20].mean()
    worth = behind.worth
    assert worth.hit_s < worth.compute_s and 0 < worth.break_even < worth.hit_ratio
    spent = (behind.lookup_s + behind.compute_s + behind.put_s).mean()
    assert worth.saved_s == pytest.approx(worth.compute_s - spent)


def test_break_even_is_where_nothing_is_saved():
    """At the break-even hit ratio a cache saves nothing, above it something; work as fast as a lookup never pays."""
    costs = {"hit_s": 2e-6, "miss_s": 1e-6, "put_s": 5e-6, "compute_s": 1e-3}
    even = serving.Worth(hit_ratio=0, **costs).break_even
    assert even == pytest.approx((1 + 5) / (1000 + 6 - 2))
    assert serving.Worth(hit_ratio=even, **costs).saved_s == pytest.approx(0, abs=1e-12)
    assert serving.Worth(hit_ratio=1.01 * even, **costs).saved_s > 0
    assert serving.Worth(0.9, hit_s=1e-5, miss_s=1e-5, put_s=1e-5, compute_s=1e-6).break_even > 1
    assert serving.Worth(0.9, hit_s=1e-3, miss_s=0, put_s=0, compute_s=1e-6).break_even == float("inf")


def test_stores_take_turns_and_answer_the_same_requests(tmp_path):
    """Each store answers the whole trace, a part after the other, with the hits that it would have alone."""
    with in_memory.own(items=ITEMS) as memory, stores.SQLite(tmp_path / "c") as disk:
        found = serving.in_turn(work.waiting(0.0, ITEMS), TRACE[:205], {"memory": memory, "disk": disk})
    first = [item not in TRACE[:place] for place, item in enumerate(TRACE[:205])]
    for one in found.values():
        assert np.array_equal(~one.hit, first) and len(one.lookup_s) == len(one.due) == 205
        assert (np.diff(one.due) > 0).all() and (one.lookup_s[one.hit] > 0).all()


def test_arrivals_are_poisson():
    """Gaps between arrivals have the mean and the spread of a Poisson process."""
    gaps = np.diff(serving.arrivals(50, 20_000))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03) and gaps.std() == pytest.approx(1 / 50, rel=0.05)


# Prepared data


@pytest.fixture
def source(tmp_path) -> dataset.Source:
    return dataset.flights(2_000, tmp_path)


@pytest.mark.parametrize("name", dataset.VARIANTS)
def test_prepared_data_are_those_of_the_csv(name, source):
    """What each cache hands over is what parsing and preparing gives, to the bit, now and when opened again."""
    wanted = dataset.from_csv(source.csv)
    assert wanted.dtype == np.float32 and wanted.shape[1] == 8 and len(wanted) > 1_900
    for _ in range(2):
        prepared = dataset.VARIANTS[name](source)
        reading = prepared.call()
        assert reading.seconds > 0 and np.array_equal(reading.answer(), wanted)
        assert prepared.engagement().state == "engaged"


@pytest.mark.parametrize("name", [".npy", "Arrow IPC", "Parquet", "memory", "joblib Memory"])
def test_a_changed_csv_is_prepared_anew(name, source):
    """After the CSV has changed nobody is handed what was made of the old one."""
    dataset.VARIANTS[name](source)
    lines = source.csv.read_text().splitlines(keepends=True)
    source.csv.write_text("".join(lines[:500]))
    assert np.array_equal(dataset.VARIANTS[name](source).call().answer(), dataset.from_csv(source.csv))


@pytest.mark.parametrize("part", ["from_csv", "prepare", "_rows"])
def test_data_prepared_by_other_code_are_prepared_anew(part, source, monkeypatch):
    """Whichever function has a part in the prepared data changes their version when it changes."""
    before = source.version

    def other(*values):
        return values

    monkeypatch.setattr(dataset, part, other)
    assert source.version != before
    monkeypatch.undo()
    monkeypatch.setattr(dataset, "COLUMNS", [*dataset.COLUMNS, "carrier"])
    assert source.version != before


def test_a_csv_that_changed_within_a_tick_of_the_clock_is_prepared_anew(source):
    """The version is the content's: a file of the same length and time is noticed, an unchanged one that was touched
    is not."""
    before, stat = source.version, source.csv.stat()
    os.utime(source.csv, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert source.version == before
    raw = bytearray(source.csv.read_bytes())
    raw[-10] ^= 1
    source.csv.write_bytes(raw)
    os.utime(source.csv, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source.version != before


@pytest.mark.parametrize("damage", ["flip", "cut", "lost checksum"])
@pytest.mark.parametrize("name", [".npy", "Arrow IPC", "Parquet"])
def test_a_damaged_file_is_made_again(name, damage, source):
    """A file that was cut, flipped or lost its checksum is noticed on opening, and made again."""
    prepared = dataset.VARIANTS[name](source)
    wanted = np.array(prepared.call().answer())
    (folder,) = (one for one in source.folder.iterdir() if one.is_dir())
    file = next(one for one in folder.iterdir() if one.name != "crc32")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    new = {"flip": bytes(raw), "cut": bytes(raw[: len(raw) // 3]), "lost checksum": bytes(raw)}[damage]
    os.replace(file, file.with_name("old"))  # what is mapped must not change below who reads it
    file.write_bytes(new)
    if damage == "lost checksum":
        (folder / "crc32").write_bytes(b"\xff")
    assert np.array_equal(dataset.VARIANTS[name](source).call().answer(), wanted)


# Prefixes of prompts


def test_prompts_that_begin_alike_share_their_beginning():
    """A prompt's blocks are known as far as an earlier one was the same, its last token excepted."""
    head = np.arange(64, dtype=np.int32)
    prompts = prefix.Prompts([head, head, np.append(head, [1, 2]), np.append(head[:32], head[:32])], "")
    found = prefix.simulate(prompts, 1000, us_a_token=10)
    assert found.tokens == 64 + 64 + 66 + 64
    assert found.known == 0 + 48 + 64 + 32  # the second would be all known, but its last token must be read
    assert found.saved_s == pytest.approx(found.known * 10e-6) and found.hit_ratio == found.known / found.tokens


def test_a_larger_prefix_cache_saves_no_less_up_to_all_that_is_shared():
    """The hit ratio grows with the cache up to the share of tokens that were seen before; nothing fits in one block."""
    prompts = prefix.conversations(60, seed=3)
    found = prefix.curve(prompts, [1, 100, 1_000, 10_000, 10**9])
    ratios = [one.hit_ratio for one in found]
    assert ratios == sorted(ratios) and ratios[0] < 0.01 and ratios[-1] > 0.5
    seen, known = set(), 0
    for prompt in prompts.tokens:
        chain = list(prefix.blocks(prompt))
        usable = (len(prompt) - 1) // prefix.BLOCK
        known += prefix.BLOCK * min(usable, sum(block in seen for block in chain))
        seen |= set(chain)
    assert found[-1].known == known


# Time to live


def test_time_to_live_yields_what_theory_says():
    """Of Poisson requests a ttl of T serves λT / (1 + λT) from the cache, aged T / 2 in the mean, and so many stale."""
    random = np.random.default_rng(5)
    times = np.cumsum(random.exponential(0.1, 50_000))
    trace = traces.of("Poisson", random.integers(0, 5, 50_000), times)  # two requests a second for each object
    for one in staleness.freshness(trace, [0.5, 2, 10], changes_every_s=20):
        served = 2 * one.ttl_s / (1 + 2 * one.ttl_s)
        assert one.hit_ratio == pytest.approx(served, abs=0.01)
        assert one.mean_age_s == pytest.approx(one.ttl_s / 2, rel=0.03)
        fresh = 20 / one.ttl_s * (1 - np.exp(-one.ttl_s / 20))
        assert one.stale == pytest.approx(served * (1 - fresh), rel=0.05)
        assert one.loads_per_s == pytest.approx(10 * (1 - served), rel=0.03)


def test_a_longer_time_to_live_hits_more_and_is_staler():
    """On the real departures a longer time to live has more hits, older answers and more that are stale."""
    found = staleness.freshness(traces.tail_numbers(), [3600, 24 * 3600, 7 * 24 * 3600], changes_every_s=24 * 3600)
    for name in ("hit_ratio", "mean_age_s", "stale"):
        values = [getattr(one, name) for one in found]
        assert values == sorted(values) and values[0] < values[-1]


# Operations and weight


@pytest.mark.parametrize("operation", operations.OPERATIONS)
@pytest.mark.parametrize(("threads", "processes"), [(2, 1), (1, 2)])
def test_operations_of_a_store_do_what_they_should(operation, threads, processes, tmp_path):
    """Under threads and under processes each operation finds what it should, and is told with its rate."""
    variant = operations.Operating(partial(stores.SQLite, tmp_path / "c"), threads, processes)
    prepared = variant(operations.Load(operation, items=20))
    reading = prepared.call()
    assert reading.answer == 1.0
    assert reading.metrics["operations_per_s"] == pytest.approx(1 / reading.seconds)
    assert reading.metrics["operations_per_s"] > 2 * operations.BETWEEN_LOOKS
    assert prepared.engagement().facts["processes"] == processes
    prepared.close()


def test_rates_are_of_every_operation_store_and_kind_of_user(tmp_path):
    """Each store has its rates by threads, a shared one by processes too; one that loses what it is given is told."""

    class Forgetful(in_memory.InMemory):
        def put(self, key, value, ttl=None):
            pass

    def openings(operation):
        return {
            "memory": partial(in_memory.own, items=50),
            "SQLite": partial(stores.SQLite, tmp_path / operation / "c"),
            "forgetful": lambda: Forgetful(in_memory.own(items=50)._held),
        }

    found = rates.rates(openings, operations.Load(items=20, seconds=0.003), seconds=0.2)
    users = {store: [(one.operation, one.users) for one in found if one.store == store] for store in openings("put")}
    threads = [(operation, many) for operation in operations.OPERATIONS for many in rates.THREADS]
    assert users["memory"] == users["forgetful"] == threads
    assert len(users["SQLite"]) == 9 and ("put", "2 processes") in users["SQLite"]
    assert all(len(one.readings) >= 5 and min(one.readings) > 0 for one in found)
    assert all(one.interval[0] <= one.per_s <= one.interval[1] for one in found)
    wrong = {(one.store, one.operation) for one in found if one.right < 1}
    assert wrong == {("forgetful", "get hit"), ("forgetful", "put")}


def test_a_store_that_mixes_up_its_values_is_found_out():
    """Each key has a value of its own, and a store that answers with another's is not right."""

    class Mixed(in_memory.InMemory):
        def find(self, key):
            return super().find(sorted(self._held._held)[0])

    prepared = operations.Operating(lambda: Mixed(in_memory.own(items=100)._held))(operations.Load(items=20))
    assert prepared.call().answer < 0.5
    prepared.close()


def test_an_items_weight_is_at_least_its_value():
    """An entry in memory weighs its value and some more, in the process and by the store's own account."""
    weight = operations.weigh(lambda: in_memory.own(items=10**6), items=20_000, value_bytes=2_000)
    assert 2_000 < weight.in_process < 4_000 and 2_000 < weight.in_store < 4_000


def test_mistakes_are_told(model, inputs):
    """Each mistake that a user can make says what was got and what to give."""
    mistakes = {
        "too short for 400": lambda: cached.Requests(partial(work.waiting, 0), TRACE, warm=400),
        "no operation is called 'got'": lambda: operations.Load("got"),
        "one too many": lambda: operations.Operating(in_memory.own, 2, 2)(operations.Load()),
        "have no rates": lambda: rates.rates(lambda _: {}, operations.Load()),
        "too few": lambda: operations.weigh(in_memory.own, items=10),
        "rate=0": lambda: serving.arrivals(0, 10),
        "hits and misses": lambda: serving.serve(work.waiting(0), TRACE[:9], 1e6).worth,
        "0 blocks": lambda: prefix.simulate(prefix.conversations(2), 0),
        "from 1 on": lambda: prefix.conversations(0),
        "no time that work": lambda: work.waiting(-1),
        "has no times": lambda: staleness.freshness(traces.scan(10, 3), [1], 1),
        "all have one time": lambda: staleness.freshness(traces.of("t", [1, 2], [3, 3]), [1], 1),
        "a ttl of 0": lambda: staleness.freshness(traces.of("t", [1, 2], [0, 1]), [0], 1),
    }
    for words, mistake in mistakes.items():
        with pytest.raises(UserError, match=words):
            mistake()


# What share of the machine's best


def test_a_prediction_is_held_against_its_products(model, inputs):
    """A sample through weights of 8 × 32 and 32 × 3 takes twice as many operations as there are weights."""
    bound = work.prediction(model, inputs).bound()
    assert (bound.name, bound.amount * 1e9) == ("matrix_product_fp32_gflop_per_s", pytest.approx(2 * (8 * 32 + 32 * 3)))


def test_behind_a_cache_only_what_missed_must_be_worked_out():
    """The least work of a request is the answer's own, times the share of requests that missed."""
    trace = np.array([0, 1, 2, 3, 0, 1, 2, 9])  # of the last four, one has not been asked for before
    asked = cached.Requests(partial(work.waiting, 0.001), trace, warm=4, a_reading=4)
    alone, behind = cached.Cached()(asked), cached.Cached(partial(in_memory.own, items=10))(asked)
    for prepared in (alone, behind):
        prepared.call()
    assert alone.ceiling().amount == 0.001
    assert behind.ceiling().amount == pytest.approx(0.25 * 0.001)
    assert "25 % of requests" in behind.ceiling().note


def test_where_all_hit_only_the_value_is_handed_over():
    """Without a miss no work is necessary, and the value's bytes are all that is left."""
    asked = cached.Requests(partial(work.waiting, 0.0), np.zeros(8, int), warm=4, a_reading=4)
    for variant in (cached.Cached(partial(in_memory.own, items=10)), cached.Memoized(10)):
        prepared = variant(asked)
        prepared.call()
        assert prepared.ceiling().amount * 2**30 == np.array([0]).nbytes


def test_stores_are_held_against_what_they_must_move(tmp_path):
    """A hit moves its value's bytes, one on a server here takes a round trip, side by side with the other users'."""
    load = operations.Load(value_bytes=800, items=5, seconds=0.001)
    openings = {
        "memory": partial(in_memory.own, items=10),
        "disk": partial(stores.SQLite, tmp_path / "one.sqlite"),
        "server": partial(stores.Redis, "redis://:secret@127.0.0.1:1/0"),
        "elsewhere": partial(stores.Redis, "redis://cache.example:6379/0"),
    }
    found = {}
    for name, opening in openings.items():
        prepared = operations.Operating(opening, threads=2)(load)
        found[name] = prepared.ceiling()
        prepared.close()
    assert found["memory"].amount == found["disk"].amount == 800 / 2**30
    assert (found["server"].name, found["server"].amount) == ("loopback_round_trips_per_s", 0.5)
    assert found["elsewhere"] is None
    prepared = operations.Operating(openings["memory"])(replace(load, operation="get miss"))
    assert prepared.ceiling().amount == 0  # nothing is found: no share is told
    prepared.close()


def test_prepared_data_are_held_against_a_pass_over_them(source):
    """Whatever keeps it, the matrix is read once; without a cache the CSV is read too."""
    matrix = dataset.from_csv(source.csv).nbytes
    assert dataset.in_npy(source).ceiling.amount == dataset.in_parquet(source).ceiling.amount == matrix / 2**30
    assert dataset.no_cache(source).ceiling.amount == (matrix + source.csv.stat().st_size) / 2**30
