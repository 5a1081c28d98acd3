"""The tables: what is generated has the promised keys, flights keep their joins, and a cache is whole or not there."""

import multiprocessing
import os
import signal
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kit.errors import UserError
from kit.techniques.dataframes import flights, generate
from kit.techniques.dataframes.tables import cached


def read(tables, name="x"):
    return pq.read_table(tables.paths[name])


def distinct(table, name):
    return len(pc.unique(table[name].drop_null()))


def test_groupby_tables_have_the_benchmarks_keys(tmp_path):
    """G1 has K keys in id1, id2, id4 and id5, N/K in id3 and id6, and values in their ranges."""
    x = read(generate.groupby(20_000, keys=20, cache=tmp_path))
    assert x.num_rows == 20_000
    assert {name: distinct(x, name) for name in ("id1", "id2", "id4", "id5")} == dict.fromkeys(
        ("id1", "id2", "id4", "id5"), 20
    )
    assert distinct(x, "id3") == distinct(x, "id6") == 1_000
    assert (x["id1"][0].as_py()[:2], len(x["id1"][0].as_py()), len(x["id3"][0].as_py())) == ("id", 5, 12)
    for name, low, high in (("v1", 1, 5), ("v2", 1, 15), ("id4", 1, 20), ("id6", 1, 1_000)):
        assert pc.min_max(x[name]).as_py() == {"min": low, "max": high}
    assert pc.min(x["v3"]).as_py() >= 0 and pc.max(x["v3"]).as_py() <= 100
    assert pc.all(pc.equal(pc.round(x["v3"], 6), x["v3"])).as_py()


def test_missing_values_are_the_share_asked_for(tmp_path):
    """That share of the different keys is missing, exactly, and of the values, nearly."""
    x = read(generate.groupby(50_000, keys=20, missing=0.1, cache=tmp_path))
    assert distinct(x, "id1") == distinct(x, "id4") == 18
    assert distinct(x, "id3") == 2_250
    for name in ("v1", "v2", "v3"):
        assert x[name].null_count / x.num_rows == pytest.approx(0.1, abs=0.01)
    assert not any(c.null_count for c in read(generate.groupby(1_000, 20, cache=tmp_path)).columns)


def test_sorted_tables_are_sorted(tmp_path):
    """A sorted table holds the same rows, by id1 to id6."""
    plain, ordered = (read(generate.groupby(5_000, 10, 0.1, sort, cache=tmp_path)) for sort in (False, True))
    keys = [(name, "ascending") for name in plain.column_names]
    assert plain.sort_by(keys).equals(ordered)
    assert not plain.equals(ordered)


def test_join_tables_overlap_by_nine_tenths(tmp_path):
    """Nine tenths of the keys of x are in the table to join with; keys are unique there; text says the number."""
    tables = generate.join(20_000, cache=tmp_path)
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


def test_the_seed_decides_everything(tmp_path):
    """The same seed gives the same tables, another seed others."""
    for make in (generate.groupby, generate.join):
        first, again, other = (
            read(make(3_000, seed=seed, cache=tmp_path / folder)) for seed, folder in ((1, "a"), (1, "b"), (2, "a"))
        )
        assert first.equals(again)
        assert not first.equals(other)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda c: generate.groupby(0, cache=c), "rows=0"),
        (lambda c: generate.groupby(10, keys=11, cache=c), "1 to 10 different keys"),
        (lambda c: generate.join(10, missing=5, cache=c), "as 0.05 for 5 %"),
        (lambda c: generate.tables("own_sort", 10, cache=c), "not asked of generated tables"),
        (lambda c: flights.tables(0, c), "at least 1 row"),
    ],
)
def test_tables_that_can_not_be(make, sentence, tmp_path):
    """Numbers that no table has are refused in one sentence, and leave nothing behind."""
    with pytest.raises(UserError, match=sentence):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


def matched(tables):
    """Return the number of rows joined, and how many flights find their weather, plane, airport and airline."""
    import duckdb

    files = {name: f"'{path}'" for name, path in tables.paths.items()}
    query = """
        SELECT count(*), avg((w.origin IS NOT NULL)::INT), avg((p.tailnum IS NOT NULL)::INT),
               avg((a.faa IS NOT NULL)::INT), avg((l.carrier IS NOT NULL)::INT)
        FROM {flights} f LEFT JOIN {weather} w USING (origin, time_hour) LEFT JOIN {planes} p USING (tailnum)
        LEFT JOIN {airports} a ON faa = dest LEFT JOIN {airlines} l USING (carrier)
    """
    [(rows, *shares)] = duckdb.sql(query.format(**files)).fetchall()
    return rows, shares


def test_replicated_flights_join_as_often(tmp_path):
    """Two and a half years of flights find their weather, planes, airports and airlines as often as the real year."""
    real_rows, real = matched(flights.tables(cache=tmp_path))
    rows, shares = matched(flights.tables(842_000, tmp_path))
    assert (real_rows, rows) == (flights.REAL_ROWS, 842_000)
    assert shares == pytest.approx(real, abs=0.002)
    assert real[0] > 0.99 and real[3] == 1


def test_years_do_not_overlap(tmp_path):
    """Each copy has the days of its own year, 365 of them, leap years too."""
    table = pq.read_table(
        flights.tables(4 * flights.REAL_ROWS, tmp_path).paths["flights"], columns=["year", "month", "day"]
    )
    days = table.group_by(["year", "month", "day"]).aggregate([])
    assert {y: days["year"].to_pylist().count(y) for y in (2013, 2014, 2015, 2016)} == dict.fromkeys(
        range(2013, 2017), 365
    )


def test_fewer_rows_are_the_first_ones(tmp_path):
    """A thousand flights are the first thousand of the year."""
    few, all_ = (read(flights.tables(rows, tmp_path), "flights") for rows in (1_000, None))
    assert few.equals(all_.slice(0, 1_000))


def slow_write(folder, seconds=60):
    """Write one table, then dawdle before the next, as a process does that is killed half-way."""
    pq.write_table(pa.table({"n": [1]}), folder / "a.parquet")
    (folder.parent / "started").touch()
    time.sleep(seconds)
    pq.write_table(pa.table({"n": [2]}), folder / "b.parquet")


def make(cache, seconds):
    cached(cache, "t", ("a", "b"), lambda folder: slow_write(folder, seconds))


def test_a_killed_writer_leaves_no_cache(tmp_path):
    """What a killed process had half written is never used; the next one writes it anew."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=(tmp_path, 60))
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "t").exists()
    assert cached(tmp_path, "t", ("a", "b"), lambda folder: slow_write(folder, 0)).keys() == {"a", "b"}
    assert pq.read_table(tmp_path / "t" / "b.parquet").num_rows == 1


def test_two_writers_at_once_agree(tmp_path):
    """Two processes that make the same tables at once both succeed, and one whole copy stays."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=make, args=(tmp_path, 0.5)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["started", "t"]
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["a.parquet", "b.parquet"]


def test_a_truncated_file_is_made_again(tmp_path):
    """A file of the cache that lost its end, or is gone, is noticed and made again."""
    path = cached(tmp_path, "t", ("a", "b"), lambda folder: slow_write(folder, 0))["b"]
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    again = cached(tmp_path, "t", ("a", "b"), lambda folder: slow_write(folder, 0))["b"]
    assert pq.read_table(again)["n"].to_pylist() == [2]
    os.remove(again)
    assert os.path.exists(cached(tmp_path, "t", ("a", "b"), lambda folder: slow_write(folder, 0))["b"])


def test_a_whole_cache_is_not_written_again(tmp_path):
    """A second call reads what the first one wrote."""
    first = flights.tables(100, tmp_path)
    written = os.stat(first.paths["flights"]).st_mtime_ns
    assert flights.tables(100, tmp_path) == first
    assert os.stat(first.paths["flights"]).st_mtime_ns == written
