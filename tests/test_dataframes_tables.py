"""The tables: what is generated has the promised keys."""

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kit.errors import UserError
from kit.techniques.dataframes import workload


def read(tables, name="x"):
    return pq.read_table(tables.paths[name])


def distinct(table, name):
    return len(pc.unique(table[name].drop_null()))


def test_groupby_tables_have_the_benchmarks_keys(tmp_path):
    """G1 has K keys in id1, id2, id4 and id5, N/K in id3 and id6, and values in their ranges."""
    x = read(workload.groupby(20_000, keys=20, cache=tmp_path))
    assert x.num_rows == 20_000
    assert [distinct(x, name) for name in ("id1", "id2", "id4", "id5")] == [20] * 4
    assert distinct(x, "id3") == distinct(x, "id6") == 1_000
    assert (x["id1"][0].as_py()[:2], len(x["id1"][0].as_py()), len(x["id3"][0].as_py())) == ("id", 5, 12)
    for name, low, high in (("v1", 1, 5), ("v2", 1, 15), ("id4", 1, 20), ("id6", 1, 1_000)):
        assert pc.min_max(x[name]).as_py() == {"min": low, "max": high}
    assert pc.min(x["v3"]).as_py() >= 0 and pc.max(x["v3"]).as_py() <= 100
    assert pc.all(pc.equal(pc.round(x["v3"], 6), x["v3"])).as_py()


def test_missing_values_are_the_share_asked_for(tmp_path):
    """That share of the different keys is missing, exactly, and of the values, nearly."""
    x = read(workload.groupby(50_000, keys=20, missing=0.1, cache=tmp_path))
    assert distinct(x, "id1") == distinct(x, "id4") == 18
    assert distinct(x, "id3") == 2_250
    for name in ("v1", "v2", "v3"):
        assert x[name].null_count / x.num_rows == pytest.approx(0.1, abs=0.01)
    assert not any(c.null_count for c in read(workload.groupby(1_000, 20, cache=tmp_path)).columns)


def test_join_tables_overlap_by_nine_tenths(tmp_path):
    """Nine tenths of the keys of x are in the table to join with; keys are unique there; text says the number."""
    tables = workload.join(20_000, cache=tmp_path)
    x = read(tables)
    for number, (name, size) in enumerate((("small", 10), ("medium", 100), ("big", 20_000)), start=1):
        right, key = read(tables, name), f"id{number}"
        left, there = set(x[key].to_pylist()), set(right[key].to_pylist())
        assert (right.num_rows, len(there), len(left)) == (size, size, size)
        assert len(left & there) == size * 9 // 10
        assert right[f"id{number + 3}"].to_pylist() == [f"id{i}" for i in right[key].to_pylist()]
    last = x.slice(18_000)  # matches are spread over the rows, not at their beginning
    matched = len(set(last["id3"].to_pylist()) & set(read(tables, "big")["id3"].to_pylist())) / 2_000
    assert matched == pytest.approx(0.9, abs=0.05)


def test_the_same_tables_everywhere(tmp_path):
    """Tables of the same size are the same in every cache."""
    for make in (workload.groupby, workload.join):
        assert read(make(3_000, cache=tmp_path / "a")).equals(read(make(3_000, cache=tmp_path / "b")))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda c: workload.groupby(0, cache=c), "rows=0"),
        (lambda c: workload.groupby(10, keys=11, cache=c), "keys=11 is not allowed; give a whole number from 1 to 10"),
        (lambda c: workload.join(10, missing=5, cache=c), "missing=5"),
        (lambda c: workload.tables("own_sort", 10, cache=c), "own_sort needs your own table; give data="),
        (lambda c: workload.tables("delay_features", 0, cache=c), "rows=0"),
    ],
)
def test_tables_that_can_not_be(make, sentence, tmp_path):
    """Numbers that no table has are refused in one sentence, and leave nothing behind."""
    with pytest.raises(UserError, match=sentence):
        make(tmp_path)
    assert not list(tmp_path.iterdir())
