"""One reader of the user's tables: CSV and Parquet files on this machine or at a URL; values arrive as they were."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from kit.common.column_types import KINDS, Inference, narrowest, typed
from kit.common.parameters import nearest, one_of
from kit.errors import UserError
from kit.record.store import clean

_TABLES = (".parquet", ".pq", ".csv", ".tsv", ".txt")
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
_REFUSED = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file; run `git lfs pull`",
    b"PK\x03\x04": "is a zip archive or a workbook; unpack it, or save the sheet as CSV",
    b"ARROW1": "is an Arrow IPC file; write it as Parquet",
    b"<!DOCTYPE": "is a web page; download the file itself",
    b"<html": "is a web page; download the file itself",
    b"PAR1": "is Parquet inside a compressed file; unpack it",
    b"\x04\x22\x4d\x18": "is compressed by lz4; unpack it, or use gzip, zstd, bz2 or xz",
}
_LAKES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " ", "line": "\x1f"}
"""Names of characters that are hard to give in a parameter. "line": each line is one field."""
_HEAD = 2**18
_BLOCK = 2**23


@dataclass(frozen=True)
class Source:
    """The user's table, not read yet.

    shown: its address without credentials. schema: Arrow types of all columns. stamp: changes when a file or an option
    does. summary: one line on what was taken for what. misfits: column of texts → one that is no number, and its file.
    """

    shown: str
    schema: pa.Schema
    stamp: str
    summary: str
    misfits: Mapping[str, str]
    _files: "Sequence[_File]"
    _missing: Sequence[str] | None
    _given: Mapping[str, str]

    def batches(self, columns: Iterable[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in the order of the files' names, with these columns (None: all) in the types of `schema`.

        Raise `UserError` if a file can't be read.
        """
        schema = self._schema(columns)
        for file in self._files:
            with readable(file.shown):
                for batch in file.batches([name for name in schema.names if name in file.names]):
                    typed_columns = [self._in_type(file, batch, field) for field in schema]
                    yield pa.table(typed_columns, schema=schema)

    def table(self, columns: Iterable[str] | None = None) -> pa.Table:
        """Return these columns (None: all) of all rows."""
        return pa.concat_tables([self._schema(columns).empty_table(), *self.batches(columns)])

    def field(self, name: str, parameter: str = "column") -> pa.Field:
        """Return a column's name and type. Raise `UserError` with the nearest name if the table has no such column."""
        if name not in self.schema.names:
            raise UserError(f"{parameter}={name!r} is no column of {self.shown}; {nearest(name, self.schema.names)}")
        return self.schema.field(name)

    def in_all(self, name: str, parameter: str = "column") -> pa.Field:
        """Return `field(name)`. Raise `UserError` with two files also where one of them lacks the column."""
        found = {name in file.names: f"{file.shown} ({', '.join(file.names)})" for file in self._files}
        if len(found) > 1:
            raise UserError(f"{parameter}={name!r} is in {found[True]} and not in {found[False]}; rename the column")
        return self.field(name, parameter)

    def _schema(self, columns: Iterable[str] | None) -> pa.Schema:
        return self.schema if columns is None else pa.schema([self.field(name) for name in columns])

    def _in_type(self, file: "_File", batch: pa.Table, field: pa.Field) -> Any:
        """Return a column of a file in its type here; missing values where the file has no such column."""
        if field.name not in batch.column_names:
            return pa.nulls(len(batch), field.type)
        if file.parquet and field.name not in file.folders:
            return batch[field.name].cast(field.type, safe=field.name not in self._given)
        return typed(batch[field.name], field.type, self._missing)


def source(
    data: str,
    *,
    separator: str = "",
    encoding: str = "utf-8",
    missing: Sequence[str] | None = None,
    types: Mapping[str, str] = {},
    header: bool = True,
) -> Source:
    """Open a table: a CSV or Parquet file, a folder of them, or a glob, on this machine or at any URL of fsspec's.

    CSV files may be compressed (gzip, zstd, bz2, xz). The type of a column is the narrowest that fits all its values in
    all files; texts like 007 stay text. separator: "" takes the one of , ; | and tab that is most frequent in the
    header. missing: texts that stand for a missing value, in any column, beside the empty one; None: see
    `column_types.MARKERS`. types: column → one of `column_types.KINDS`, instead of the inferred one. header: False
    names columns "column 1", "column 2", …. Folders named key=value below `data` become columns. Raise `UserError`
    with the remedy if it can't be read.
    """
    for name, kind in types.items():
        one_of(kind, KINDS, f"types[{name!r}]")
    with readable(data):
        options = {"separator": separator, "encoding": encoding, "header": header}
        files, at = _files(data, options)
        inference = Inference([], missing, types) if files[0].parquet else _of_texts(files, missing, types)
        schema = _parquet_schema(files, types) if files[0].parquet else inference.schema()
    for name in types:
        if name not in schema.names:
            raise UserError(f"types names {name!r}, no column of {shown(data)}; {nearest(name, schema.names)}")
    stamp = repr((sorted(options.items()), missing, sorted(types.items()), [at.info(file.path) for file in files]))
    kind = "Parquet" if files[0].parquet else f"CSV, separator {files[0].separator!r}"
    summary = f"{shown(data)}: {len(files)} file{'s' * (len(files) > 1)} ({kind}); {inference.in_words(schema)}"
    return Source(shown(data), schema, stamp, summary, inference.misfits, files, missing, types)


@contextmanager
def readable(data: str) -> Iterator[None]:
    """Turn whatever reading `data` raises into one sentence, without the credentials of its address."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{shown(data)} needs a package that is not installed: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(_not_encoded(data, error.encoding)) from None
    except Exception as error:  # each file system and format has its own errors
        reason = _reason(error, data)
        if "invalid UTF8" in reason:
            raise UserError(_not_encoded(data, "utf-8")) from None
        raise UserError(f"{shown(data)} can't be read: {reason}") from None


def whole(path: str | Path, kind: str, zipped: bool = False) -> Path:
    """Return the path of a file on this machine that another library is to read.

    kind: what to give, in words. zipped: it is a zip archive, as .npz is. Raise `UserError` for what is obviously none:
    a folder, an empty file, a Git LFS pointer, a web page, a compressed file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else f"does not exist (looked for in {clean(os.getcwd())})"
        raise UserError(f"{clean(str(path))} {fault}; give {kind}")
    with readable(str(path)), open(path, "rb") as file:
        head = file.read(512)
    packed = (f"is compressed by {how}; unpack it" for magic, how in _PACKED.items() if head.startswith(magic))
    none = f"is no .npz file; give {kind}" if zipped else ""
    fault = next(packed, "") or _fault(head) or (none if head else f"is empty (0 bytes); give {kind}")
    if fault and not (zipped and head.startswith(b"PK")):
        raise UserError(f"{clean(str(path))} {fault}")
    return path


def _fault(head: bytes) -> str:
    """Return what is wrong with a file that begins like this, and the remedy; empty if nothing obvious."""
    begun = head.lstrip().lower()
    return next((fault for magic, fault in _REFUSED.items() if begun.startswith(magic.lower())), "")


def shown(data: str) -> str:
    """Return an address without user, password and query, which may contain a signature."""
    return clean(data.split("?")[0] if "://" in data else data)


def _not_encoded(data: str, encoding: str) -> str:
    return f"{shown(data)} is not encoded as {encoding}; give encoding=, e.g. 'latin-1', or `iconv -f latin1 -t utf8`"


def _reason(error: Exception, data: str) -> str:
    """Return an error in one line. Some file systems repeat the user and password of an address without the rest."""
    text = str(error).partition("\n\tat ")[0].partition(r"\n\tat ")[0].partition("\nRequestId:")[0]  # Java's, Azure's
    text = " ".join(text.replace(data, shown(data)).split()) or type(error).__name__
    user, at, _ = data.partition("://")[2].split("/")[0].rpartition("@")
    return clean(text.replace(user + at, "***@") if at else text)[:300]


# Files ----------------------------------------------------------------------------------------------------------------


class _File:
    """One file. names: of its columns, those of its folders (key=value) included."""

    def __init__(self, at: Any, path: str, base: str, options: Mapping[str, Any]) -> None:
        self._at, self.path, self._options = at, path, options
        self.shown = clean(path)
        below = PurePosixPath(path).relative_to(base).parent.parts if path != base else ()
        folders = (part.partition("=") for part in below if "=" in part)
        self.folders = {key: None if value == _NO_VALUE else unquote(value) for key, _, value in folders}
        with at.open(path, "rb") as file:
            self._head = file.read(512)
        self.parquet = self._head[:4] == b"PAR1"
        self.kind = "Parquet" if self.parquet else "CSV"
        if self.parquet:
            self._own = self.parquet_schema().names
        else:
            self._check_text()
            self._own, self.separator = self._header()
        if twice := next((name for name in self._own if self._own.count(name) > 1), None):
            raise UserError(f"{self.shown} has two columns named {twice!r}; rename one")
        self.names = self._own + [key for key in self.folders if key not in self._own]
        self.last = self._own[-1]

    def parquet_schema(self) -> pa.Schema:
        """Return the Arrow schema of a Parquet file."""
        with self._at.open(self.path, "rb") as file:
            return pq.read_schema(file)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield columns of the file: in their own types from Parquet, as texts from CSV."""
        own = [name for name in columns if name not in self.folders]
        read = self._parquet_batches(own) if self.parquet else self._csv_batches(own)
        for table in read:
            for key in columns:
                if key in self.folders:
                    table = table.append_column(key, pa.array([self.folders[key]] * len(table), pa.string()))
            yield table

    def _parquet_batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        with self._at.open(self.path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=columns):
                yield pa.table(batch) if columns else pa.table({"": pa.nulls(batch.num_rows)})

    def _csv_batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        read = pa.csv.ReadOptions(
            encoding=self._options["encoding"],
            block_size=_BLOCK,
            column_names=self._own,
            skip_rows_after_names=int(self._options["header"]),
        )
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(self._own, pa.string()),
            include_columns=columns or self._own[:1],
            strings_can_be_null=True,
            null_values=[""],
        )
        parse = pa.csv.ParseOptions(delimiter=self.separator, newlines_in_values=True)
        with self._open() as file, pa.csv.open_csv(file, read, parse, convert) as reader:
            for batch in reader:
                yield pa.table(batch).rename_columns(columns or [""])

    def check_quotes(self, last: str | None) -> None:
        """Raise `UserError` where the last field, in which lines break, is the rest of the file after a stray quote."""
        if last and "\n" in last:
            with self._open() as file:
                quotes = sum(block.count(b'"') for block in iter(partial(file.read, _BLOCK), b""))
            if quotes % 2:
                start = " ".join(last[:40].split())
                raise UserError(f'{self.shown}: a quote (") never closes, before {start!r}; remove or double it')

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """Open a text file, unpacked if it is compressed, whatever its name."""
        packed = next((how for magic, how in _PACKED.items() if self._head.startswith(magic)), None)
        with self._at.open(self.path, "rb", compression=None if packed == "zstd" else packed) as file:
            yield pa.CompressedInputStream(pa.PythonFile(file), packed) if packed == "zstd" else file

    def _check_text(self) -> None:
        name, head = PurePosixPath(self.path).name, self._head
        if not head:
            raise UserError(f"{self.shown} is empty (0 bytes); give a file with rows")
        if head.startswith(tuple(_PACKED)):
            with self._open() as file:
                head = file.read(512)
        if fault := _fault(head):
            raise UserError(f"{self.shown} {fault}")
        if name.endswith((".parquet", ".pq")):
            raise UserError(f"{self.shown} is called Parquet but does not begin like it; write it again")
        if not self._options["separator"] and not _is_table(name) and "." in name.lstrip("."):
            raise UserError(f"{self.shown} is neither Parquet nor called {', '.join(_TABLES[2:])}; give separator=")

    def _header(self) -> tuple[list[str], str]:
        """Return the names of a CSV file's columns, and the separator."""
        with self._open() as file:
            head = _decoded(file.read(_HEAD), self._options["encoding"])
        first = next(iter(head.splitlines()), "")
        if not first.strip(" "):
            raise UserError(f"{self.shown} has no rows, or its first line is empty; give a header line and rows")
        separator = self._options["separator"] or _separator(first, self.path)
        try:
            names = next(csv.reader(io.StringIO(head, newline=None), delimiter=separator))
        except (csv.Error, TypeError) as error:
            fault = f"separator={separator!r} can't be used ({error}); give one character"
            raise UserError(f"{self.shown}: {fault}") from None
        if separator == " " and "" in names:
            raise UserError(f"{self.shown} has several blanks between fields; write one, as by `tr -s ' '`")
        written = names if self._options["header"] else [""] * len(names)
        return [name.strip() or f"column {number}" for number, name in enumerate(written, start=1)], separator


_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def _decoded(head: bytes, encoding: str) -> str:
    """Return text, of which the last character may be cut in two."""
    import codecs

    try:
        decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)()
    except LookupError:
        raise UserError(f"encoding={encoding!r} is unknown to Python; give e.g. 'utf-8' or 'latin-1'") from None
    return decoder.decode(head)


def _separator(line: str, path: str) -> str:
    if ".tsv" in PurePosixPath(path).suffixes[-2:]:
        return "\t"
    counts = {one: line.count(one) for one in ",;|\t"}
    most = max(counts.values())
    likely = [one for one, count in counts.items() if count == most]
    if most and len(likely) > 1:
        raise UserError(f"{clean(path)} may be separated by {' or '.join(map(repr, likely))}; give separator=")
    return likely[0]


def _is_table(name: str) -> bool:
    return any(suffix in _TABLES for suffix in PurePosixPath(name.lower()).suffixes[-2:])


def _files(data: str, options: Mapping[str, Any]) -> tuple[list[_File], Any]:
    """Return the files that `data` names, and their file system. Hidden, marker and temporary files are left out."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    at, path = url_to_fs(data)
    if at.isfile(path):
        return [_File(at, path, path, options)], at
    base = path.rstrip("/") if at.isdir(path) else path.split("*")[0].rpartition("/")[0]
    _refuse_lakes(at, base, at.isdir(path), data)
    found = at.find(path) if at.isdir(path) else [file for file in at.glob(path) if at.isfile(file)]
    found = [file for file in sorted(found) if not _is_hidden(file, base) and at.size(file)]
    found = [file for file in found if _is_table(file)] or found
    if isinstance(at, LocalFileSystem):  # a link to another one of them, as latest.csv, is no second file
        found.sort(key=os.path.islink, reverse=True)
        found = sorted({os.path.realpath(file): file for file in found}.values())
    if not found:
        raise UserError(
            f"no file matches {shown(data)!r} (looked for in {clean(os.getcwd())}); give a CSV or Parquet file, a "
            "folder, a glob like 'tables/*.parquet', or a URL"
        )
    files = [_File(at, file, base, options) for file in found]
    if other := next((file for file in files if file.kind != files[0].kind), None):
        raise UserError(
            f"{shown(data)} has {files[0].kind} and {other.kind} files ({files[0].shown}, {other.shown}); give a glob "
            "that matches one kind"
        )
    return files, at


def _is_hidden(file: str, base: str) -> bool:
    parts = PurePosixPath(file).relative_to(base).parts if base else PurePosixPath(file).parts
    return any(part[0] in "._" and "=" not in part for part in parts)


def _refuse_lakes(at: Any, base: str, deep: bool, data: str) -> None:
    """Raise `UserError` for a table format's folder, or one above it: its files also contain rows that were deleted."""
    files = [PurePosixPath(file) for file in at.find(base, maxdepth=None if deep else 2)] if at.isdir(base) else []
    kinds = [kind for file in files for log, kind in _LAKES.items() if log in file.parts[:-1]]
    kinds += ["Iceberg" for file in files if file.parent.name == "metadata" and file.name.endswith(".metadata.json")]
    if kinds:
        raise UserError(
            f"{shown(data)} is or contains a table in {kinds[0]} format, whose folder also contains deleted rows; read "
            "it with its library, write the rows as Parquet, and give that"
        )


# Types ----------------------------------------------------------------------------------------------------------------


def _of_texts(files: Sequence[_File], missing: Sequence[str] | None, types: Mapping[str, str]) -> Inference:
    """Return what the columns of CSV files are, after one reading of all."""
    inference = Inference(dict.fromkeys(name for file in files for name in file.names), missing, types)
    for file in files:
        last = None
        with readable(file.shown):
            for batch in file.batches(file.names):
                for name in file.names:
                    inference.add(name, batch[name], file.shown)
                last = batch[file.last][-1].as_py() if len(batch) else last
            file.check_quotes(last)
    return inference


def _parquet_schema(files: Sequence[_File], types: Mapping[str, str]) -> pa.Schema:
    """Return one schema for all Parquet files. Raise `UserError` with the column and two files where types differ."""
    found: dict[str, tuple[pa.DataType, _File]] = {}
    for file in files:
        for field in file.parquet_schema():
            kind, first = found.setdefault(field.name, (field.type, file))
            found[field.name] = (_common(field.name, kind, first, field.type, file), first)
        for key in file.folders:
            found.setdefault(key, (narrowest([other.folders.get(key) for other in files]), file))
    given = {name: KINDS[kind][0] for name, kind in types.items()}
    return pa.schema({name: given.get(name, kind) for name, (kind, _) in found.items()})


def _common(name: str, kind: pa.DataType, first: _File, other: pa.DataType, file: _File) -> pa.DataType:
    try:
        fields = [pa.schema({name: one}) for one in (kind, other)]
        return pa.unify_schemas(fields, promote_options="permissive").field(name).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        types = f"{kind} in {first.shown} and {other} in {file.shown}"
        raise UserError(f"column {name!r} is {types}; write both with one type") from None


def options(pairs: Sequence[str]) -> dict[str, Any]:
    """Return options of `source` from "name=value" texts, as a notebook's parameter has them.

    E.g. "separator=;", "separator=tab", "encoding=latin-1", "missing=-1" (once per text), "header=no", "type.id=text".
    """
    found: dict[str, Any] = {}
    for name, _, value in (pair.partition("=") for pair in pairs):
        if name.startswith("type."):
            found.setdefault("types", {})[name.removeprefix("type.")] = value
        elif name == "missing":
            found.setdefault("missing", []).append(value)
        elif one_of(name, ("separator", "encoding", "header", "missing", "type.COLUMN"), "read option") == "header":
            found["header"] = one_of(value, ("yes", "no"), "header") == "yes"
        else:
            found[name] = SEPARATORS.get(value, value) if name == "separator" else value
    return found
