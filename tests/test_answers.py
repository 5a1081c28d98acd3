"""Equal answers are called equal whatever engine made them, and different ones are not."""

import datetime
import decimal
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from kit.measure.answers import equal, is_lazy, portable

ROWS = {"key": ["b", "a", "c"], "n": [1, 2, 3], "mean": [0.5, 1.5, 2.5]}


def state(answer, reference) -> str:
    return equal(portable(answer), portable(reference)).state


def duckdb_table(frame):
    import duckdb

    return duckdb.connect().from_arrow(pa.table(frame))


MAKERS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table, "duckdb": lambda r: duckdb_table(r)}


@pytest.mark.parametrize("made_by", MAKERS)
@pytest.mark.parametrize("reference_by", MAKERS)
def test_one_table_from_any_engine_is_equal(made_by, reference_by):
    """The same rows are equal between every two engines, also after a journey between processes."""
    found = equal(pickle.loads(pickle.dumps(portable(MAKERS[made_by](ROWS)))), portable(MAKERS[reference_by](ROWS)))
    assert (found.state, found.metric, found.note) == ("passed", "equal tables", "")


@pytest.mark.parametrize(
    "same",
    [
        pd.DataFrame(ROWS).sample(frac=1, random_state=1),
        pd.DataFrame(ROWS)[["mean", "n", "key"]].reset_index(drop=True),
        pl.DataFrame(ROWS).with_columns(pl.col("n").cast(pl.Int8)),
        pl.DataFrame(ROWS).with_columns(pl.col("n").cast(pl.UInt32)),
        pl.DataFrame(ROWS).with_columns(pl.col("mean").cast(pl.Float32)),
        pl.DataFrame(ROWS).with_columns(pl.col("key").cast(pl.Categorical)),
        pl.DataFrame(ROWS).with_columns(pl.col("n").cast(pl.Float64)),
        pa.table(ROWS | {"key": pa.array(ROWS["key"], pa.large_string())}),
        pa.table(ROWS | {"mean": pa.array([decimal.Decimal(str(x)) for x in ROWS["mean"]])}),
        pl.DataFrame(ROWS | {"mean": [x * (1 + 1e-9) for x in ROWS["mean"]]}),
    ],
    ids="rows columns int8 uint32 float32 category float large decimal rounding".split(),
)
def test_what_does_not_count_in_a_table(same):
    """Order of rows and columns, widths, encodings and rounding do not make an answer wrong."""
    same = same.reset_index(drop=True) if isinstance(same, pd.DataFrame) else same
    found = equal(portable(same), portable(pl.DataFrame(ROWS)))
    assert found.state == "passed", found.note


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (ROWS | {"n": [1, 2, 4]}, "'n'"),
        (ROWS | {"mean": [0.5, 1.5, 2.5001]}, "'mean'"),
        (ROWS | {"mean": [0.5, 1.5, None]}, "'mean'"),
        (ROWS | {"mean": [0.5, 1.5, float("inf")]}, "'mean'"),
        (ROWS | {"key": ["b", "a", "C"]}, "'key'"),
        (ROWS | {"key": ["b", "a", None]}, "'key'"),
        (ROWS | {"n": ["1", "2", "3"]}, "'n'"),
        ({"key": ROWS["key"], "n": ROWS["n"]}, "columns"),
        (ROWS | {"more": [1, 2, 3]}, "columns"),
        ({name: values[:2] for name, values in ROWS.items()}, "2 rows instead of 3"),
        ({name: values + values[:1] for name, values in ROWS.items()}, "4 rows instead of 3"),
        ({name: values[:0] for name, values in ROWS.items()}, "0 rows instead of 3"),
    ],
)
def test_what_is_wrong_in_a_table_is_told(wrong, told):
    """A wrong number, text, null, column or row breaks the answer, and the note says where."""
    found = equal(portable(pl.DataFrame(wrong)), portable(pd.DataFrame(ROWS)))
    assert found.state == "failed"
    assert told in found.note


def test_a_value_swapped_between_rows_is_wrong():
    """Right values in the wrong rows are a wrong answer: columns are not compared one by one."""
    assert state(pl.DataFrame(ROWS | {"mean": [1.5, 0.5, 2.5]}), pl.DataFrame(ROWS)) == "failed"


def test_null_and_nan_are_the_same():
    """pandas' NaN and Polars' null are one thing, in floats and in whole numbers with gaps."""
    assert state(pd.DataFrame({"x": [1.0, np.nan]}), pl.DataFrame({"x": [1.0, None]})) == "passed"
    assert state(pd.DataFrame({"x": [1, None]}), pl.DataFrame({"x": [1, None]})) == "passed"
    assert state(pd.DataFrame({"x": [np.nan, 1.0]}), pl.DataFrame({"x": [1.0, float("nan")]})) == "passed"


@pytest.mark.parametrize(
    "key",
    [
        [3.0, 1.0, 2.0],
        [5.0, None, 7.0],
        [1_000_001.0, 1_000_000.0, 1_000_002.0],
        [0.25, 0.5, 0.125],
        [1.7e9 + 0.25, 1.7e9 + 0.5, 1.7e9 + 0.75],
    ],
)
def test_rounding_never_decides_which_rows_are_compared(key):
    """A key that is a float, as ids with missing values are, leads; means that differ in their last digit do not."""
    ours = pa.table({"average": [0.1 + 0.2, 0.3, 0.3], "user": key, "z": [1.5, 2.5, 3.5]})
    theirs = pa.table({"average": [0.3, 0.1 + 0.2, 0.3], "user": key, "z": [1.5, 2.5, 3.5]}).take([2, 0, 1])
    assert state(ours, theirs) == "passed"
    wrong = ours.set_column(2, "z", pa.array([2.5, 1.5, 3.5]))
    assert state(wrong, theirs) == "failed"


def test_whole_numbers_as_floats_are_exact():
    """One id for its neighbour is wrong, though it lies within the tolerance of a mean."""
    found = equal(pa.table({"id": [1e6, 3e6]}), pa.table({"id": [1e6 + 1, 3e6]}))
    assert (found.state, found.note) == ("failed", "column 'id' differs, as 1000000 instead of 1000001")
    assert state(pa.table({"mean": [1e6, 3.5e6]}), pa.table({"mean": [1e6 * (1 + 1e-8), 3.5e6]})) == "passed"


@pytest.mark.parametrize("value", [2**53 + 1, -(2**63), 2**63 - 1, 2**64 - 1])
def test_large_sums_are_compared_to_the_last_digit(value):
    """Epoch milliseconds and bytes add up beyond 2⁵³: as 64 and 128 bits and as decimals they are the same number."""
    whole = pa.array([value], pa.uint64() if value > 2**63 else pa.int64())
    wide = [pa.decimal128(38, 0), pa.decimal128(38, 2), pa.decimal256(76, 4)]
    for kind in wide:
        same, other = (pa.table({"k": ["a"], "s": pa.array([decimal.Decimal(v)], kind)}) for v in (value, value - 1))
        reference = pa.table({"k": ["a"], "s": whole})
        assert state(same, reference) == state(reference, same) == "passed"
        assert state(other, reference) == state(reference, other) == "failed"
    assert state(pa.table({"s": [2**64 - 1]}, pa.schema({"s": pa.uint64()})), pa.table({"s": [-1]})) == "failed"
    assert state(pa.table({"s": [float(value)]}), pa.table({"s": whole})) == "passed"


def test_infinities_of_both_signs_are_one_missing_value():
    """Their sum is NaN, which is null; one infinity alone is itself, and not the other."""
    inf = float("inf")
    assert state(pa.table({"x": [inf, float("nan"), 0.5]}), pa.table({"x": [None, inf, 0.5]})) == "passed"
    assert state(pa.table({"x": [inf, 0.5]}), pa.table({"x": [-inf, 0.5]})) == "failed"
    assert state(pa.table({"x": [0.0, 0.5]}), pa.table({"x": [None, 0.5]})) == "failed"


def test_a_column_without_values_has_any_type():
    """What an engine calls nothing is no difference, nor is a table without rows."""
    assert state(pl.DataFrame({"x": [], "y": []}), pd.DataFrame({"x": [], "y": []})) == "passed"
    for kind in (pa.null(), pa.string(), pa.int64(), pa.timestamp("us")):
        ours, theirs = pa.table({"k": [1, 2], "x": pa.nulls(2)}), pa.table({"k": [2, 1], "x": pa.nulls(2, kind)})
        assert state(ours, theirs) == "passed"
    assert state(pa.table({"x": pa.nulls(2)}), pa.table({"x": ["a", None]})) == "failed"


def test_dates_of_every_engine_are_equal():
    """A date and a timestamp at any resolution are the same day; another day is not."""
    days = [datetime.date(2013, 1, 1), datetime.date(2013, 12, 31)]
    reference = pd.DataFrame({"day": pd.to_datetime(days)})
    assert state(pl.DataFrame({"day": days}), reference) == "passed"
    assert state(pl.DataFrame({"day": days}).with_columns(pl.col("day").cast(pl.Datetime("ns"))), reference) == "passed"
    assert state(pl.DataFrame({"day": [days[0], datetime.date(2014, 1, 1)]}), reference) == "failed"


def test_categories_of_several_pieces_and_gaps_are_texts():
    """Categories in several pieces, with gaps or without any row, are compared by their texts."""
    pieces = [pa.array(["a", None, "b"]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode()]
    plain = pa.table({"x": ["a", None, "b", "c", "a"]})
    assert state(pa.table({"x": pa.chunked_array(pieces)}), plain) == "passed"
    assert state(pd.DataFrame({"x": pd.Categorical(["a", None, "b", "c", "b"])}), plain) == "failed"
    assert state(pa.table({"x": pa.chunked_array(pieces)}).slice(0, 0), plain.slice(0, 0)) == "passed"


def test_an_index_with_meaning_counts():
    """The keys of a pandas groupby stand in its index: they are compared, not thrown away."""
    frame = pd.DataFrame(ROWS).groupby("key")[["n"]].sum()
    assert state(frame, pd.DataFrame(ROWS)[["key", "n"]]) == "passed"
    other = pd.DataFrame(ROWS | {"key": ["x", "y", "z"]}).groupby("key")[["n"]].sum()
    assert state(other, frame) == "failed"


@pytest.mark.parametrize("made_by", [pd.Series, pl.Series])
def test_one_column_is_an_answer(made_by):
    """A variant may return a single column, as `frame["x"].cumsum()` does."""
    assert state(made_by([1.0, 2.0, 3.0]), pd.Series([1.0, 2.0, 3.0])) == "passed"
    assert state(made_by([1.0, 2.0, 4.0]), pd.Series([1.0, 2.0, 3.0])) == "failed"


def test_a_plan_is_not_an_answer():
    """What is only computed when it is read would be computed after the timing, and is told apart."""
    import dask.dataframe

    frame = pd.DataFrame(ROWS)
    plans = [pl.LazyFrame(ROWS), duckdb_table(frame), dask.dataframe.from_pandas(frame), (x for x in [1])]
    assert [is_lazy(plan) for plan in plans] == [True] * 4
    answers = [frame, pl.DataFrame(ROWS), pa.table(ROWS), frame["n"], [1], {"a": 1}, np.ones(2), None, 1, "text"]
    assert not any(is_lazy(answer) for answer in answers)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (1, 1.0),
        (1.0 + 1e-9, 1.0),
        (np.float32(0.1), 0.1),
        (float("nan"), float("nan")),
        ("text", "text"),
        ([1, "a", None], (1, "a", None)),
        ({"a": 1.0, "b": [2]}, {"b": [2], "a": 1}),
        (np.arange(3), [0, 1, 2]),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan])),
        ([None, 1.0], [float("nan"), 1.0]),
        (np.array(["a", "b"]), np.array(["a", "b"])),
        (np.array(["2013-01-01", "NaT"], "M8[D]"), np.array(["2013-01-01", "NaT"], "M8[D]")),
        ([], []),
        (b"x", b"x"),
        (datetime.date(2013, 1, 1), datetime.date(2013, 1, 1)),
    ],
)
def test_equal_values(answer, reference):
    """Numbers within rounding, texts, sequences, mappings and arrays are equal element by element."""
    found = equal(answer, reference)
    assert found.state == "passed", found.note


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (1, 2),
        (1.001, 1.0),
        ("a", "b"),
        ("1", 1),
        (None, 1),
        (1, None),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        (np.arange(3), np.arange(4)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0])),
        (np.array(["a"]), np.array([1])),
        (float("nan"), 1.0),
        (float("inf"), 1e300),
        ({"deep": [{"x": 1}]}, {"deep": [{"x": 2}]}),
        (pa.table(ROWS), 5),
        (5, pa.table(ROWS)),
        (2**60 + 1, 2**60),
    ],
)
def test_different_values(answer, reference):
    """A different number, text, order, length, key or shape breaks the answer, and a note says what it is."""
    found = equal(answer, reference)
    assert found.state == "failed"
    assert found.note
    assert len(found.note) < 400
    assert "\n" not in found.note
    assert "['b'] [1]" in equal({"a": answer, "b": [1, answer]}, {"a": answer, "b": [1, reference]}).note


def test_nothing_to_compare_is_not_a_pass():
    """Variants that return nothing are unchecked: nobody knows that they did the same."""
    assert equal(None, None).state == "not checked"
