"""Caching: traces as they are, work behind a cache with equal answers, costs that add up, and what goes wrong."""

import gzip
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from msgspec import structs
from record_factory import Made, make_record

from kit import Comparison, Result
from kit.common import datasets, load
from kit.errors import UserError
from kit.techniques.caching import checks, figures, stampede, stores, traces, variants, workload

KEYS = ["b", "a", "b", "c", "a", "b"]
TRACE = traces.of("zipf", np.random.default_rng(2).zipf(1.5, 2_000) % 40)


def test_flights_are_in_the_order_of_the_schedule():
    """Aircraft come as departures were scheduled, with their times."""
    trace = traces.tail_numbers()
    assert (len(trace), trace.objects, trace.keys.max()) == (334_264, 4_043, 4_042)
    assert trace.times[0] == 0 and (np.diff(trace.times) >= 0).all() and trace.times[-1] > 364 * 86_400
    last = trace.last(100_000)
    assert len(last) == len(last.times) == 100_000 and (last.keys == trace.keys[-100_000:]).all()
    assert "The last 100,000 requests" in last.note and last.last(200_000) is last


def test_texts_and_imports_have_an_order_of_their_own():
    """Words and imports repeat, and their shuffled order has the same counts."""
    for trace, least in ((traces.load("words"), 50_000), (traces.load("imports"), 2_000)):
        shuffled = traces.shuffled(trace)
        assert len(trace) > least and trace.objects < len(trace) / 5
        assert (np.bincount(trace.keys) == np.bincount(shuffled.keys)).all() and (trace.keys != shuffled.keys).any()


@pytest.mark.parametrize("exponent", [0, 0.7, 1.3])
def test_zipf_has_its_exponent(exponent):
    """The counts of the first ranks fall as 1 / rank ** exponent; a seed repeats."""
    counts = np.bincount(traces.zipf(exponent, 400_000, 1_000).keys)
    slope = -np.polyfit(np.log(np.arange(1, 101)), np.log(np.sort(counts)[::-1][:100]), 1)[0]
    assert slope == pytest.approx(exponent, abs=0.06)
    assert (traces.load("zipf 0.8").keys == traces.zipf(0.8).keys).all() and traces.load("scan").objects == 10_000


def test_popularity_is_the_share_of_the_requests_for_the_first_objects():
    """Of a, a, a, b, b, c half of the requests are for the first object, five of six for two."""
    chart = figures.popularity(traces.of("letters", list("abacab")))
    assert chart.series[0].x == [1, 2, 3] and chart.series[0].y == pytest.approx([50, 500 / 6, 100])
    assert chart.note == "Half of the 6 requests are for 1 of 3 objects."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One trace in many forms."""
    folder = tmp_path_factory.mktemp("traces")
    table = pa.table({"key": KEYS, "time": [0, 1, 2, 3, 4, 5], "size": [1, 2, 3, 4, 5, 6]})
    lines = {sep: "".join(f"{10 + n}{sep}{key}{sep}7\n" for n, key in enumerate(KEYS)) for sep in " ;\t"}
    (folder / "keys.txt").write_text("\n".join(KEYS) + "\n\n")
    (folder / "keys.txt.gz").write_bytes(gzip.compress("\r\n".join(KEYS).encode("utf-8-sig")))
    (folder / "header.txt").write_text("\n".join(["key", *KEYS]))
    pq.write_table(table, folder / "trace.parquet")
    pyarrow.csv.write_csv(table, folder / "trace.csv")
    (folder / "trace.tsv").write_text("key\ttime\n" + "".join(f"{key}\t{n}\n" for n, key in enumerate(KEYS)))
    (folder / "trace.ssv").write_text("user;at\n" + "".join(f"{key};{1000 * n}\n" for n, key in enumerate(KEYS)))
    (folder / "space.log").write_text(lines[" "])
    (folder / "semicolon.txt").write_text(lines[";"])
    (folder / "access.log").write_text(
        "".join(f'1.2.3.4 - - [10/Oct/2026:13:55:3{n} +0000] "GET /{key} HTTP/1.1" 200\n' for n, key in enumerate(KEYS))
    )
    (folder / "dates.csv").write_text(
        "key,time\n" + "".join(f"{key},2026-11-29 10:00:0{n}\n" for n, key in enumerate(KEYS))
    )
    return folder


READ = {
    "keys.txt": {},
    "keys.txt.gz": {},
    "header.txt": {},
    "trace.parquet": {"times": True},
    "trace.csv": {"times": True},
    "trace.tsv": {"times": True},
    "dates.csv": {"times": True},
    "trace.ssv": {"columns": ["user", "at"], "read_options": ["separator=;"], "time_unit": "ms", "times": True},
    "space.log": {"columns": ["2", "1"], "read_options": ["separator=space"], "times": True},
    "semicolon.txt": {
        "columns": ["2", "1"],
        "read_options": ["separator=semicolon", "encoding=latin-1"],
        "times": True,
    },
    "access.log": {"columns": ["6"], "read_options": ["separator=space"]},
}


@pytest.mark.parametrize("name", READ)
def test_your_own_trace_from_any_usual_file(folder, name):
    """Lines, CSV, Parquet, logs of several fields, compressed or not, give the same requests; the note shows three."""
    options = dict(READ[name])
    times = options.pop("times", False)
    trace = traces.load(str(folder / name), **options)
    assert (trace.name, trace.keys.tolist()) == (name, [0, 1, 0, 2, 1, 0])
    assert (trace.times is not None and trace.times.tolist() == [0, 1, 2, 3, 4, 5]) == times
    assert "First requests: " in trace.note and trace.note.count("a'") + trace.note.count("/a ") >= 1


def test_keys_are_taken_as_they_are_written(tmp_path):
    """What would be one number, no number or too long a number is a key of its own; a line may be a key with blanks."""
    keys = ["7", "007", "100", "1e2", "12345678901234567890", "12345678901234567891", "NA", "null", "nan", "true"]
    (tmp_path / "keys.csv").write_text("\n".join(["key,time", *(f"{key},{n}" for n, key in enumerate(keys))]))
    assert traces.load(str(tmp_path / "keys.csv")).keys.tolist() == list(range(len(keys)))
    (tmp_path / "lines.txt").write_text("new york\nold, york\nnew york\n")
    assert traces.load(str(tmp_path / "lines.txt"), read_options=["separator=line"]).keys.tolist() == [0, 1, 0]
    (tmp_path / "anonymous.csv").write_text("at,user\n1,ann\n2,-\n3,ann\n4,bob\n")
    seen = traces.load(str(tmp_path / "anonymous.csv"), ["2", "1"], read_options=["header=yes", "missing=-"])
    assert seen.keys.tolist() == [0, 0, 1] and "Left out: 1 requests without a key." in seen.note
    (tmp_path / "ticks.csv").write_text("key,time\n" + "".join(f"a,{128166372003061629 + n * 10**6}\n" for n in (0, 3)))
    trace = traces.load(str(tmp_path / "ticks.csv"), time_unit="ticks")
    assert trace.times == pytest.approx([0, 0.3], abs=1e-5) and "'a' at 12816637200.3 s" in trace.note
    assert traces.of("t", [1, "1"]).objects == traces.of("t", ["a", "a\0"]).objects == 2


DOUBTS = {
    "fields.txt": ("1 a 10\n2 b 10\n", {}, "may have several fields per line, as '1 a 10'; give separator=space"),
    "other.csv": ("id,at\n1,2\n", {}, "has no 'key'; give columns= by name or place: id, at"),
    "place.csv": ("1,a\n2,b\n", {"columns": ["3"]}, "has no '3'; give columns= .*: column 1, column 2"),
    "time.csv": ("key,at\na,1\n", {"columns": ["key", "tiem"]}, "no column 'tiem' of times; it has key, at"),
    "gap.csv": ("key,x\na,1\n,2\n", {}, "1 of 2 requests of .*gap.csv have no key; remove them"),
    "soon.csv": ("key,time\na,soon\n", {}, "the times of .*soon.csv are string, as soon; give numbers or dates"),
    "ms.csv": (f"key,time\na,{17 * 10**11}\nb,{17 * 10**11 + 1}\n", {}, "reach 538 centuries in s; give time_unit="),
    "none.csv": ("key,time\n", {}, "trace 'none.csv' has no requests"),
    "three.csv": ("key,time\na,1\n", {"columns": ["a", "b", "c"]}, "names 3 columns; name that of the key"),
    "unit.csv": ("key,time\na,1\n", {"time_unit": "hours"}, "time_unit='hours' is unknown"),
    "late.csv": ("key,time\na,1\nb,\n", {}, "needs a time for each of its 2 requests, or none"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_a_doubt_is_a_refusal(tmp_path, name):
    """Whatever could be understood in two ways, or not at all, is one sentence with the remedy."""
    content, options, message = DOUBTS[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        traces.load(str(tmp_path / name), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: traces.load("tale numbers"), "trace='tale numbers' is unknown; did you mean 'tail numbers'"),
        (lambda: traces.zipf(-1), "exponent=-1"),
        (lambda: traces.of("x", []), "has no requests"),
    ],
)
def test_impossible_traces_are_refused(make, message):
    """An unknown name, a negative exponent, missing keys and times: each in one sentence."""
    with pytest.raises(UserError, match=message):
        make()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small ONNX model with its inputs beside it: scores of three classes, of eight numbers."""
    import onnx
    from onnx import helper, numpy_helper

    random = np.random.default_rng(0)
    x, scores = (helper.make_tensor_value_info(*of) for of in (("x", 1, ["n", 8]), ("scores", 1, ["n", 3])))
    weights = numpy_helper.from_array(random.normal(size=(8, 3)).astype("f4"), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["scores"])], "small", [x], [scores], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(made, path)
    np.savez(path.with_suffix(".npz"), x=random.normal(size=(40, 8)).astype("f4"))
    return path


def test_features_are_those_of_an_aircrafts_flights():
    """An item's features come from its flights, in the trace's numbering; the version before lacks the last month."""
    flights, work = pq.read_table(datasets.flights()["flights"]).to_pandas(), workload.features()
    trace = work.trace()
    assert work.items == 4_043 == trace.objects
    for item in (0, 17):
        own = flights[flights["tailnum"] == work.inputs(item)]
        found = work.answer(item)
        assert found.shape == (8,) and found[0] == len(own) == (trace.keys == item).sum()
        assert found[1] == pytest.approx(own["dep_delay"].mean()) and found[5] == own["dest"].nunique()
    before = work.previous()
    assert before.version != work.version and before.previous is None
    assert sum(before.answer(item)[0] for item in range(20)) < sum(work.answer(item)[0] for item in range(20))


def test_magika_tells_files_by_its_own_input_rules():
    """The model sees the beginning and the end of a file, and takes files of Python's library for Python."""
    content = b"  \n" + bytes(range(65, 91)) * 200 + b"\n\n"
    found = datasets.magika_input(content)
    assert found.dtype == np.int32 and found.shape == (2048,) and found[0] == 65 and found[-1] == 90
    assert datasets.magika_input(b"ab")[[0, 1, 2, -3, -2, -1]].tolist() == [97, 98, 256, 256, 97, 98]
    work = workload.magika()
    assert work.items == work.trace().objects
    decisions = [work.decision(work.answer(item)) for item in range(10)]
    assert max(map(decisions.count, decisions)) >= 8


def test_a_model_of_your_own_and_its_inputs(model, tmp_path):
    """Answers are the model's; its version is the file's content; what is missing is told."""
    work = workload.opening(str(model))()
    inputs = np.load(model.with_suffix(".npz"))["x"]
    assert work.items == 40 and work.answer(3).shape == (3,) and (work.inputs(3)["x"] == inputs[3:4]).all()
    (tmp_path / "model.onnx").write_bytes(model.read_bytes())
    with pytest.raises(UserError, match=r"model\.npz does not exist .*; give the model's inputs there"):
        workload.opening(str(tmp_path / "model.onnx"))()
    np.savez(tmp_path / "model.npz", y=inputs)
    with pytest.raises(UserError, match=r"model\.npz lacks the model's input 'x'; it has y"):
        workload.opening(str(tmp_path / "model.onnx"))()


def test_weights_beside_the_model_are_part_of_its_version(model, tmp_path):
    """A model that is equal but for the weights in another file has another version."""
    import onnx

    np.savez(tmp_path / "model.npz", **np.load(model.with_suffix(".npz")))
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(onnx.load(model), tmp_path / "model.onnx", **options)
    before = workload.onnx_model(tmp_path / "model.onnx")
    assert before.version == workload.onnx_model(tmp_path / "model.onnx").version
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[3] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    after = workload.onnx_model(tmp_path / "model.onnx")
    assert after.version != before.version and (after.answer(0) != before.answer(0)).any()


def test_work_of_your_own(tmp_path, monkeypatch):
    """A function that returns `Work` is used; another result, and a version that never changes, are told."""
    (tmp_path / "serving.py").write_text(
        "from kit.techniques.caching.workload import Work\n"
        "def work(): return Work(5, lambda item: [item], lambda item: item, '1')\n"
        "def nothing(): return 3\n"
        "def forever(): return Work(5, lambda item: [item], lambda item: item, '')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert workload.opening("serving:work")().answer(3) == [3]
    for name, message in {"serving:nothing": "returns int", "serving:forever": "version=''; give a text"}.items():
        with pytest.raises(UserError, match=message):
            workload.opening(name)()
    with pytest.raises(UserError, match="work='feature' is unknown; did you mean 'features'"):
        workload.opening("feature")
    with pytest.raises(UserError, match="no requests belong to your work; give trace="):
        workload.trace_of(workload.opening("serving:work")())
    with pytest.raises(UserError, match="zipf has 40 objects, and your work 5; give its own trace"):
        workload.trace_of(workload.opening("serving:work")(), TRACE)


def asked(model, capacity=8, **options):
    opening = workload.opening(str(model))
    return workload.requests(opening, opening(), TRACE, capacity, measured=100, **options)


def test_the_measured_requests_hit_as_the_whole_trace_does(model):
    """The stretch that is measured has the hit ratios of the whole trace; the cache has the content of an LRU then."""
    found = asked(model)
    assert len(found.items) == 100 and found.later[:100] == found.items and len(found.later) == 500
    assert len(found.earlier) == len(set(found.earlier)) == 8
    setup = variants.cached(partial(stores.in_memory, "LRU", 8))(found)
    assert setup.call().metrics["hit_ratio"] == pytest.approx(found.hit_ratio, abs=0.02)
    replayed = asked(model, policies=("LRU", "SIEVE"), replay=500)
    assert len(replayed.earlier) == 500 and set(replayed.known) == set(replayed.later)
    with pytest.raises(UserError, match="has 2,000 requests; give 12 × requests=1000 at least"):
        workload.requests(found.work, found.work(), TRACE, 8, measured=1_000)
    with pytest.raises(UserError, match="hits nothing of trace 'once'"):
        workload.requests(found.work, found.work(), traces.of("once", np.arange(900)), 8, measured=50)


def test_answers_behind_a_cache_equal_those_without(model, tmp_path):
    """In a real comparison each variant's answers equal the uncached ones, each proves its hits, and costs add up; a
    cache that answers with other numbers is rejected."""
    comparison = Comparison("cache", baseline="no cache", size=8, time_budget_s=0.1, max_rounds=6, isolate=False)
    comparison.variant("no cache", variants.no_cache)
    comparison.variant("SIEVE", variants.cached(partial(stores.in_memory, "SIEVE", 8)))
    comparison.variant("SQLite", variants.cached(partial(stores.SQLite, tmp_path / "c.sqlite")))
    comparison.variant("wrong", variants.cached(Wrong))
    result = comparison.run(asked(model))
    for name in ("SIEVE", "SQLite"):
        found = result[name].variant
        assert found.check.state == "passed" and found.execution_proof.state == "verified", result[name]
        assert found.metrics["hit_ratio"] > 0.3 and found.execution_proof.facts["errors"] == 0
    assert result["wrong"].verdict == "rejected"
    rows = {row[0]: row for row in figures.costs(result).rows}
    assert set(rows) == {"SIEVE", "SQLite"} and all(min(row[1:4]) > 0 for row in rows.values())
    told = figures.claim(result, {})
    assert "✗ wrong: cached answers equal" in told and "✓ SIEVE: cached answers equal" in told


@pytest.mark.parametrize(
    ("low", "high", "mark"),
    [(4.9, 5.2, "✓"), (1.5, 1.6, "✗"), (9.0, 9.5, "✗"), (2, 20, "? inc"), (None, None, "? inc")],
)
def test_the_time_saved_is_held_against_the_hit_ratio_by_its_interval(low, high, mark):
    """At a hit ratio of 80 % a speed-up of 4 to 6.7 saves as much, within five points."""
    record = make_record({"no cache": Made(), "LRU": Made(ratio=5)}, sizes=[8])
    base, lru = record.points[0].variants
    effect = structs.replace(lru.effect, low=low, high=high)
    lru = structs.replace(lru, metrics={"hit_ratio": 0.8}, effect=effect)
    record = structs.replace(record, points=[structs.replace(record.points[0], variants=[base, lru])])
    assert figures.claim(Result(record), {}).startswith(mark)


class Wrong(stores.InMemory):
    """A store that changes what it returns."""

    def __init__(self):
        super().__init__(lambda: stores.POLICIES["LRU"](8))

    def get(self, key):
        found = super().get(key)
        return None if found is None else found + 1


def test_a_cache_without_hits_has_fallen_back(model):
    """A cache that answers nothing is said to compute everything."""
    found = asked(model)
    setup = variants.cached(Forgetful)(found)
    setup.call()
    assert setup.execution_proof().state == "fell back"


class Forgetful(Wrong):
    def get(self, key):
        return None


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_all_measurements_begin_with_the_same_content(kind, model, tmp_path):
    """Each measurement has the same hits, also after a check and in a second process's file."""
    open_store = {"memory": partial(stores.in_memory, "LRU", 8), "disk": partial(stores.SQLite, tmp_path / "c")}[kind]
    ratios = set()
    for _ in range(2):
        setup = variants.cached(open_store)(asked(model))
        for _ in range(2):
            measurement = setup.call()
            ratios.add(measurement.metrics["hit_ratio"])
            measurement.answer()
        setup.close()
    assert len(ratios) == 1 and 0 < min(ratios) < 1


def test_a_new_version_is_not_answered_for_by_the_old(model):
    """With the version in the key no response is stale. Without it all are, and changed decisions are counted apart;
    where no decision is known there is no count."""
    old = workload.onnx_model(model)
    new = replace(
        old, answer=lambda item: old.answer(item) * np.float32([1, 2, 1]), version="new", previous=lambda: old
    )
    items, store = TRACE.keys[:200].tolist(), stores.in_memory("LRU", 40)
    found = checks.after_change(new, store, items)
    right, wrong = found["with the version"], found["without"]
    assert (right.stale, right.changed_decisions) == (0, 0) and right.from_cache == 200 - len(set(items))
    assert wrong.stale == wrong.from_cache == wrong.requests == 200 and 0 < wrong.changed_decisions < 200
    assert figures.after_change(found).rows[1] == ["without", 200, 200, 200, wrong.changed_decisions]
    told = figures.claim(Result(make_record({"no cache": Made()}, sizes=[8])), found)
    assert told.endswith(f": 0 of 200; without it: 200 of 200, changed decisions: {wrong.changed_decisions}")
    unknown = checks.after_change(replace(new, decision=None), store, items)["without"]
    assert (unknown.stale, unknown.changed_decisions) == (200, None)
    assert checks.after_change(old, store, items) == {} and not figures.after_change({}).rows


@pytest.mark.parametrize(("hit", "miss", "store"), [(2, 1, 5), (100, 10, 200), (0, 0, 1)])
def test_break_even_is_where_nothing_is_saved(hit, miss, store):
    """At the break-even hit ratio a request takes as long as without a cache; fast work is never worth a cache."""
    even = figures.break_even(1000, hit, miss, store)
    assert even * hit + (1 - even) * (miss + 1000 + store) == pytest.approx(1000)
    assert figures.break_even(1, 10, 10, 10) > 1
    assert figures.break_even(1, 1000, 0, 0) == float("inf")


def test_a_cache_keeps_up_where_the_work_alone_does_not(simulated_clock):
    """At 1.5 times the rate that the work can answer a queue grows without a cache, and does not with one."""
    work = workload.Work(40, lambda item: (simulated_clock(0.004), item)[1], lambda item: item, "1")
    store, items = stores.in_memory("LRU", 40), TRACE.keys[:150].tolist()
    found = {
        "no cache": load.open_loop(lambda item: variants.answer(work, None, item), items, 375),
        "cached": load.open_loop(lambda item: (simulated_clock(1e-6), variants.answer(work, store, item)), items, 375),
    }
    assert found["no cache"].busy > 1 > found["cached"].busy
    assert found["no cache"].percentile(0.9) > 3 * found["cached"].percentile(0.9)
    chart = figures.slower_requests(found)
    assert [one.name for one in chart.series] == list(found) and min(chart.series[0].y) == pytest.approx(100 * 5 / 150)
    assert "150 requests each" in chart.note and "p95" in chart.note and "p99" not in chart.note


def test_a_longer_time_to_live_has_more_hits_and_more_stale_responses():
    """Hits are those of the trace; the expected share of stale ones is that of changes drawn at random."""
    times = np.cumsum(np.random.default_rng(0).exponential(10, len(TRACE)))
    trace = traces.of("timed", TRACE.keys, times)
    found = [checks.staleness(trace, ttl_s, changes_every_s=1_000) for ttl_s in (1, 100, 1e9)]
    (few, _), (_, expected), (all_hits, _) = found
    assert few < found[1][0] < all_hits == 1 - trace.objects / len(trace)
    assert found[0][1] < expected < found[2][1]
    random, loaded, stale = np.random.default_rng(1), {}, 0
    changes = {key: np.cumsum(random.exponential(1_000, 200)) for key in range(trace.objects)}
    for key, now in zip(trace.keys.tolist(), trace.times.tolist(), strict=True):
        if now - loaded.get(key, -np.inf) < 100:
            stale += ((changes[key] > loaded[key]) & (changes[key] <= now)).any()
        else:
            loaded[key] = now
    assert expected == pytest.approx(stale / len(trace), abs=0.015)
    assert [one.name for one in figures.staleness(trace, 1_000).series] == ["hits", "stale responses"]
    with pytest.raises(UserError, match="'zipf' has no times"):
        checks.staleness(TRACE, 1, 1)


@pytest.fixture(scope="module")
def stampedes():
    """Each strategy, with an entry that expires every 0.25 s and takes 0.05 s."""
    return stampede.run_each(0.05, ttl_s=0.25, seconds=0.7)


def test_unprotected_threads_compute_at_once_and_with_a_lock_one(stampedes):
    """Without protection several threads compute an expired entry at once; with dogpile.cache one does."""
    none, lock, early = stampedes.values()
    assert none.redundant > lock.redundant == 0 and len(lock.begun) and len(early.begun)
    assert all(len(one.begun) == len(one.ended) and (one.begun < one.ended).all() for one in stampedes.values())
    chart = figures.stampedes(stampedes)
    assert max(chart.series[0].y) > max(chart.series[1].y) == 1 and f"({none.redundant} redundant)" in chart.note


def test_the_first_load_is_protected_by_the_lock_alone():
    """Eight threads that request an entry which is not there: dogpile.cache computes once, and all get the value."""
    computed, gate, found = [], threading.Barrier(8), []

    def compute():
        computed.append(1)
        time.sleep(0.05)
        return "value"

    get = stampede.dogpile_lock(compute, 10)

    def ask():
        gate.wait()
        found.append(get())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(computed) == 1 and found == ["value"] * 8


def test_early_refresh_is_the_more_probable_the_nearer_the_expiry(monkeypatch):
    """The share of requests that refresh follows the paper's formula: exp(−time left ÷ time to compute)."""
    now, draws = [0.0], np.random.default_rng(0)
    monkeypatch.setattr(stampede.time, "monotonic", lambda: now[0])

    def refreshes(left: float) -> bool:
        computed = []

        def compute():
            computed.append(1)
            now[0] += 1.0

        get = stampede.early_refresh(compute, ttl_s=10, chance=draws.random)
        get()
        now[0] += 10 - left
        get()
        return len(computed) == 2

    for left in (9.0, 2.0, 1.0, 0.25):
        assert np.mean([refreshes(left) for _ in range(1_000)]) == pytest.approx(np.exp(-left), abs=0.06)


def test_a_failed_computation_is_told_and_tried_again():
    """What computing raises reaches the caller, and the next request tries again; an unknown strategy is told."""
    for name in stampede.STRATEGIES:
        results = iter([ZeroDivisionError, "value"])

        def compute(results=results):
            found = next(results)
            if found is ZeroDivisionError:
                raise ZeroDivisionError
            return found

        get = stampede.STRATEGIES[name](compute, 10)
        with pytest.raises(ZeroDivisionError):
            get()
        assert get() == "value"
    with pytest.raises(UserError, match="strategy='locks' is unknown"):
        stampede.run("locks", int)
