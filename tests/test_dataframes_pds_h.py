"""PDS-H: the published answers, by every engine; what is wrong with one query of one engine costs that alone."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kit import Comparison
from kit.errors import UserError
from kit.techniques.dataframes import clusters, pds_h

SCALE = 0.01
PUBLISHED = {6: [1193053.2253], 14: [15.48654581228407], 19: [22923.0280]}
"""At this scale factor, as DuckDB's own generator publishes them. Query 17 has no row."""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The tables, generated once."""
    return pds_h.tables(SCALE, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def expected(paths):
    """DuckDB's answers."""
    return pds_h.duckdb(paths, pds_h.queries(SCALE)).call().answer


def test_the_tables_are_made_once(paths, tmp_path):
    """Their rows are those of the specification; what is there is not made again, what is cut short is."""
    rows = {name: pq.read_metadata(path).num_rows for name, path in paths.items()}
    assert rows == {"customer": 1500, "lineitem": 60175, "nation": 25, "orders": 15000, "part": 2000,
                    "partsupp": 8000, "region": 5, "supplier": 100}  # fmt: skip
    made = pds_h.tables(0.001, cache=tmp_path)
    orders = Path(made["orders"])
    before = orders.read_bytes()
    orders.write_bytes(before[:100])
    assert pds_h.tables(0.001, cache=tmp_path) == made and orders.read_bytes() == before


def test_tables_that_can_not_be_made_leave_nothing(tmp_path):
    """A generator that fails is one sentence, with what to do."""
    with pytest.raises(UserError, match=r"made no tables .--scale-factor=-1.: .*; pip install tpchgen-cli"):
        pds_h.tables(-1, cache=tmp_path)
    assert not list(tmp_path.glob("*/*"))


def test_the_answers_are_the_published_ones(expected):
    """DuckDB's answers, to which the others are compared, are those published for this scale factor."""
    found = {number: [float(value) for value in expected[number][0].to_pylist()] for number in PUBLISHED}
    assert found == {number: pytest.approx(values, rel=1e-9) for number, values in PUBLISHED.items()}
    assert expected[4].to_pydict()["order_count"] == [93, 103, 109, 102, 128]
    assert expected[12].to_pydict()["l_shipmode"] == ["MAIL", "SHIP"] and expected[17]["avg_yearly"][0].as_py() is None


def test_all_queries_are_there():
    """22 queries, numbered, each with a title; the fraction of query 11 follows the scale factor."""
    assert list(pds_h.TITLES) == list(range(1, 23)) and all(pds_h.TITLES.values())
    assert "* 0.0000100000" in pds_h.queries(10)[11] and list(pds_h.queries(1, [6, 3])) == [3, 6]


def test_polars_has_equal_answers(paths, expected):
    """To all 22, in the order of the rows; every query has its seconds."""
    measured = pds_h.polars(paths, pds_h.queries(SCALE)).call()
    found = pds_h.check(measured.answer, expected)
    assert (found.state, found.metric, found.note) == ("passed", "22 of 22 answers equal", "")
    assert set(measured.metrics) == {f"q{number}_s" for number in range(1, 23)}
    assert min(measured.metrics.values()) < measured.seconds < max(measured.metrics.values())


@pytest.mark.parametrize(
    ("answer", "difference"),
    [
        (pa.table({"k": ["a", "b"], "mean": [0.1234567, 2.0]}), ""),
        (pa.table({"k": ["a", "b"], "mean": pa.array(["0.123456", "2.000000"]).cast(pa.decimal128(19, 6))}), ""),
        (pa.table({"k": ["b", "a"], "mean": [2.0, 0.1234567]}), "Q1 has k b instead of a"),
        (pa.table({"k": ["a", "b"], "mean": [0.1235567, 2.0]}), "Q1 has mean 0.1235567 instead of 0.1234567"),
        (pa.table({"k": ["a", "b"], "mean": [None, 2.0]}), "Q1 has mean None instead of 0.1234567"),
        (pa.table({"k": ["a"], "mean": [0.1234567]}), "Q1 has 1 rows instead of 2"),
        ("failed: MemoryError", "Q1 failed: MemoryError"),
    ],
)
def test_what_counts_as_an_equal_answer(answer, difference):
    """Six places of a mean are enough; another order, a missing value, a missing row or an error are not."""
    expected = pa.table({"k": ["a", "b"], "mean": [0.1234567, 2.0]})
    found = pds_h.check({1: answer}, {1: expected})
    assert (found.note, found.state) == (difference, "failed" if difference else "passed")


def test_a_wrong_answer_costs_one_engine_one_query(paths):
    """A wrong answer and a query that fails are named and have no ratio; the engine's others have theirs, and so have
    all of the other engine."""

    def broken(paths, sql):
        return pds_h.polars(paths, sql | {6: "SELECT 1.5 AS revenue", 4: "SELECT x FROM nowhere"})

    comparison = Comparison("pds_h", baseline="DuckDB", check=pds_h.check, time_budget_s=0.2, max_rounds=2)
    for name, engine in {"DuckDB": pds_h.duckdb, "Polars": pds_h.polars, "broken": broken}.items():
        comparison.variant(name, engine)
    result = comparison.run(paths, pds_h.queries(SCALE, [3, 4, 6]))
    assert result["broken"].verdict == "rejected" and result["Polars"].variant.check.state == "passed"
    assert "Q4 failed: " in result["broken"].reason
    assert "Q6 has revenue 1.5 instead of 1193053.2253" in result["broken"].reason
    assert list(pds_h.ratios(result, "broken")) == [3] and list(pds_h.ratios(result, "Polars")) == [3, 4, 6]


@pytest.mark.parametrize(("engine", "needs"), [("sail", "pysail"), ("spark", "pyspark")])
def test_spark_has_equal_answers(paths, engine, needs):
    """Sail's are all equal; PySpark's are where its decimals differ: means and quotients."""
    limits = {"time_budget_s": 0.1, "max_rounds": 1, "timeout_s": 600.0}
    comparison = Comparison("pds_h", baseline="DuckDB", check=pds_h.check, **limits)
    comparison.variant("DuckDB", pds_h.duckdb)
    comparison.variant("other", partial(pds_h.spark, getattr(clusters, engine)), requires=needs)
    result = comparison.run(paths, pds_h.queries(SCALE, [] if engine == "sail" else [1, 8]))
    if result["other"].verdict == "skipped":
        pytest.skip(result["other"].reason)
    found = result["other"].variant
    assert (found.check.state, found.check.note) == ("passed", "")
    assert found.execution_proof.state == "verified"
