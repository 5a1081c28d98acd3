"""What the notebook of caching shows: each chart and table says what was found, and what a parameter names is found."""

import dataclasses
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from kit import Comparison
from kit.errors import UserError
from kit.measure.exhibits import Exhibits
from kit.record.document import Quality
from kit.techniques.caching import advice, choices, curves, outage, pacing, show, stampede, stores, traces
from kit.techniques.caching.layers import cached, prefix, serving, staleness, work
from kit.techniques.caching.stores import in_memory, operations, rates

ITEMS = 30
TRACE = np.random.default_rng(2).zipf(1.5, 400) % ITEMS
SLOW = work.waiting(0.002, ITEMS)


def series(chart):
    return {one.name: one for one in chart.series}


def column(table, name):
    return [row[table.columns.index(name)] for row in table.rows]


def drawn(*exhibits):
    """Draw exhibits as a notebook would."""
    return Exhibits(*exhibits)._repr_html_()


@pytest.fixture(scope="module")
def found() -> tuple[curves.Curves, curves.Curves]:
    return curves.against_shuffled(traces.words(), [50, 500], policies=["LRU", "SIEVE"])


@pytest.fixture(scope="module")
def worths() -> dict[str, serving.Worth]:
    costs = {"miss_s": 1e-6, "put_s": 5e-6, "compute_s": 1e-3}
    return {
        "LRU in memory": serving.Worth(0.5, hit_s=2e-6, **costs),
        "SQLite": serving.Worth(0.5, hit_s=2e-5, **costs | {"put_s": 5e-4}),
    }


# Curves


def test_misses_are_what_the_curves_do_not_hit(found):
    """The chart's lines are 100 % less the hit ratio at each size, and the bound lies under all of them."""
    real, _ = found
    chart = show.misses(real)
    lines = series(chart)
    assert lines["LRU"].x == [50, 500]
    assert lines["LRU"].y == pytest.approx(100 * (1 - real.policies["LRU"].hit_ratio))
    assert lines["Belady"].style == "ideal"
    assert all(bound <= min(lines["LRU"].y[at], lines["SIEVE"].y[at]) for at, bound in enumerate(lines["Belady"].y))
    assert "3,557 objects" in chart.x and "items" in chart.x
    assert "svg" in drawn(chart)


def test_misses_of_bytes_are_told_over_mib():
    """Where sizes are known, capacities are MiB, the bound is PFOO-L, and bytes have a chart of their own."""
    sized = traces.with_sizes(traces.zipf(3_000, 300), 10_000)
    real = curves.curves(sized, [2**20, 2**21], policies=["LRU"])
    of_requests, of_bytes = show.misses(real), show.misses(real, of_bytes=True)
    assert of_requests.series[0].x == [1, 2] and "MiB" in of_requests.x
    assert series(of_bytes)["LRU"].y == pytest.approx(100 * (1 - real.policies["LRU"].byte_hit_ratio))
    assert set(series(of_bytes)) == {"LRU", "PFOO-L"} and of_bytes.title != of_requests.title


def test_sampled_curves_show_their_error():
    """A policy that was simulated on a sample has an interval of its error; one that was not has none."""
    real = curves.curves(traces.zipf(60_000, 20_000), [5_000], policies=["LRU", "FIFO"], budget=5_000)
    lines = series(show.misses(real))
    assert lines["LRU"].low is None and lines["FIFO"].low[0] < lines["FIFO"].y[0] < lines["FIFO"].high[0]
    assert lines["Belady"].low[0] < lines["Belady"].y[0] < lines["Belady"].high[0]


def test_order_is_real_less_shuffled(found):
    """The chart of the order has the difference of the hit ratios, in points, of each policy and of the bound."""
    real, shuffled = found
    lines = series(show.order(real, shuffled))
    gained = real.policies["LRU"].hit_ratio - shuffled.policies["LRU"].hit_ratio
    assert lines["LRU"].y == pytest.approx(100 * gained) and lines["LRU"].y[0] > 5
    assert set(lines) == {"LRU", "SIEVE", "Belady"}


def test_gates_say_what_does_not_hold(found):
    """A gate that is broken is a NO in capitals."""
    real, _ = found
    bad = Quality(state="broken", measure="LRU against Che's approximation", value=0.2, bound=0.01)
    table = show.gates(("words", curves.none_above_the_bound(real)), ("other", bad))
    assert column(table, "held") == ["yes", "NO"] and column(table, "found")[0] == 0


# Stores and work


def test_rates_stand_by_operation_and_store():
    """Each operation of each store has its rate by users; where processes share nothing there is a gap, and what went
    wrong is told."""
    readings = [90_000.0, 100_000.0, 110_000.0]
    found = [
        rates.Rate("LRU", "get hit", "1 thread", readings, 1.0),
        rates.Rate("SQLite", "get hit", "1 thread", [2_000.0] * 3, 1.0),
        rates.Rate("SQLite", "get hit", "2 processes", [5_000.0] * 3, 0.97),
    ]
    table = show.rates(found)
    assert column(table, "1 thread") == [100, 2] and column(table, "2 processes") == [None, 5]
    assert column(table, "2 threads") == [None, None] and column(table, "up to") == ["±10 %", "±0 %"]
    assert "3 readings" in table.note and "SQLite, get hit, 2 processes: 97 %" in table.note
    assert "should" not in show.rates(found[:2]).note


def test_weights_stand_by_store():
    """Each store has what an item weighs; one that keeps nothing in this process has no weight in it."""
    weight = operations.Weight(856, 1200.0, 900.0)
    table = show.weights({"LRU": weight, "Redis": weight})
    assert column(table, "in the process") == [1200.0, None] and column(table, "in the store") == [900, 900]
    assert "856 bytes" in table.note


def test_only_what_was_measured_is_measured():
    """A variant that was skipped is not measured, nor is one that is invalid."""
    hits = Comparison("stores", baseline="LRU", size=1, seconds=0.2, max_rounds=1)
    load = operations.Load(items=20)
    hits.variant("LRU", lambda: operations.Operating(partial(in_memory.own, items=20))(load))
    hits.variant("absent", lambda: None, needs="no_such_module")
    result = hits.run()
    assert show.measured(result, "LRU") and not show.measured(result, "absent")
    point = result.record.points[-1]
    invalid = [replace(one, verdict="invalid") for one in point.variants]
    assert not show.measured(SimpleNamespace(record=SimpleNamespace(points=[replace(point, variants=invalid)])), "LRU")


def test_worth_is_told_net(worths):
    """Each store's row has its break-even and what it saves; what a hit ratio can't win back never pays."""
    never = {"far away": serving.Worth(0.9, hit_s=2e-3, miss_s=2e-3, put_s=0, compute_s=1e-3)}
    table = show.worth(worths | never, "a model")
    assert column(table, "pays from")[0] == "0.60 %" and column(table, "pays from")[2] == "never"
    assert column(table, "saved ms") == pytest.approx([1e3 * one.saved_s for one in (worths | never).values()])
    with pytest.raises(UserError, match="no store was measured"):
        show.worth(show.of_one_work({}), "a model")


def test_stores_are_told_apart_by_their_own_costs(worths):
    """The work costs the same behind every store, so that its chance does not decide which saves most."""
    lucky = serving.Worth(0.5, hit_s=2e-5, miss_s=1e-6, put_s=5e-4, compute_s=3e-3)
    found = show.of_one_work(worths | {"SQLite": lucky})
    assert {one.compute_s for one in found.values()} == {2e-3}
    assert lucky.saved_s > worths["LRU in memory"].saved_s and found["SQLite"].saved_s < found["LRU in memory"].saved_s


def test_break_even_is_modelled_and_meets_what_was_measured(worths):
    """The line of a store passes its measured break-even at this work, and is named modelled."""
    chart = show.break_even(worths)
    line = series(chart)["SQLite"]
    assert line.style == "modelled" and "Modelled" in chart.note
    at = np.interp(np.log(1.0), np.log(line.x), [np.log(y or 100) for y in line.y])
    assert np.exp(at) == pytest.approx(100 * worths["SQLite"].break_even, rel=0.02)
    assert series(chart)["this work"].x == pytest.approx([1.0, 1.0])
    assert show.break_even({"far": serving.Worth(0.9, 1.0, 1.0, 0, 1e-3)})  # never pays, at no work


def test_the_claim_holds_only_if_all_stores_pay_and_all_answers_are_equal(worths):
    """The verdict names the dearest store, and says that the claim does not hold where that pays too late."""
    comparison = Comparison("predictions", baseline="no cache", size=1, seconds=0.2, max_rounds=3)
    comparison.variant("no cache", cached.Cached())
    comparison.variant("LRU in memory", cached.Cached(partial(in_memory.own, items=ITEMS)))
    result = comparison.run(cached.Requests(partial(work.waiting, 0.002, ITEMS), TRACE, warm=50, a_reading=10))
    alone = {"LRU in memory": worths["LRU in memory"]}
    assert "**The claim holds" in show.claim(alone, result, 0.1) and "1 of 1 checks" in show.claim(alone, result, 0.1)
    assert "does not hold" in show.claim(worths, result, 0.1) and "SQLite" in show.claim(worths, result, 0.1)
    against = show.claim(alone, result, 0.1, ["An answer was wrong."])
    assert "does not hold" in against and "**Refuted:** An answer was wrong." in against
    even = worths["LRU in memory"].break_even
    noisy = {"LRU in memory": dataclasses.replace(worths["LRU in memory"], put_s=np.linspace(0, 1e-5, 100))}
    assert "is unresolved here" in show.claim(alone, result, even, spread=noisy)
    assert "**The claim holds here" in show.claim(alone, result, 3 * even, spread=noisy)
    assert "does not hold" in show.claim(alone, result, even / 20, spread=noisy)
    missing = show.claim(alone, result, 0.1, missing=show.unchecked({}, []))
    assert "**Not checked:** answers after a change of the model and answers while a server is away." in missing
    assert show.unchecked({"retrained": ()}, [1]) == []


def test_what_refutes_the_claim_is_told_in_words():
    """A gate that is broken, wrong answers with the version in the key, and in an outage are a sentence each."""
    held = Quality(state="held", measure="hit ratio above Belady", value=0.0, bound=0.0)
    bad = Quality(state="broken", measure="hit ratio above Belady", value=0.125, bound=0.0)
    right, wrong = cached.Wrong(200, 90, 0, 0), cached.Wrong(200, 200, 17, 7)
    up, killed = outage.Stage("up", 50, 25, 0, 0.1, ""), outage.Stage("killed", 50, 0, 3, 0.1, "gone")
    assert show.refuted([("words", held)], {"retrained": (right, wrong)}, [up]) == []
    told = show.refuted([("words", bad), ("zipf", held)], {"retrained": (wrong, wrong)}, [up, killed])
    assert len(told) == 3
    assert "words" in told[0] and "0.125" in told[0]
    assert "retrained: 17 of 200" in told[1] and "killed, 3 of 50" in told[2]


# What users wait for, and trust


def test_waiting_falls_from_all_to_none():
    """The chart of waiting begins at 100 % and falls; the table has the percentiles of the same arrivals."""
    served = {
        name: serving.serve(SLOW, TRACE[:200], 300, store)
        for name, store in {"no cache": None, "LRU": in_memory.own(items=ITEMS)}.items()
    }
    lines = series(show.waited(served, 300))
    for line in lines.values():
        assert line.y[0] == pytest.approx(100) and line.y == sorted(line.y, reverse=True) and line.x == sorted(line.x)
    table = show.latencies(list(served.items()))
    assert column(table, "hit ratio")[0] == "—" and column(table, "median")[0] > column(table, "median")[1]
    assert "svg" in drawn(show.waited(served, 300), table)


def test_wrong_answers_are_counted_with_and_without_the_version():
    """Each change of the model has two rows: none wrong with the version in the key, some without it."""
    right, wrong = cached.Wrong(200, 90, 0, 0), cached.Wrong(200, 200, 200, 7)
    table = show.versions({"retrained": (right, wrong)})
    assert column(table, "version in the key") == ["yes", "NO"] and column(table, "wrong answers") == [0, 200]


def test_stale_answers_are_named_modelled():
    """Hits and stale answers grow with the time to live; what is stale is modelled, and named so."""
    trace = traces.of("t", TRACE, times=np.arange(len(TRACE)) * 60.0)
    found = staleness.freshness(trace, [600, 6_000, 20_000], changes_every_s=3600)
    lines = series(show.stale(found, 3600))
    assert lines["hits"].y == sorted(lines["hits"].y) and lines["stale answers"].style == "modelled"
    assert lines["hits"].x == pytest.approx([600 / 3600, 6000 / 3600, 20_000 / 3600])


def test_stampedes_show_who_computes_at_once():
    """Over time and in all, everyone computes without protection and one does with a lock."""
    opening = partial(in_memory.own, items=5)
    found = {
        name: stampede.run(name, opening, threads=8, compute_s=0.05, ttl_s=0.3, seconds=0.5)
        for name in ("none", "lock")
    }
    lines = series(show.stampede(found))
    assert max(lines["none"].y) > max(lines["lock"].y) == 1
    table = show.stampedes(found)
    assert column(table, "most at once")[0] > 1 == column(table, "most at once")[1]
    assert column(table, "needless")[1] == 0


def test_the_prefix_cache_is_named_simulated():
    """The chart of the prefix cache is over tokens, and both its title and its lines say that nothing was measured."""
    found = prefix.curve(prefix.conversations(20), [10, 1_000])
    chart = show.prefixes({"few": found})
    assert "simulated" in chart.title and chart.series[0].style == "modelled"
    assert chart.series[0].x == [160, 16_000] and chart.series[0].y == pytest.approx([100 * f.hit_ratio for f in found])


@pytest.mark.skipif(stores.program() is None, reason="no redis-server is installed here")
def test_a_killed_server_costs_hits_and_no_answer():
    """With the server killed all is worked out, none is wrong, the store says since when; back, it serves again."""
    pytest.importorskip("redis")
    with stores.PrivateServer() as server:
        stages = outage.run(work.waiting(0.0, 5), server, np.arange(60) % 5)
        for answer in ("pdf", {"label": "pdf", "scores": [0.5, float("nan")]}):
            told = outage.run(
                work.Work(5, lambda _, a=answer: a, lambda item: item, str(answer)), server, np.arange(30) % 5
            )
            assert not any(one.wrong for one in told)
        drifting = iter(range(1_000))
        told = outage.run(work.Work(5, lambda _: next(drifting), lambda item: item, "d"), server, np.arange(30) % 5)
        assert any(one.wrong for one in told)
    assert [one.from_cache for one in stages] == [15, 0, 15] and not any(one.wrong for one in stages)
    table = show.outage(stages)
    assert column(table, "server") == ["up", "killed", "back, empty"] and "has not answered since" in table.note


# Advice


def test_savings_and_advice_agree(found, worths):
    """The chart of savings has the advised saving at the advised size, and the table says it with its interval."""
    real, _ = found
    costs = show.costs(worths, {}, {"LRU in memory": operations.Weight(856, 900.0, 1000.0)}, 1e6)
    assert costs.each == worths["LRU in memory"] and costs.value_bytes == 1000
    chosen = advice.advise(real, costs)
    chart = show.saved(real, costs, chosen)
    unit_s = 60 if "minutes" in chart.y else 3600
    line = series(chart)[chosen.policy]
    assert line.y[line.x.index(chosen.capacity)] == pytest.approx(chosen.saved_s / unit_s)
    assert series(chart)["advised"].x == [chosen.capacity] * 2
    answers = dict(show.advised(real, chosen, costs, "SQLite").rows)
    assert answers["does a cache pay?"] == "yes" and answers["which policy?"] == chosen.policy
    assert answers["saves a day"].count(",") == 1 and "[" in answers["saves a day"]


def standings(worths, noise=0.001, seed=0):
    """Return standings of stores whose costs were measured with so much noise, as a share of each."""
    chance = np.random.default_rng(seed)
    names = ("hit_s", "miss_s", "put_s")
    spread = {
        store: dataclasses.replace(
            one, **{name: getattr(one, name) * (1 + noise * chance.standard_normal(2_000)) for name in names}
        )
        for store, one in worths.items()
    }
    return advice.standings(worths, spread, hit_ratio=0.5, requests_a_day=1e6, lasting=["SQLite"])


def test_the_store_is_chosen_by_what_it_saves(worths):
    """The store that saves most is named with its interval, and what the best that outlives the process saves less."""
    found = standings(worths)
    assert [one.verdict for one in found.values()] == ["most", "less"]
    less = 1 - worths["SQLite"].saved_s / worths["LRU in memory"].saved_s
    assert found["SQLite"].less == pytest.approx(less) and len(found["SQLite"].less_interval) == 2
    low, high = found["SQLite"].less_interval
    assert low < less < high
    told = advice.store_in_words(found)
    assert told.startswith("LRU in memory saves 8.") and "SQLite, which outlives the process, 52 % less [5" in told
    table = show.which_store(found, 0.5)
    assert column(table, "verdict") == ["most", "less"] and column(table, "outlives the process") == ["no", "yes"]
    assert advice.store_in_words(standings({"LRU in memory": worths["LRU in memory"]})).count(";") == 0


def test_stores_that_cannot_be_told_apart_are_unresolved(worths):
    """Where intervals allow both it says so; where the difference is next to nothing the stores are the same."""
    near = serving.Worth(0.5, hit_s=2e-6, miss_s=1e-6, put_s=9e-5, compute_s=1e-3)
    loud = standings(worths | {"SIEVE in memory": near, "SQLite": near}, noise=1.0)
    assert {loud["SIEVE in memory"].verdict, loud["SQLite"].verdict} == {"unresolved"}
    told = advice.store_in_words(loud)
    assert "which is unresolved" in told and "whether less is saved by SIEVE in memory is unresolved" in told
    alike = standings(worths | {"SQLite": worths["LRU in memory"]}, noise=0.01)
    assert {one.verdict for one in alike.values()} == {"most", "same"} and "as much" in advice.store_in_words(alike)
    losing = standings({"SQLite": serving.Worth(0.5, 1.0, 1.0, 1.0, 1e-3)})
    assert advice.store_in_words(losing) == "SQLite comes nearest; none saves anything"


def test_memory_is_that_of_the_store_whose_costs_are_used(worths):
    """An item takes what its store weighs, in the process or by its account; without a weight, the heaviest's."""
    weights = {"Redis": operations.Weight(856, 1.0, 1500.0), "SQLite": operations.Weight(856, 3000.0, 1100.0)}
    own = weights | {"LRU in memory": operations.Weight(856, 1300.0, 900.0)}
    assert show.costs(worths, worths, own, 1e6).value_bytes == 1300
    tiers = {"two tiers": worths["SQLite"]}
    chosen = show.costs(tiers, tiers, weights, 1e6)
    assert chosen.value_bytes == 3000 and chosen.each == chosen.spread == worths["SQLite"]
    assert show.costs(tiers, {}, {}, 1e6).value_bytes is None


# What parameters name


def test_traces_are_found_by_name(tmp_path):
    """Real, generated and own traces are found; a name that is none gets the nearest."""
    columns = ["key", "time", "size"]
    assert choices.trace("zipf 0.8", columns).name == "Zipf 0.8"
    assert choices.trace("words", columns).objects == 3_557
    (tmp_path / "t.csv").write_text("who,when,bytes\na,1,10\nb,2,20\na,3,10\n")
    own = choices.trace(str(tmp_path / "t.csv"), ["who", "when", "bytes"])
    assert len(own) == 3 and own.times is not None and own.sizes.tolist() == [10, 20]
    for name, told in {"tail number": "did you mean 'tail numbers'", "zipf x": "no number", "": "there are"}.items():
        with pytest.raises(UserError, match=told):
            choices.trace(name, columns)
    with pytest.raises(UserError, match="names 1 columns"):
        choices.trace("t.csv", ["key"])


def some_work() -> work.Work:
    return work.waiting(0.0, 50)


def test_an_own_function_gives_the_work():
    """package.module:function is opened in each process, and is asked for no more items than it has, in their order."""
    asked = choices.before(f"{__name__}:some_work", traces.zipf(2_000, 500))
    assert asked.opening().items == 50 and asked.keys.max() < 50 and asked.onnx is None
    assert choices.successors(asked, None) == {}


def one_item() -> work.Work:
    return work.waiting(0.0, 1)


def test_work_of_one_item_is_refused():
    """Where there is one item a cache has nothing to choose, and that is told."""
    with pytest.raises(UserError, match="has items=1, and a cache chooses among some"):
        choices.before(f"{__name__}:one_item", traces.zipf(2_000, 500))


def unversioned() -> work.Work:
    return dataclasses.replace(work.waiting(0.0, 50), version="")


def broken() -> work.Work:
    raise KeyError("weights")


def test_work_that_cannot_be_cached_or_opened_is_refused():
    """Work without a version, and what its own function raises, are told by the parameter's name."""
    with pytest.raises(UserError, match="has version='', so a cache would answer for the old model"):
        choices.before(f"{__name__}:unversioned", traces.zipf(2_000, 500))
    with pytest.raises(UserError, match=r"model=.*can't be opened; mend KeyError: 'weights'"):
        choices.before(f"{__name__}:broken", traces.zipf(2_000, 500))


def test_features_asked_in_their_own_order_say_so():
    """With a trace of something else, features are asked for in the order of departures, and the note says it."""
    assert "not of words" in choices.before("features", traces.words()).note
    assert "not of" not in choices.before("features", traces.tail_numbers()).note


def test_what_killed_runs_left_is_removed(tmp_path, monkeypatch):
    """A run's folder is removed with it, or by the next run; that of one that lives stays."""
    monkeypatch.setattr(choices.tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name, age_s in ((f"{ended.pid}-old", 4000), (f"{ended.pid}-new", 0), (f"{os.getpid()}-old", 4000)):
        (tmp_path / f"{choices.SCRATCH}{name}").mkdir()
        os.utime(tmp_path / f"{choices.SCRATCH}{name}", (time.time() - age_s,) * 2)
    with choices.scratch() as own:
        left = {path.name.removeprefix(choices.SCRATCH) for path in tmp_path.iterdir() if path.name != Path(own).name}
        assert left == {f"{ended.pid}-new", f"{os.getpid()}-old"}


def test_enough_requests_hold_a_hit():
    """Requests are taken until one comes again, and no more than are allowed."""
    assert len(choices.enough(TRACE, least=10)) == max(10, len(choices.enough(TRACE, least=1)))
    late = np.append(np.arange(600), 0)
    assert len(choices.enough(late, least=10)) == 601
    assert len(choices.enough(np.arange(9_000))) == 5_000


def test_warmups_are_followed_by_hits():
    """Cold numbers of requests that no hit would follow are left out, and short traces are halved."""
    assert choices.warmups(np.arange(7_000) % 30) == [100, 1_000]
    assert choices.warmups(np.append(np.arange(900), np.arange(6_000) % 900)) == [1_000, 5_000]
    assert choices.warmups(np.append(np.arange(150), np.arange(150))) == [150]


def test_traces_that_cannot_be_measured_are_refused():
    """Too few requests, and requests that never come again, are told in terms of the notebook's parameters."""
    with pytest.raises(UserError, match="trace= has 120 requests for what model="):
        choices.warmups(np.arange(120) % 7)
    with pytest.raises(UserError, match="trace= asks for next to nothing again"):
        choices.warmups(np.arange(9_000))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"policies": ["lru"]}, "policies= names 'lru'.*there are LRU"),
        ({"layers": ["feature"]}, "layers= names 'feature'.*did you mean 'features'"),
        ({"variants": ["SQlite"]}, "variants= names 'SQlite'.*did you mean 'SQLite'"),
        ({"capacities": [100, 0]}, "capacities= has 0; give numbers from 1 on"),
        ({"capacities": [0.4]}, "capacities= has 0.4"),
        ({"capacities": [1e19]}, "capacities= has 1e.19"),
        ({"capacities": ["a"]}, "capacities= has 'a'"),
        ({"capacities": [float("nan")]}, "capacities= has nan"),
        ({"requests_a_day": 0}, "requests_a_day=0 can't be"),
        ({"seconds": -1.0}, "seconds=-1.0 can't be"),
    ],
)
def test_parameters_that_cannot_be_are_refused(wrong, told):
    """Each misspelt or impossible parameter is told by its name, with what there is."""
    choices.check(policies=["LRU"], capacities=[10, 1e6], layers=["data"], variants=list(choices.STORES))
    with pytest.raises(UserError, match=told):
        choices.check(**wrong)


def test_a_server_that_is_not_there_is_refused_without_its_password():
    """An address at which none answers is told in a sentence, and its password isn't."""
    pytest.importorskip("redis")
    with pytest.raises(UserError, match=r"'redis://127.0.0.1:1/0' does not answer.*start a server") as told:
        choices.check(redis_url="redis://me:secret@127.0.0.1:1/0")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("model", ["json:dumps", "kit.errors:UserError"])
def test_a_function_that_gives_no_work_is_refused(model):
    """What can't be called without arguments, or returns no Work, is a mistake that is told."""
    with pytest.raises(UserError, match=r"can't be called with no options|returns UserError, not a Work"):
        choices.before(model, traces.zipf(100, 10))


def counted(seconds: float, items: int) -> tuple[work.Work, list[int]]:
    """Return work that waits, and what it has been asked for."""
    asked: list[int] = []
    waits = work.waiting(seconds, items)
    return dataclasses.replace(waits, answer=lambda item: asked.append(item) or waits.answer(item)), asked


def test_slow_work_is_asked_less_and_it_is_said():
    """Of slow work fewer items are asked for, with their own popularity, in shorter readings; of fast work none."""
    keys = np.random.default_rng(0).zipf(1.2, 20_000) % 500
    slow, asked = counted(0.01, 500)
    found = pacing.pace(slow, keys, seconds=1.0)
    assert 50 < found.rate < 101 and len(asked) <= 2 + 2 + 10
    assert found.a_reading == 5 and 50 < found.items <= 101 and "500 items, 5 requests a reading" in found.note
    kept = found.of(keys)
    assert len(np.unique(kept)) <= found.items and set(kept) <= set(keys)
    assert choices.warmups(kept, found.a_reading) and len(choices.enough(kept, found.fits(0.1, 5, 400))) < 100
    fast = pacing.pace(work.waiting(0.0, 500), keys, seconds=1.0)
    assert fast.note == "" and fast.of(keys) is keys and fast.a_reading == pacing.FULL_READING


def test_work_too_slow_for_the_budget_is_refused_after_two_answers():
    """Where the budget has no room for twenty answers, the notebook says how much there should be, and asks no more."""
    slow, asked = counted(0.02, 500)
    with pytest.raises(UserError, match=r"model= takes 2\d.* ms an answer, so seconds=0.1 .*give seconds=1 or more"):
        pacing.pace(slow, TRACE, seconds=0.1)
    assert len(asked) == 2


def test_what_slow_work_was_not_asked_stands_in_the_result(worths):
    """The tables that slow work cut short say so."""
    note = pacing.Pace(1.0, 20.0, 500).note
    assert note.endswith("20 of 500 items, 5 requests a reading.") and "An answer takes 1.00 s" in note
    assert show.worth(worths, "a model", note).note.endswith(note)
    served = serving.serve(work.waiting(0, ITEMS), TRACE[:20], 1e4)
    assert show.latencies([("no cache", served)], note).note.endswith(note)


def test_answers_of_any_kind_have_a_size():
    """An array weighs its own bytes, a dict those that a store writes."""
    assert choices.answer_bytes(SLOW) == 8
    told = work.Work(1, lambda item: {"label": "pdf" * 20}, lambda item: item, "v")
    assert 60 < choices.answer_bytes(told) < 150


@pytest.mark.skipif(stores.program() is None, reason="no redis-server is installed here")
def test_a_server_that_was_lent_is_left_clean():
    """What a run left under its own prefix is removed, and nothing else."""
    pytest.importorskip("redis")
    opened = partial(stores.Redis, timeout_s=2)
    with stores.PrivateServer() as server, opened(server.url, prefix="kit:run*:") as own:
        for number in range(30):
            own.put(f"{number}", number)
        with opened(server.url, prefix="kit:runs:") as other:
            other.put("kept", 1)
            assert choices.leave_clean(server.url, "kit:run*:") == 30
            assert other.get("kept") == 1 and own.get("3") is stores.MISS


FAILS = """
import sys
from kit.techniques.caching import choices, stores
choices.borrowed(sys.argv[1], "kit:fails:")
stores.Redis(sys.argv[1], prefix="kit:fails:a:", timeout_s=2).put("k", 1)
raise RuntimeError("in mid-run")
"""


@pytest.mark.skipif(stores.program() is None, reason="no redis-server is installed here")
def test_a_run_that_fails_leaves_nothing_on_a_server():
    """What a process put under its prefix is gone after it ended by an error; what is another's stays."""
    redis = pytest.importorskip("redis")
    with stores.PrivateServer() as server, redis.Redis.from_url(server.url) as client:
        client.set("another's", 1)
        ended = subprocess.run([sys.executable, "-c", FAILS, server.url], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1 and "in mid-run" in ended.stderr
        assert client.keys() == [b"another's"]
    assert choices.leave_clean(server.url, "kit:fails:") == 0  # and no error where the server is gone
