"""Datasets out of installed packages: real, the same in every run, and named with a remedy where they are missing."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kit.common import datasets
from kit.errors import UserError


def matched(paths):
    """Return the number of rows joined, and how many flights find their weather, plane, airport and airline."""
    import duckdb

    files = {name: f"'{path}'" for name, path in paths.items()}
    query = """
        SELECT count(*), avg((w.origin IS NOT NULL)::INT), avg((p.tailnum IS NOT NULL)::INT),
               avg((a.faa IS NOT NULL)::INT), avg((l.carrier IS NOT NULL)::INT)
        FROM {flights} f LEFT JOIN {weather} w USING (origin, time_hour) LEFT JOIN {planes} p USING (tailnum)
        LEFT JOIN {airports} a ON faa = dest LEFT JOIN {airlines} l USING (carrier)
    """
    [(rows, *shares)] = duckdb.sql(query.format(**files)).fetchall()
    return rows, shares


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_replicated_flights_join_as_often(cache):
    """Flights of one and a half years find their weather, planes, airports and airlines as often as the real ones."""
    real_rows, real = matched(datasets.flights())
    rows, shares = matched(datasets.flights(500_000, cache))
    assert (real_rows, rows) == (datasets.FLIGHTS, 500_000)
    assert shares == pytest.approx(real, abs=0.002)
    assert real[0] > 0.99 and real[3] == 1


def test_years_do_not_overlap():
    """Each copy has the days of its own year, 365 of them, leap years too, at the same hours."""
    real = pq.read_table(datasets.flights()["flights"], columns=["year", "month", "day", "time_hour"])
    for years in (1, 3):
        later = datasets._years_later(real, years)
        days = later.group_by(["year", "month", "day"]).aggregate([])
        assert len(days) == 365 and set(days["year"].to_pylist()) == {2013 + years}
        first, last = (later["time_hour"][place].as_py() for place in (0, -1))
        assert (first, last) == tuple(real["time_hour"][n].as_py().replace(year=2013 + years) for n in (0, -1))


def test_fewer_rows_are_the_first_ones_and_written_once(cache):
    """A thousand flights are the first thousand of the year; a second call reads what the first one wrote."""
    few, real = datasets.flights(1_000, cache), datasets.flights()
    assert pq.read_table(few["flights"]).equals(pq.read_table(real["flights"]).slice(0, 1_000))
    written = os.stat(few["flights"]).st_mtime_ns
    assert datasets.flights(1_000, cache) == few and os.stat(few["flights"]).st_mtime_ns == written


def test_a_truncated_file_is_made_again(tmp_path):
    """A file of the cache that lost its end, or is gone, is noticed and made again."""

    def made():
        table = pa.table({"n": [2]})
        return datasets.cached_tables(tmp_path, "t", ["a"], lambda folder: pq.write_table(table, folder / "a.parquet"))

    path = made()["a"]
    os.truncate(path, os.path.getsize(path) // 2)
    assert pq.read_table(made()["a"])["n"].to_pylist() == [2]
    os.remove(path)
    assert made() == {"a": path} and os.path.exists(path)


def test_digits_are_whole_and_their_halves_apart():
    """4,000 and 1,000 standardized images, 100 of each digit to test on; the seed decides the split."""
    (inputs, targets), (test_inputs, test_targets) = datasets.mnist()
    assert (inputs.shape, test_inputs.shape) == ((4_000, 1, 28, 28), (1_000, 1, 28, 28))
    assert np.bincount(test_targets).tolist() == [100] * 10 and targets.dtype == np.int64
    assert abs(inputs.mean()) < 0.05 and abs(inputs.std() - 1) < 0.05
    assert not {image.tobytes() for image in test_inputs} & {image.tobytes() for image in inputs}
    assert np.array_equal(datasets.mnist()[0][1], targets) and not np.array_equal(datasets.mnist(1)[0][1], targets)


def test_text_is_prose():
    """Half a million characters of English with Python in it."""
    assert len(datasets.text()) > 300_000 and 'The "with" statement' in datasets.text()


def test_a_missing_package_is_named_with_its_command():
    """No download is tried."""
    with pytest.raises(UserError, match="in package no_such_data, which is not installed; pip install x=="):
        datasets.installed_folder("no_such_data", "x==1")
