"""The questions: every engine gives the same answer, on generated tables, real flights and the user's own."""

import decimal
import importlib
import subprocess
import sys
from dataclasses import replace
from functools import partial

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_factory import Made, make_record

from kit import Comparison
from kit.common import datasets
from kit.errors import UserError
from kit.measure.answers import equal, portable
from kit.measure.result import Result
from kit.techniques.dataframes import QUESTIONS, checks, columns, engines, figures, in_sql, own, workload
from kit.techniques.dataframes.questions import WORKLOADS

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # Dask's own, with pandas 3.1

OTHERS = ("polars", "duckdb", "dask")
GENERATED = [*WORKLOADS["groupby"], *WORKLOADS["join"]]
TABLES = {"plain": 0.0, "with gaps": 0.2}


@pytest.fixture(scope="module", autouse=True)
def budget():
    """Two threads for each engine, and partitions so small that Dask has several of each table."""
    with pytest.MonkeyPatch.context() as patch:
        in_dask = importlib.import_module("kit.techniques.dataframes.in_dask")
        patch.setenv("KIT_THREADS", "2")
        patch.setattr(workload, "ROW_GROUP", 1_000)
        patch.setattr(datasets, "ROW_GROUP", 1_000)
        patch.setattr(own, "ROW_GROUP", 1_000)
        patch.setattr(in_dask, "ROW_GROUPS", 2)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cluster(budget):
    """One Dask cluster for all tests of this file, in this process."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"dataframe.shuffle.method": "tasks"}),
        LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
    ):
        yield cluster.scheduler_address


def answer(engine, tables, question, cluster):
    """Return what an engine answers, as the comparison reads it."""
    extra = {"cluster": cluster} if engine == "dask" else {}
    prepared = getattr(engines, engine)(tables, question, **extra)
    try:
        return portable(prepared.call())
    finally:
        if prepared.close:
            prepared.close()


def differences(tables, question, cluster):
    """Return engine → what differs from pandas' answer, and that answer."""
    expected = answer("pandas", tables, question, cluster)
    found = {engine: equal(answer(engine, tables, question, cluster), expected).note for engine in OTHERS}
    return {engine: note for engine, note in found.items() if note}, expected


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("question", GENERATED)
def test_engines_agree_on_generated_tables(question, kind, cache, cluster):
    """Each benchmark question has one answer, whatever the engine, with and without missing values."""
    tables = workload.tables(question, 4_000, keys=10, missing=TABLES[kind], cache=cache)
    different, expected = differences(tables, question, cluster)
    assert not different and expected.num_rows > 0


@pytest.mark.parametrize("rows", [1, 5_000])
def test_engines_agree_on_delay_features(rows, cache, cluster):
    """The delay features are the same from every engine: of one flight, and of part of the year."""
    different, expected = differences(workload.tables("delay_features", rows, cache=cache), "delay_features", cluster)
    assert not different and sum(expected["flights"].to_pylist()) == rows


@pytest.mark.parametrize("by", [["carrier"], ["tailnum", "month"], ["time_hour", "dep_time"]])
@pytest.mark.parametrize("question", WORKLOADS["own"])
def test_engines_agree_on_own_tables(question, by, cache, cluster):
    """Keys of text, numbers and times, with missing ones among them, give one answer in every engine."""
    source = workload.tables("delay_features", 5_000, cache=cache).paths["flights"]
    different, expected = differences(own.tables(source, by, ["air_time", "distance"], cache=cache), question, cluster)
    assert not different and expected.num_rows > 0


@pytest.mark.parametrize("question", WORKLOADS["own"])
def test_engines_agree_on_odd_names_and_large_numbers(question, tmp_path, cluster):
    """Names with quotes and blanks, whole keys beyond 2⁵³ with missing ones, and infinities stay what they are."""
    large = [2**53 + i % 7 if i % 5 else None for i in range(4_000)]
    inf = [float("inf") if i % 7 < 2 else 0.5 for i in range(4_000)]
    table = pa.table({'say "id"': large, "a café's": ["x", "y", None, "z"] * 1_000, "% of; it": range(4_000), "i": inf})
    pq.write_table(table, tmp_path / "t.parquet")
    tables = own.tables(str(tmp_path / "t.parquet"), table.column_names[:2], table.column_names[2:], cache=tmp_path)
    different, expected = differences(tables, question, cluster)
    assert not different
    assert set(expected['say "id"'].to_pylist()) - {None} == {2**53 + i for i in range(7)}


def test_delay_features_are_what_they_say(cache, cluster):
    """Counts, mean and 90 % quantile of one group are those computed by hand from the raw rows."""
    import numpy as np
    import pyarrow.compute as pc

    tables = workload.tables("delay_features", 5_000, cache=cache)
    found = answer("duckdb", tables, "delay_features", cluster)
    raw = pq.read_table(tables.paths["flights"])
    route = {"carrier": "UA", "origin": "EWR", "dest": "IAH", "hour": 8}
    for name, value in route.items():
        found, raw = (table.filter(pc.equal(table[name].cast(raw[name].type), value)) for table in (found, raw))
    assert sum(found["flights"].to_pylist()) == raw.num_rows
    assert set(found["weather"].to_pylist()) <= {"fair", "windy", "poor", "unknown"}
    weighted = np.dot(found["dep_delay_mean"], found["flown"]) / np.sum(found["flown"])
    assert weighted == pytest.approx(pc.mean(raw["dep_delay"]).as_py())


def test_the_rolling_share_looks_back_seven_days_only():
    """A day's own flights do not count in its rolling share, nor do those of the eighth day before it."""
    import pandas as pd

    from kit.techniques.dataframes.in_pandas import late_week

    late = [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    days = pd.DataFrame({"carrier": "A", "origin": "X", "date": range(10), "flown": 1, "late": late})
    share = late_week(days).sort_values("date")["late_week"].tolist()
    assert share[0] != share[0]
    assert share[1:] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 7, 0, 0])


@pytest.mark.parametrize("engine", ["pandas", "polars", "duckdb", "dask"])
def test_sorting_is_sorting(engine, cache, cluster):
    """The sorted table stands in the order that its positions say: keys, then values, missing ones last."""
    source = workload.tables("delay_features", 5_000, cache=cache).paths["flights"]
    tables = own.tables(source, ["tailnum", "dep_time"], ["dep_delay"], cache=cache)
    table = answer(engine, tables, "own_sort", cluster)
    rows = [[(v is None or v != v, v) for v in row.values()] for row in table.drop("position").to_pylist()]
    rows = [[(gone, 0 if gone else value) for gone, value in row] for row in rows]
    assert rows == sorted(rows)
    assert table["position"].to_pylist() == list(range(5_000))


def test_groups_of_missing_keys_and_sums_of_nothing(tmp_path, cluster):
    """A missing key is a group of its own, joins with nothing, and the sum of no values is 0, in every engine."""
    x = pa.table({"id1": ["a", None, None], "v1": pa.array([None, 2, 3], pa.int32())})
    pq.write_table(x, tmp_path / "x.parquet")
    tables = workload.Tables("groupby", 3, {"x": str(tmp_path / "x.parquet")})
    different, expected = differences(tables, "groupby_1", cluster)
    assert not different
    assert {row["id1"]: row["v1"] for row in expected.to_pylist()} == {None: 5, "a": 0}


def test_the_grid_has_no_holes():
    """Every question stands in every idiom, with the same tables in its signature."""
    from inspect import signature

    names = ("pandas", "polars", "dask", "sql", "spark")
    idioms = [importlib.import_module(f"kit.techniques.dataframes.in_{name}") for name in names]
    own_to_one = "read quantile spark".split()
    for question in QUESTIONS:
        names = {tuple(n for n in signature(i.QUERIES[question]).parameters if n not in own_to_one) for i in idioms}
        assert len(names) == 1, question


def test_preparing_imports_one_engine_only():
    """Importing the engines imports none of them; asking pandas' questions imports pandas only when it is asked."""
    heavy = "{'pandas', 'polars', 'duckdb', 'dask', 'distributed', 'pyarrow', 'cudf', 'numpy'}"
    code = f"""
import sys
from kit.techniques.dataframes import engines, in_pandas, in_sql
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_engine_gets_text_as_its_users_would_give_it(cache):
    """pandas reads the flights' text, and every engine but Dask the text to group by, as categories."""
    flights = engines.pandas(workload.tables("delay_features", 100, cache=cache), "delay_features")
    assert "carrier" in flights.call.keywords["read"].keywords["read_dictionary"]
    tables = workload.groupby(1_000, 10, cache=cache)
    for engine in ("pandas", "polars", "duckdb"):
        prepared = getattr(engines, engine)(tables, "groupby_1")
        assert "dictionary" in str(pa.table(prepared.call())["id1"].type), engine


def test_an_unknown_question_names_the_nearest(cache):
    """A misspelt question is answered with the nearest one, and a question of other tables with what it needs."""
    with pytest.raises(UserError, match="did you mean 'groupby_3'"):
        workload.tables("group_by_3", 100, cache=cache)
    with pytest.raises(UserError, match="asked of tables for join"):
        engines.polars(workload.groupby(100, 10, cache=cache), "join_1")


@pytest.mark.parametrize("engine", ["polars", "duckdb", "dask"])
def test_engines_prove_their_threads(engine, cache, monkeypatch):
    """An engine shows how many threads it had; with another number than it is allowed it has fallen back."""
    threads = pl.thread_pool_size() if engine == "polars" else 2  # Polars has those of its import
    monkeypatch.setenv("KIT_THREADS", str(threads))
    prepared = getattr(engines, engine)(workload.groupby(1_000, 10, cache=cache), "groupby_1")
    verified = prepared.execution_proof()
    monkeypatch.setenv("KIT_THREADS", str(threads + 1))
    fell_back = prepared.execution_proof()
    if prepared.close:
        prepared.close()
    assert (verified.state, verified.facts["threads"]) == ("verified", threads)
    assert (fell_back.state, fell_back.note) == ("fell back", f"{threads} threads instead of the {threads + 1} allowed")


@pytest.mark.parametrize(("question", "bytes_a_row"), [("groupby_1", 1 + 4), ("groupby_4", 4 + 4 + 4 + 8)])
def test_the_least_that_a_question_reads_is_counted_by_hand(question, bytes_a_row, cache):
    """A column of numbers counts its width, one of texts a byte; the same for every engine."""
    tables = workload.tables(question, 1_000, keys=10, cache=cache)
    found = columns.bound(tables, question, "memory_copy_gib_per_s")
    assert (found.name, found.amount * 2**30) == ("memory_copy_gib_per_s", 1_000 * bytes_a_row)
    assert {getattr(engines, name)(tables, question).peak() for name in ("pandas", "polars", "duckdb")} == {found}


def test_both_tables_of_a_join_are_read(cache):
    """A join hands on every column of both, so all are read."""
    tables = workload.tables("join_5", 1_000, cache=cache)
    row = 3 * 4 + 3 * 1 + 8  # three numbers, three texts, a value
    assert columns.bound(tables, "join_5", "").amount * 2**30 == 1_000 * 2 * row


@pytest.mark.parametrize("question", [*WORKLOADS["groupby"], "delay_features"])
def test_a_question_reads_the_columns_it_is_said_to(question, cache, tmp_path):
    """On files of those columns alone its answer is the same, and without any one of them there is none."""
    tables = workload.tables(question, 2_000, cache=cache)
    needed = columns.read(tables, question)
    fewer = replace(tables, paths={name: str(tmp_path / f"{name}.parquet") for name in needed})
    for name, listed in needed.items():
        pq.write_table(pq.read_table(tables.paths[name], columns=listed), fewer.paths[name])
    assert equal(answer("duckdb", fewer, question, None), answer("duckdb", tables, question, None)).state == "passed"
    for name, gone in [(name, column) for name, listed in needed.items() for column in listed]:
        left = pq.read_schema(fewer.paths[name]).empty_table().drop([gone])
        pq.write_table(left, tmp_path / "gone.parquet")
        paths = fewer.paths | {name: str(tmp_path / "gone.parquet")}
        with pytest.raises(duckdb.BinderException, match=gone):
            planned(replace(tables, paths=paths), question)


def planned(tables, question):
    """Let DuckDB plan its question on these files: a column that is not there is an error."""
    with duckdb.connect() as connection:
        load = partial(engines._duckdb_table, connection, enums=False)
        connection.sql(f"EXPLAIN {engines.asked(in_sql, question, tables, load)()}")


def test_a_cluster_elsewhere_is_held_against_no_ceiling_of_this_machine(cache, cluster):
    """Who computes on other machines is not told a share of this one."""
    tables = workload.tables("groupby_1", 6_000, keys=10, cache=cache)
    prepared = engines.dask(tables, "groupby_1", cluster=cluster)
    prepared.close()
    assert prepared.peak is None


@pytest.mark.parametrize("question", ["groupby_3 from files", "groupby_8 from files", "join_4 from files"])
def test_engines_agree_while_they_read_the_files(question, cache, cluster):
    """A question from files has the answer of the one over loaded tables, and nothing is held between its calls."""
    tables = workload.tables(question, 4_000, keys=10, missing=0.2, cache=cache)
    different, expected = differences(tables, question, cluster)
    loaded = workload.tables(question.removesuffix(" from files"), 4_000, keys=10, missing=0.2, cache=cache)
    assert not different
    assert not equal(expected, answer("pandas", loaded, question, cluster)).note
    costs = engines.pandas(tables, question).execution_proof().costs
    assert costs.keys() == {"start_s"}  # no tables were loaded ahead of the calls


def test_a_wrong_answer_costs_that_engine_alone(cache):
    """An engine that loses the group of missing keys is rejected by the rule's name; the other keeps its result."""

    def wrong(tables, question):
        setup = engines.polars(tables, question)
        return replace(setup, call=lambda: setup.call().drop_nulls("id1"))

    comparison = Comparison("wrong", baseline="pandas", check=checks.equal, time_budget_s=0.2, max_rounds=6)
    for name, engine in {"pandas": engines.pandas, "DuckDB": engines.duckdb, "wrong": wrong}.items():
        comparison.variant(name, engine)
    result = comparison.run(workload.tables("groupby_1", 4_000, keys=10, missing=0.2, cache=cache), "groupby_1")
    assert result["wrong"].verdict == "rejected" and checks.KEYS in result["wrong"].reason
    assert result["DuckDB"].variant.check.state == "passed" and result["DuckDB"].speedup > 0


def test_what_the_sizes_show():
    """An exponent takes four sizes; a first answer has its parts; the fastest engines of a range are those that no
    other is faster than at any of its sizes, and with the baseline among them nothing is shown; a cluster is held
    against its engine here; what memory could not hold at the largest size is said to end below."""
    ratios = {"pandas": 1, "Polars": 6.1, "DuckDB": 4.2, "Dask": 0.5, "Dask on cluster": 0.2}
    made = {name: Made(ratio=ratio) for name, ratio in ratios.items()}
    result = Result(make_record(made, sizes=[1_000, 10_000, 100_000, 1_000_000]))
    assert [row[0] for row in figures.growth(result).rows if row[2] != "–"] == [*made]
    three = Result(make_record(made, sizes=[1_000, 10_000, 100_000]))
    assert {row[2] for row in figures.growth(three).rows} == {"–"}
    assert {row[1] for row in figures.growth(three.at(1_000)).rows} == {"–"}
    assert [part.name for part in figures.first_answer(result).series] == [*figures.PARTS.values()]
    (_, below), (_, middle) = figures.fastest(result).rows
    assert middle == "Polars" and "Polars" in below and "Dask" not in middle and not figures.fastest(result).note
    claim = {"10,000 to 1,000,000 rows": ["Polars", "DuckDB"]}
    assert figures.claimed(result, claim)["10,000 to 1,000,000 rows: no engine is faster than Polars"] is True
    alike = Result(make_record({"pandas": Made(), "Polars": Made()}, sizes=[10_000, 100_000]))
    assert set(figures.claimed(alike, claim).values()) == {None}
    assert [" as long as Dask (95" in row[2] for row in figures.cluster_cost(result).rows] == 4 * [True]
    replace, (*others, last) = msgspec.structs.replace, result.record.points
    gone = replace(last.variants[1], state="skipped", verdict="skipped", median_s=None, effect=None)
    ended = Result(replace(result.record, points=[*others, replace(last, variants=[last.variants[0], gone])]))
    assert figures.growth(ended).rows[1] == ["Polars", "always, up to 100,000 rows", "–"]
    assert figures.fastest(ended).note.startswith("Polars is not measured above 100k rows")


def test_options_of_generated_tables():
    """db-benchmark's K and per cent of missing values become options of the tables; one number is not enough."""
    assert workload.db_benchmark([10, 5]) == {"keys": 10, "missing": 0.05}
    with pytest.raises(UserError, match=r"db_benchmark=\[10\] is not allowed; give two whole numbers"):
        workload.db_benchmark([10])


NULLS = {"id": ["a", None], "n": [1, 2]}
BY_DESIGN = [
    ({"id": ["a"], "n": [1]}, NULLS, checks.KEYS),
    ({"ratio": [2, 1]}, {"ratio": [2.5, 1.0]}, checks.DIVISION),
    ({"price": [decimal.Decimal("1.2")]}, {"price": [1.25]}, checks.SCALE),
    ({"n": [1.0]}, {"n": [2.0]}, ""),
    ({"price": [decimal.Decimal("9.99")]}, {"price": [1.25]}, ""),
    ({"price": [decimal.Decimal("1.2")]}, {"price": ["1.25"]}, ""),
    ({"ratio": [3, 1]}, {"ratio": [2.5, 2.0]}, ""),
    ({"id": ["a"], "mean": [1.0]}, {"id": ["a", "b"], "mean": [1.0, None]}, ""),
    ({"n": pa.array([], pa.decimal128(5, 2))}, {"n": [1.25]}, ""),
]


@pytest.mark.parametrize(("got", "expected", "rule"), BY_DESIGN)
def test_a_difference_by_design_names_its_rule(got, expected, rule):
    """Engines differ in missing keys, the division of integers and the scale of decimals: the check names the rule, and
    none where another difference is."""
    found = checks.equal(pa.table(got), pa.table(expected))
    assert found.state == "failed" and found.note.partition("; the rule: ")[2] == rule
    assert checks.equal(pa.table(expected), pa.table(expected)).state == "passed"
