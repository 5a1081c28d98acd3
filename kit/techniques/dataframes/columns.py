"""Which columns each question must read, and how many bytes they are: what an engine's speed is held against."""

import re
from collections.abc import Iterable
from inspect import signature
from typing import Any

from kit.common.datasets import ROW_GROUP
from kit.measure.work import Peak
from kit.techniques.dataframes import in_sql
from kit.techniques.dataframes.in_pandas import READ
from kit.techniques.dataframes.questions import FROM_FILES
from kit.techniques.dataframes.tables import Tables

MEMORY, DEVICE = "memory_copy_gib_per_s", "device_copy_gib_per_s"
"""The peaks of engines on the CPU and on a GPU."""

def read(tables: Tables, question: str) -> dict[str, list[str]]:
    """Return table → the columns that no engine can answer `question` without: those that its SQL names, or all that a
    join hands on."""
    import pyarrow.parquet as pq

    question = question.removesuffix(FROM_FILES)
    if question == "delay_features":
        return READ
    if tables.workload == "own":
        whole = {"x": [*tables.by, *tables.values]}
        return whole | ({"keys": [*tables.by, "key_number"]} if question == "own_join" else {})
    function = in_sql.QUERIES[question]
    names = {name: pq.read_schema(tables.paths[name]).names for name in signature(function).parameters}
    words = set(re.findall(r"\w+", function(**dict.fromkeys(names, ""))))
    return {t: columns if "join" in question else [c for c in columns if c in words] for t, columns in names.items()}


def bound(tables: Tables, question: str, peak: str = MEMORY) -> Peak:
    """Return the least that a question must move, the same for all engines: the columns that it reads, once.

    A number counts its width, a text the 1, 2 or 4 bytes of a code that tells as many texts apart as the first rows
    have: engines hold it so, or larger. Intermediate tables and the answer are not counted.
    """
    needed = read(tables, question)
    amount = sum(_bytes(tables.paths[name], columns) for name, columns in needed.items()) / 2**30
    number = sum(map(len, needed.values()))
    return Peak(peak, amount, f"the {number} columns that the question needs, read once, text as codes: the least")


def _bytes(path: str, columns: Iterable[str]) -> int:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
        return sum(rows * _width(file, schema.field(name)) for name in columns)


def _width(file: Any, field: Any) -> int:
    """Return the bytes of one value in memory."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(field.type):
        return max(1, field.type.bit_width // 8)
    first = next(file.iter_batches(ROW_GROUP, columns=[field.name]), None)
    different = pc.count_distinct(first[0]).as_py() if first is not None else 0
    return 1 if different <= 2**8 else 2 if different <= 2**16 else 4
