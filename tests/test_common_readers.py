"""One reader of tables: values arrive as they were, what was taken for what is shown, a doubt is refused."""

import bz2
import gzip
import lzma
import os
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kit.common import readers
from kit.errors import UserError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a file below the current folder: name, text or bytes."""
    monkeypatch.chdir(tmp_path)

    def written(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return written


def columns(data, **options):
    return readers.source(data, **options).table().to_pydict()


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["7", "-3", ""], [7, -3, None]),
        (["007", "8"], ["007", "8"]),
        (["0.5", "1e3", " 2 "], [0.5, 1000.0, 2.0]),
        (["1", "2.5", "NA"], [1.0, 2.5, None]),
        (["NA", "EU", "-"], ["NA", "EU", "-"]),
        (["NA", "NaN"], ["NA", "NaN"]),
        (["true", "False"], [True, False]),
        (["0x10", "1"], ["0x10", "1"]),
        (["18446744073709551615", "1"], [2**64 - 1, 1]),
        (["12345678901234567890123", "1"], ["12345678901234567890123", "1"]),
        (["2024-01-31", "null"], [date(2024, 1, 31), None]),
        (["2024-01-31", "2024-01-31T10:30:00"], [datetime(2024, 1, 31), datetime(2024, 1, 31, 10, 30)]),
        (["1,5", "2"], ["1,5", "2"]),
    ],
)
def test_a_column_gets_the_narrowest_type_that_changes_no_value(write, texts, values):
    """Codes with leading zeros, long numbers and regions called NA stay texts; NA among numbers is a missing value."""
    write("table.csv", "\n".join(["row;column", *(f"{row};{text}" for row, text in enumerate(texts))]))
    assert columns("table.csv")["column"] == values


def test_types_do_not_depend_on_the_order_of_files_or_rows(write):
    """One text in the last of many rows, or in another file, is seen before anything is typed; who it is is known."""
    rows = "".join(f"{n},{n}\n" for n in range(20_000))
    write("late.csv", "id,value\n" + rows + "last,x\n")
    source = readers.source("late.csv")
    assert str(source.field("value").type) == "string" and "'x' in" in source.misfits["value"]
    assert source.table(["value"]).to_pydict()["value"][:2] == ["0", "1"]
    for first, second in (("1\n", "a\n"), ("a\n", "1\n")):
        write("drift/1.csv", "key\n" + first)
        write("drift/2.csv", "key\n" + second)
        assert sorted(columns("drift")["key"]) == ["1", "a"]


def test_options_decide_where_the_reader_cannot(write):
    """Separator, encoding, missing values, types and a missing header are given by name, and are in the stamp."""
    write("old.dat", "name|n\nZoë|1\nNA|-1\n".encode("latin-1"))
    options = {"separator": "|", "encoding": "latin-1", "missing": ["NA", "-1"], "types": {"n": "number"}}
    assert columns("old.dat", **options) == {"name": ["Zoë", None], "n": [1.0, None]}
    stamps = {readers.source("old.dat", **(options | other)).stamp for other in ({}, {"types": {}}, {"missing": None})}
    assert len(stamps) == 3
    write("bare.csv", "1,2\n3,4\n")
    assert columns("bare.csv", header=False) == {"column 1": [1, 3], "column 2": [2, 4]}
    write("wide.csv", "a,b\n1,x\n".encode("utf-16"))
    assert columns("wide.csv", encoding="utf-16") == {"a": [1], "b": ["x"]}
    write("old_mac.csv", f'a,b\r007,{2**60 + 1}\r8,"x""\ry"\r')
    assert columns("old_mac.csv") == {"a": ["007", "8"], "b": [f"{2**60 + 1}", 'x"\ry']}
    write("codes.csv", f"a,b\r007,{2**60 + 1}\r")
    assert columns("codes.csv", types={"a": "integer", "b": "number"}) == {"a": [7], "b": [2.0**60]}


def test_a_table_says_what_was_taken_for_what(write):
    """One line: files, separator, types, markers of missing values."""
    write("t.csv", "\ufeff id ,delay,,note\n1,NA,5,\n2,7,6,x\n")
    assert readers.source("t.csv").summary == (
        "t.csv: 1 file (CSV, separator ','); id: int64, delay: int64 ('NA' = missing), column 3: int64, note: string"
    )


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.bz2", "csv.xz", "csv.zst", "csv.wrongly-named"])
def test_compressed_files_are_read_whatever_their_name(write, suffix):
    """gzip in several members, too; a line break in quotes splits no row."""
    text = ("a,b\n" + '1,"x\ny"\n' * 20_000).encode()
    half = text.index(b"1,", len(text) // 2)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(text)
    pack = {
        "gz": lambda: gzip.compress(text[:half]) + gzip.compress(text[half:]),
        "bz2": lambda: bz2.compress(text),
        "xz": lambda: lzma.compress(text),
        "zst": lambda: sink.getvalue().to_pybytes(),
        "wrongly-named": lambda: gzip.compress(text),
    }
    write(f"t.{suffix}", pack.get(suffix.split(".")[-1], lambda: text)())
    table = readers.source(f"t.{suffix}").table()
    assert table.num_rows == 20_000 and set(table["b"].to_pylist()) == {"x\ny"}


def test_no_row_is_read_twice(write):
    """Checkpoints, temporary, hidden, marker and empty files and other documents of a folder are left out."""
    for name in ("1.csv", ".ipynb_checkpoints/1-checkpoint.csv", "_temporary/0/1.csv", ".1.csv", "_SUCCESS"):
        write(f"f/{name}", "a\n1\n")
    write("f/empty.csv", "")
    write("f/README.md", "# no table")
    write("f/deeper/2.csv", "a\n2\n")
    assert columns("f") == {"a": [2, 1]} or columns("f") == {"a": [1, 2]}
    os.symlink("1.csv", "f/latest.csv")
    assert columns("f/*.csv") == {"a": [1]} and columns("f/1.csv") == columns("f/latest.csv") == {"a": [1]}


def test_folders_named_key_value_are_columns_below_the_address_only(write, tmp_path):
    """`lr=0.1/` is a column of the folder above it, and none of the file in it."""
    for rate in ("0.1", "0.2"):
        write(f"runs/lr={rate}/step.csv", "loss\n1\n")
    (tmp_path / "sweep/lr=0.1").mkdir(parents=True)
    pq.write_table(pa.table({"loss": [1]}), "sweep/lr=0.1/x.parquet")
    assert columns("runs") == {"loss": [1, 1], "lr": [0.1, 0.2]}
    assert columns("sweep") == {"loss": [1], "lr": [0.1]}
    assert columns("sweep/lr=0.1") == columns("sweep/lr=0.1/x.parquet") == {"loss": [1]}


def test_parquet_files_of_like_types_are_one_table(write):
    """Widths are unified, a column that a file lacks is missing there, and real differences name column and files."""
    write("p/none", "x")
    pq.write_table(pa.table({"a": pa.array([1], pa.int32()), "b": [1.5]}), "p/1.parquet")
    pq.write_table(pa.table({"a": pa.array([2], pa.int64())}), "p/2.parquet")
    source = readers.source("p")
    assert source.table().to_pydict() == {"a": [1, 2], "b": [1.5, None]}
    assert source.table(["a"]).to_pydict() == {"a": [1, 2]}
    pq.write_table(pa.table({"a": ["x"]}), "p/3.parquet")
    with pytest.raises(UserError, match=r"column 'a' is int64 in .*1.parquet and string in .*3.parquet; write both"):
        readers.source("p")
    write("p/4.csv", "a\n1\n")
    with pytest.raises(UserError, match=r"has Parquet and CSV files .* give a glob that matches one kind"):
        readers.source("p")


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("zero.csv", "", {}, r"zero.csv is empty \(0 bytes\)"),
        ("zero.parquet", "", {}, r"zero.parquet is empty \(0 bytes\)"),
        ("inside.parquet.gz", gzip.compress(b"PAR1...", mtime=0), {}, "is Parquet inside a compressed file; unpack it"),
        ("pointer.csv.xz", lzma.compress(b"version https://git-lfs.github.com/spec/v1"), {}, "run `git lfs pull`"),
        ("t.csv.lz4", b"\x04\x22\x4d\x18rest", {}, "is compressed by lz4; unpack it, or use gzip"),
        ("aligned.log", "a   b\nc   d\n", {"separator": " "}, "several blanks between fields; write one, as by `tr -s"),
        ("first.csv", "\na,b\n1,2\n", {}, "its first line is empty; give a header line and rows"),
        (
            "latin.csv",
            "a\nZoë\n".encode("latin-1"),
            {},
            "is not encoded as utf-8; give encoding=, e.g. 'latin-1', or `iconv",
        ),
        ("late.csv", b"a\n" + b"x\n" * 200_000 + b"\xff\n", {}, "is not encoded as utf-8; give encoding="),
        ("lfs.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", {}, "LFS pointer.*git lfs pull"),
        ("book.csv", b"PK\x03\x04rest", {}, "zip archive or a workbook; unpack it"),
        ("page.csv", "<!doctype html><p>Sign in", {}, "is a web page; download the file itself"),
        ("p.parquet", "a,b\n1,2\n", {}, "called Parquet but does not begin like it"),
        ("cut.parquet", b"PAR1 and then nothing", {}, "can't be read"),
        ("x.log", "a b\n1 2\n", {}, "is neither Parquet nor called .csv.*; give separator="),
        ("two.csv", "a,a\n1,2\n", {}, "has two columns named 'a'; rename one"),
        ("doubt.csv", "a;b,c\n1;2,3\n", {}, "may be separated by ',' or ';'; give separator="),
        ("torn.csv", 'a,b\n1,x\n2,"y\n' + "3,z\n" * 9, {}, r'torn.csv: a quote \("\) never closes, before .y 3,z'),
        ("ragged.csv", "a,b\n1,2\n3,4,5\n", {}, "ragged.csv can't be read: .*Expected 2 columns, got 3"),
        ("c.csv", "a\n1\n", {"encoding": "latin-x"}, "encoding='latin-x' is unknown"),
        ("c.csv", "a\n1\n", {"separator": ", "}, "separator=', ' can't be used .*; give one character"),
        ("c.csv", "a\n1\n", {"types": {"a": "integers"}}, "did you mean 'integer'"),
        ("c.csv", "a\n1\n", {"types": {"aa": "text"}}, "types names 'aa', no column of c.csv"),
        ("c.csv", "id\n1\n1O\n", {"types": {"id": "integer"}}, "column 'id' has '1O', which is no integer; fix it"),
        ("t/_delta_log/0.json", "{}", {}, "Delta format, whose folder also contains deleted rows"),
        ("t/metadata/v1.metadata.json", "{}", {}, "Iceberg format"),
        ("t/orders/.hoodie/hoodie.properties", "", {}, "is or contains a table in Hudi format"),
        ("t/.hidden.csv", "a\n1\n", {}, "no file matches 't'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_a_remedy(write, name, content, options, says):
    """The file, the fault, and what to do."""
    write(name, content)
    with pytest.raises(UserError, match=says):
        readers.source(name.partition("/")[0], **options).table()


def test_a_file_for_another_library_is_looked_at_first(write):
    """A model or an archive that obviously is none is one sentence, ahead of whatever its library would raise."""
    write("folder/x", "")
    write("pointer.npz", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    write("zero.onnx", "")
    write("packed.onnx", b"\x28\xb5\x2f\xfd...")
    write("signed_out.onnx", "\n<HTML>")
    write("text.npz", "1 2 3")
    write("good.npz", b"PK\x03\x04")
    for name, says in (
        ("pointer.npz", "run `git lfs pull`"),
        ("zero.onnx", r"zero.onnx is empty \(0 bytes\); give a model"),
        ("packed.onnx", "is compressed by zstd; unpack it"),
        ("signed_out.onnx", "is a web page; download"),
        ("text.npz", "text.npz is no .npz file; give a model"),
        ("folder", "folder is a folder; give a model"),
        ("nowhere", "nowhere does not exist"),
    ):
        with pytest.raises(UserError, match=says):
            readers.whole(name, "a model", zipped=name.endswith(".npz"))
    assert readers.whole("good.npz", "a model", zipped=True).name == "good.npz"


def test_columns_and_addresses_that_are_not_there(write):
    """The nearest column is named, and a pattern that matches nothing."""
    write("t.csv", "customer,price\na,1\n")
    with pytest.raises(UserError, match=r"by='costumer' is no column of t.csv; did you mean 'customer'\?"):
        readers.source("t.csv").field("costumer", "by")
    with pytest.raises(UserError, match=r"no file matches 't\*.parquet'"):
        readers.source("t*.parquet")


@pytest.mark.parametrize(
    "data",
    ["nosuch://me:secret@bucket/t.csv", "http://me:secret@127.0.0.1:9/t.csv?token=secret", "s3://me:secret@b/t.csv"],
)
def test_credentials_of_an_address_are_never_shown(data):
    """An address that can't be read is named without its user, password and signature."""
    with pytest.raises(UserError, match=r"t\.csv") as caught:
        readers.source(data)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("trace", ["\n\tat org.apache.A.b(A.java:1)\n\tat c", r'\n\tat org.apache.A.b(A.java:1)")'])
def test_a_stack_trace_is_left_out(trace):
    """Of what a Java service answers, HDFS's NameNode say, the message is shown."""
    with pytest.raises(UserError, match=r"can't be read: Permission denied: user=me$"), readers.readable("hdfs://n/t"):
        raise RuntimeError(f"Permission denied: user=me{trace}")


def test_options_come_as_texts_from_a_parameter(write):
    """A notebook names them one by one; an unknown one is refused with the nearest."""
    pairs = ["separator=tab", "encoding=latin-1", "missing=-1", "missing=none", "type.id=text", "header=yes"]
    assert readers.options(pairs) == {
        "separator": "\t",
        "encoding": "latin-1",
        "missing": ["-1", "none"],
        "types": {"id": "text"},
        "header": True,
    }
    write("t.txt", "id\tv\n1\t-1\n")
    assert columns("t.txt", **readers.options(pairs)) == {"id": ["1"], "v": [None]}
    with pytest.raises(UserError, match="read option='seperator' is unknown; did you mean 'separator'"):
        readers.options(["seperator=;"])
