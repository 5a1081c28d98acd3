"""The user's own table: any parquet or CSV is laid down for every engine; each mistake is answered in one sentence."""

import datetime
import decimal
import math
import subprocess
import sys
from pathlib import Path

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


def read(folder, data, by=("customer",), values=("amount", "pieces")):
    tables = own.tables(str(data), list(by), list(values), cache=folder / "cache")
    return tables, pq.read_table(tables.paths["x"])


@pytest.mark.parametrize("data", ["parts", "table.csv", "file://{folder}/parts/*.parquet"])
def test_parquet_and_csv_from_folders_files_and_urls(folder, data):
    """A folder, a CSV file and a glob at a URL give the same rows, with NaN missing."""
    at = data.format(folder=folder) if "://" in data else folder / data
    tables, x = read(folder, at)
    assert (tables.workload, tables.rows, tables.by, tables.values) == ("own", 4, ("customer",), ("amount", "pieces"))
    assert x["customer"].to_pylist() == ["b", "a", None, "a"] and x["pieces"].to_pylist() == [1, 2, None, 4]
    assert x["amount"].to_pylist() == [1.5, None, 3, None]


def test_types_that_all_engines_share(folder):
    """Small and true-or-false numbers, decimals and dates get types that mean the same everywhere."""
    _, x = read(folder, folder / "parts", ["paid", "day"], ["price", "pieces"])
    assert [str(t) for t in x.schema.types] == ["int64", "timestamp[us]", "double", "double"]
    assert x["paid"].to_pylist() == [1, 0, None, 1]


def test_keys_are_nine_in_ten_and_whole(tmp_path):
    """The table to join with has each whole key once, but for every tenth."""
    table = pa.table({"k": [i // 2 if i < 400 else None for i in range(410)], "v": range(410)})
    pq.write_table(table, tmp_path / "t.parquet")
    tables, _ = read(tmp_path, tmp_path / "t.parquet", ["k"], ["v"])
    keys = pq.read_table(tables.paths["keys"]).to_pydict()
    assert sorted(keys["k"]) == [k for k in range(200) if k % 10 != 9]
    assert [n - k for k, n in zip(keys["k"], keys["key_number"], strict=True)] == [1] * 180


def test_changed_files_are_read_again(folder):
    """The cache follows the files: a changed one is read anew, an unchanged one is not."""
    first, _ = read(folder, folder / "parts")
    assert read(folder, folder / "parts")[0] == first
    pq.write_table(TABLE.slice(3), folder / "parts" / "b.parquet")
    assert read(folder, folder / "parts")[0].rows == 3


@pytest.mark.parametrize(
    ("data", "by", "values", "sentence"),
    [
        ("broken.csv", ["a"], ["b"], "column 'b' is string .'notanumber' in .*broken.csv is no number.*missing="),
        ("parts", ["custmer"], ["amount"], "group_by='custmer' is no column of .*parts; did you mean 'customer'."),
        ("parts", [], ["amount"], "group_by names no column; choose from: customer, day"),
        ("parts", ["customer"], [], "values names no column; choose from: customer, day"),
        ("parts", ["day"], ["customer"], "column 'customer' is string, and values are numbers; .* of numbers: amount"),
        ("parts", ["customer"], ["day"], "column 'day' is date32.*values are numbers"),
        ("parts", ["tags"], ["amount"], "column 'tags' is list<.*>; use numbers, text"),
        ("parts", ["customer"], ["never"], "column 'never' of .* is empty: all its values are missing"),
        ("parts", ["amount"], ["amount"], "column 'amount' would be twice in a result"),
        ("parts", ["day", "Day"], ["amount"], "column 'Day' would be twice in a result"),
        ("rows.parquet", ["rows"], ["amount"], "column 'rows' would be twice in a result"),
        ("wide.parquet", ["u"], ["k"], "has values of uint64 that int64, .* read them as text .*type.u=text"),
        ("wide.parquet", ["cents"], ["k"], r"decimal128\(38, 2\) that double, .* read them as text .*type.cents=text"),
        ("wide.parquet", ["ns"], ["k"], r"has values of timestamp\[ns\] .* can't hold; read .* as text .*type.ns=text"),
        ("empty.parquet", ["customer"], ["amount"], "column 'customer' of .*empty.parquet is empty"),
        ("text.parquet", ["customer"], ["amount"], "text.parquet is called Parquet but does not begin like it"),
        ("other/*.parquet", ["customer"], ["amount"],
         r"group_by='customer' is in .*/a.parquet .*, amount. and not in .*/b.parquet .client, amount.; rename"),
    ],
)  # fmt: skip
def test_each_mistake_has_one_sentence(folder, data, by, values, sentence):
    """What was got, what is allowed, what to do: in one line, with nothing left in the cache."""
    (folder / "broken.csv").write_text("a,b\n" + "1,2\n" * 3_000 + "1,notanumber\n")
    wide = {"u": pa.array([2**64 - 1], pa.uint64()), "ns": pa.array([1], pa.timestamp("ns")), "k": [1]}
    wide |= {"cents": pa.array([decimal.Decimal("1152921504606846976.01")], pa.decimal128(38, 2))}
    pq.write_table(pa.table(wide), folder / "wide.parquet")
    pq.write_table(TABLE.slice(0, 0), folder / "empty.parquet")
    pq.write_table(TABLE.rename_columns(["rows", *TABLE.column_names[1:]]), folder / "rows.parquet")
    (folder / "text.parquet").write_text("customer,amount\n")
    (folder / "other").mkdir()
    for name, key in {"a": "customer", "b": "client"}.items():
        pq.write_table(pa.table({key: ["x"], "amount": [1.5]}), folder / "other" / f"{name}.parquet")
    with pytest.raises(UserError, match=sentence) as caught:
        read(folder, folder / data, by, values)
    assert "\n" not in str(caught.value)
    assert not list((folder / "cache").glob("*")) if (folder / "cache").exists() else True


@pytest.mark.alone
def test_a_mistake_in_the_users_files_ends_with_2(folder):
    """`kit run` ends with 2 and the sentence, without a traceback, when a text is to be summed."""
    given = {"data": folder / "parts", "group_by": "paid", "values": "customer"}
    asked = [part for name, value in given.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kit.cli", "run", "01_dataframes", *asked, "--runs", str(folder / "runs")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "UserError: column 'customer' is string, and values are numbers" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr
