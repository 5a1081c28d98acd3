"""The user's own table: any parquet or CSV is laid down for every engine; each mistake is answered in one sentence."""

import datetime
import decimal
import math

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from kit.errors import UserError
from kit.techniques.dataframes import own

TABLE = pa.table(
    {
        "customer": ["b", "a", None, "a"],
        "day": [datetime.date(2026, 1, 2), datetime.date(2026, 1, 1), datetime.date(2026, 1, 1), None],
        "amount": [1.5, math.nan, 3.0, None],
        "pieces": pa.array([1, 2, None, 4], pa.int16()),
        "paid": [True, False, None, True],
        "price": [decimal.Decimal("1.25"), None, decimal.Decimal("2.50"), decimal.Decimal("3.00")],
        "tags": [["x"], [], None, ["y"]],
        "never": pa.array([None] * 4, pa.float64()),
        "Day": [1, 2, 3, 4],
    }
)


@pytest.fixture
def folder(tmp_path):
    """A folder with the table as parquet, in two files, and as CSV."""
    (tmp_path / "parts").mkdir()
    pq.write_table(TABLE.slice(0, 2), tmp_path / "parts" / "a.parquet")
    pq.write_table(TABLE.slice(2), tmp_path / "parts" / "b.parquet")
    (tmp_path / "parts" / "_SUCCESS").touch()
    pyarrow.csv.write_csv(TABLE.drop(["tags", "Day"]), tmp_path / "table.csv")
    return tmp_path


def read(folder, data, by=("customer",), values=("amount", "pieces"), **more):
    tables = own.tables(str(data), list(by), list(values), cache=folder / "cache", **more)
    return tables, pq.read_table(tables.paths["x"])


@pytest.mark.parametrize("data", ["parts/*.parquet", "parts", "table.csv", "file://{folder}/parts/*.parquet"])
def test_parquet_and_csv_from_paths_globs_folders_and_urls(folder, data):
    """A glob, a folder, a CSV file and a URL all give the same rows, with NaN missing."""
    at = data.format(folder=folder) if "://" in data else folder / data
    tables, x = read(folder, at)
    assert (tables.workload, tables.rows, tables.by, tables.values) == ("own", 4, ("customer",), ("amount", "pieces"))
    assert x.to_pydict() == {
        "customer": ["b", "a", None, "a"],
        "amount": [1.5, None, 3, None],
        "pieces": [1, 2, None, 4],
    }


def test_any_filesystem_that_fsspec_knows():
    """A table in a remote store is read through fsspec."""
    with fsspec.open("memory://shop/x.parquet", "wb") as file:
        pq.write_table(TABLE, file)
    assert own.tables("memory://shop/*.parquet", ["customer"], ["pieces"]).rows == 4


def test_types_that_all_engines_share(folder):
    """Small and true-or-false numbers, decimals and dates get types that mean the same everywhere."""
    _, x = read(folder, folder / "parts", ["paid", "day"], ["price", "pieces"])
    assert [str(t) for t in x.schema.types] == ["int32", "timestamp[us]", "double", "int32"]
    assert x["paid"].to_pylist() == [1, 0, None, 1]


def test_keys_are_nine_in_ten_and_whole(tmp_path):
    """The table to join with has each whole key once, but for every tenth."""
    table = pa.table({"k": [i // 2 if i < 400 else None for i in range(410)], "v": range(410)})
    pq.write_table(table, tmp_path / "t.parquet")
    tables, _ = read(tmp_path, tmp_path / "t.parquet", ["k"], ["v"])
    keys = pq.read_table(tables.paths["keys"]).to_pydict()
    assert sorted(keys["k"]) == [k for k in range(200) if k % 10 != 9]
    assert [n - k for k, n in zip(keys["k"], keys["key_number"], strict=True)] == [1] * 180


def test_the_first_rows_only(folder):
    """`rows` takes the first so many, over files."""
    tables, x = read(folder, folder / "parts", rows=3)
    assert (tables.rows, x["customer"].to_pylist()) == (3, ["b", "a", None])


def test_changed_files_are_read_again(folder):
    """The cache follows the files: a changed one is read anew, an unchanged one is not."""
    first, _ = read(folder, folder / "parts")
    assert read(folder, folder / "parts")[0] == first
    pq.write_table(TABLE.slice(3), folder / "parts" / "b.parquet")
    assert read(folder, folder / "parts")[0].rows == 3


@pytest.mark.parametrize(
    ("data", "by", "values", "sentence"),
    [
        ("none/*.parquet", ["customer"], ["amount"], "no file matches .*none/.*give a parquet or CSV file"),
        ("notes.md", ["customer"], ["amount"], "notes.md is neither parquet nor CSV"),
        ("false.parquet", ["customer"], ["amount"], "false.parquet is called parquet but begins otherwise"),
        ("cut.parquet", ["customer"], ["amount"], "cut.parquet can't be read"),
        ("broken.csv", ["a"], ["b"], "broken.csv can't be read: .*(notanumber|CSV)"),
        ("parts", ["custmer"], ["amount"], "no column 'custmer'; did you mean 'customer'. There are: customer, day"),
        ("parts", ["customer"], ["amonut"], "no column 'amonut'; did you mean 'amount'"),
        ("parts", [], ["amount"], "by names no column; choose from: customer, day"),
        ("parts", ["customer"], [], "values names no column; choose from: customer, day"),
        ("parts", ["day"], ["customer"], "column 'customer' holds text and values are numbers; numbers are: amount"),
        ("parts", ["customer"], ["day"], "column 'day' holds times and values are numbers"),
        ("parts", ["tags"], ["amount"], "column 'tags' holds list<.*> *; columns of numbers, text"),
        ("parts", ["customer"], ["never"], "column 'never' is empty: all its values are missing"),
        ("parts", ["amount"], ["amount"], "'amount' stands in both by and values"),
        ("parts", ["day", "Day"], ["amount"], "column 'Day' would stand twice in a result"),
        ("rows.parquet", ["rows"], ["amount"], "column 'rows' would stand twice in a result"),
        ("empty.parquet", ["customer"], ["amount"], "the table is empty"),
        ("empty.csv", ["customer"], ["amount"], "empty.csv can't be read: .*[Ee]mpty"),
    ],
)
def test_each_mistake_has_one_sentence(folder, data, by, values, sentence):
    """What was got, what is allowed, what to do: in one line, with nothing left in the cache."""
    (folder / "notes.md").write_text("# Notes\n")
    (folder / "false.parquet").write_text("id,v\n1,2\n")
    (folder / "cut.parquet").write_bytes((folder / "parts" / "a.parquet").read_bytes()[:-20])
    (folder / "broken.csv").write_text("a,b\n" + "1,2\n" * 300_000 + "1,notanumber\n")
    (folder / "empty.csv").write_text("")
    pq.write_table(TABLE.slice(0, 0), folder / "empty.parquet")
    pq.write_table(TABLE.rename_columns(["rows", *TABLE.column_names[1:]]), folder / "rows.parquet")
    with pytest.raises(UserError, match=sentence) as caught:
        read(folder, folder / data, by, values)
    assert "\n" not in str(caught.value)
    assert not list((folder / "cache").glob("*")) if (folder / "cache").exists() else True


@pytest.mark.parametrize(
    "data",
    [
        "nosuch://key:hunter2@bucket/x.parquet",
        "http://key:hunter2@127.0.0.1:9/x.parquet",
        "http://127.0.0.1:9/x.parquet?signature=hunter2",
        "s3://key:hunter2@bucket/x.parquet",
    ],
)
def test_credentials_never_stand_in_a_sentence(tmp_path, data):
    """An address that can't be read is named without its user, password and signature."""
    with pytest.raises(UserError) as caught:
        own.tables(data, ["a"], ["b"], cache=tmp_path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "x.parquet" in str(caught.value)
