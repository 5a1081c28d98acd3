"""Which columns each question must read, and how many bytes they are: what an engine's speed is held against."""

import re
from inspect import signature

from kit.measure.work import Peak
from kit.techniques.dataframes import in_sql
from kit.techniques.dataframes.in_pandas import READ
from kit.techniques.dataframes.questions import FROM_FILES, Tables


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


def bound(tables: Tables, question: str, peak: str) -> Peak:
    """Return the least that a question must move, the same for all engines: the columns that it reads, once.

    A number counts its width and a text one byte, since no engine's codes are shorter. Intermediate tables and the
    answer are not counted.
    """
    import pyarrow.parquet as pq

    amount, needed = 0, read(tables, question)
    for name, columns in needed.items():
        with pq.ParquetFile(tables.paths[name]) as file:
            kinds = [file.schema_arrow.field(column).type for column in columns]
            widths = [1 if kind == "string" else max(1, kind.bit_width // 8) for kind in kinds]
            amount += file.metadata.num_rows * sum(widths)
    number = sum(map(len, needed.values()))
    return Peak(peak, amount / 2**30, f"the {number} columns that the question needs, read once: the least")
