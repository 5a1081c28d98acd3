"""Readers of stored tables as variants: each library's call, the requests that it took, and a check of its table."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from timeit import timeit
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from kit.common import disk
from kit.common.parameters import one_of
from kit.errors import UserError
from kit.measure.work import TIME, Measurement, Peak, Setup, fell_back, verified
from kit.record.document import ExecutionProof
from kit.techniques.storage import layouts, link
from kit.techniques.storage.layouts import Stored, Written
from kit.techniques.storage.servers import Bucket, Server, counted

SELECTIONS = ("all", "three columns", "one day", "one key")
MANY_FILES = 1_000
"""A read of more files takes seconds: it is counted and its table checked, and it is not timed in rounds."""
_LISTED, _HEADERS, _FOOTER = 1_024, 4_096, 65_536  # bytes of an object listed, headers, a footer: at most


@dataclass(frozen=True)
class Read:
    """One read, and all that a process needs for it. columns: None: all. column, value: rows to read; empty: all.
    mbit_per_s: of a shaped link; 0: loopback. cold: the files are dropped from the page cache before each read. path:
    of the first file, as file systems name it. arguments: columns and rows, as pyarrow takes them."""

    bucket: Bucket
    written: Written
    schema: pa.Schema
    columns: list[str] | None = None
    column: str = ""
    value: Any = None
    mbit_per_s: float = 0.0
    cold: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        rows = [(self.column, "==", self.value)] if self.column else None
        folders = layouts.partitioning(self.schema, self.written.layout)
        return {"columns": self.columns, "filters": rows, "partitioning": folders}

    path = property(lambda self: self.bucket.path(self.written.first))

    def matching(self) -> dict[str, int]:
        """Return the sizes of the files that may contain a row to read, by the folders that they lie in."""
        folder = f"{self.column}={self.value}" if self.column and self.column == self.written.layout.partition else ""
        sizes = self.written.sizes
        return {name: sizes[name] for name in sizes if folder in ("", unquote(name.split("/")[0]))}


def reads(
    written: Mapping[str, Written], by: Server | Bucket, stored: Stored, selection: str = "all"
) -> dict[str, Read]:
    """Return the read of one of `SELECTIONS` from each layout, where it is served; the day and the key are those of the
    middle row. Raise `UserError` if the table has no such column."""
    what = {"columns": [*stored.columns]} if selection == "three columns" else {}
    column = {"one day": stored.day, "one key": stored.key}.get(one_of(selection, SELECTIONS, "selections"))
    if column == "":
        raise UserError(f"{selection!r} needs a column of your table; name those of days and keys in partition_by=")
    if column:
        values = stored.table[column].drop_null()
        what = {"column": column, "value": values[len(values) // 2].as_py()}
    return {name: Read(layouts.served(one, by), one, stored.table.schema, **what) for name, one in written.items()}


def over_links(reads: Mapping[str, Read]) -> Callable[[float], dict[str, Read]]:
    """Return a function of a bandwidth in Mbit/s: the same reads, from a private server behind a shaped link."""
    servers: list[Server] = []  # each ends with the function

    def over(mbit_per_s: float) -> dict[str, Read]:
        servers.append(Server(next(iter(reads.values())).written.folder.parent, mbit_per_s).start())
        there = {name: replace(read, mbit_per_s=mbit_per_s) for name, read in reads.items()}
        return {name: replace(read, bucket=layouts.served(read.written, servers[-1])) for name, read in there.items()}

    return over


def pyarrow(read: Read) -> Callable[[], Any]:
    """pyarrow with its own S3 file system: the files below a prefix, listed in every read."""
    return partial(pq.read_table, read.bucket.path(), filesystem=read.bucket.pyarrow(), **read.arguments)


def local_disk(read: Read) -> Callable[[], Any]:
    """pyarrow from the files of this machine, without a server."""
    return partial(pq.read_table, read.written.folder, **read.arguments)


def s3fs(read: Read, **options: Any) -> Callable[[], Any]:
    """pyarrow's reader of Parquet over s3fs; both read ahead."""
    return partial(pq.read_table, read.path, filesystem=read.bucket.s3fs(**options))


def obstore(read: Read) -> Callable[[], Any]:
    """obstore gets the whole object in one request, and pyarrow decodes it from memory."""
    store = read.bucket.obstore()
    return lambda: pq.read_table(pa.py_buffer(store.get(read.written.first).bytes()))


def duckdb(read: Read) -> Callable[[], Any]:
    """DuckDB over s3fs, without its cache of files, from which every read but the first would be answered."""
    import duckdb

    connection = duckdb.connect(config={"enable_external_file_cache": False})
    connection.register_filesystem(read.bucket.s3fs())
    return lambda: connection.sql(f"SELECT * FROM read_parquet('s3://{read.path}')").to_arrow_table()


def polars(read: Read) -> Callable[[], Any]:
    """Polars over s3fs."""
    files = read.bucket.s3fs()
    return lambda: pl.read_parquet(files.open(read.path))


CLIENTS = {
    "pyarrow": pyarrow,
    "s3fs": s3fs,
    "s3fs, no readahead": partial(s3fs, default_cache_type="none"),  # pyarrow knows which ranges it needs
    "obstore": obstore,
    "DuckDB": duckdb,
    "Polars": polars,
    "local disk": local_disk,
    "local disk, cold": local_disk,
}
"""Clients of one file, by the names of their variants."""


def of_clients(read: Read) -> dict[str, Read]:
    """Return the same read for each client; of the server only what it serves is counted."""
    local = replace(read, bucket=replace(read.bucket, log=""))
    return {name: replace(local if "disk" in name else read, cold="cold" in name) for name in CLIENTS}


def reader(name: str, client: Callable[[Read], Callable[[], Any]] = pyarrow) -> Callable[[Mapping[str, Read]], Setup]:
    """Return the variant by which a client makes the read of this name."""

    def variant(reads: Mapping[str, Read]) -> Setup:
        read, last = reads[name], {}
        file, files = read.written.folder / read.written.first, len(read.matching())
        link.enter(read.bucket.namespace)  # before a library opens connections
        with read.bucket.reached():
            call = client(read)

        def measure() -> Measurement:
            disk.drop_cached([file] if read.cold else [])
            with read.bucket.reached():
                table, costs = counted(read.bucket, call)
            last.update(costs)
            return Measurement(costs["read_s"], answer=partial(fingerprint, table))

        peak = Peak("memory_copy_gib_per_s", read.written.table_bytes / 2**30, "the decoded table, copied once")
        if read.mbit_per_s:
            link_s = link.transfer_s(read.written.mib * 2**20, 0, read.mbit_per_s)
            peak = Peak(TIME, link_s, "the link: bytes of the files ÷ bandwidth")
        if read.cold:
            disk.drop_cached([file])
            peak = Peak(TIME, timeit(file.read_bytes, number=1), "the disk: the bytes read cold once, not decoded")
        not_timed = f"{files:,} files per read" if files > MANY_FILES else ""
        return Setup(measure, partial(proof, read, last), peak=peak, made_s=read.written.seconds, not_timed=not_timed)

    return variant


def proof(read: Read, last: Mapping[str, float]) -> ExecutionProof:
    """Judge by the files' footers, the kernel and the server: the codec asked for, bytes as they were written, a cold
    read from the disk, and no more bytes than the files that match have. last: `counted` of the last read."""
    files, first, (asked, _) = read.matching(), read.written.first, layouts.codec(read.written.layout.codec)
    footer = pq.read_metadata(read.written.folder / first)
    used, sent, cold = footer.row_group(0).column(0).compression, last.get("sent_mib", 0), last.get("disk_mib", 0)
    facts = {"codec": used, "row groups": footer.num_row_groups, "files": len(files)}
    if "gets" in last:
        facts |= {"GETs": last["gets"], "LISTs": last["lists"], "sent": f"{sent:.2f} MiB"}
    if read.cold:
        facts["from the disk"] = f"{cold:.2f} MiB"
    with read.bucket.reached(first), read.bucket.pyarrow().open_input_file(read.path) as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    # pyarrow reads a small file twice, the last 64 KiB for the footer and then columns, and one file for the schema.
    requests = sum(last.get(kind, 0) for kind in ("gets", "lists", "heads"))
    most = 2 * sum(files.values()) + _FOOTER + _LISTED * len(read.written.sizes) + _HEADERS * requests
    faults = {
        f"{used} instead of {asked}": used != {"NONE": "UNCOMPRESSED"}.get(asked, asked),
        f"bytes of {first} that are not those written (SHA-256)": digest != read.written.digests[first],
        "a copy that the client kept: the server sent nothing": last.get("gets") == 0,
        "the page cache": read.cold and cold < read.written.mib,
        "more bytes than the files that match have": len(files) < len(read.written.sizes) and sent * 2**20 > most,
    }
    found = next((fault for fault, there in faults.items() if there), "")
    return fell_back(found, **facts) if found else verified(costs=dict(last), **facts)


def fingerprint(table: Any) -> dict[str, Any]:
    """Return what two equal tables share, whatever the order of their rows and columns: number of rows, types of the
    columns, and a sum of hashes of whole rows, in which null, NaN and "" differ. Texts may have any width."""
    table = pa.table(table)
    table = table.select(sorted(table.column_names))
    types = {field.name: str(field.type).replace("large_", "").replace("_view", "") for field in table.schema}
    return {"rows": len(table), "types": types, "rows' hash": int(pl.from_arrow(table).hash_rows(seed=1).sum() or 0)}
