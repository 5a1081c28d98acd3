"""The questions: each in words, and the workload it belongs to; and the tables that they are asked of."""

from dataclasses import dataclass

from kit.common.parameters import one_of

GROUPBY = {
    "groupby_1": "Sum of v1 by id1",
    "groupby_2": "Sum of v1 by id1 and id2",
    "groupby_3": "Sum of v1 and mean of v3 by id3 (many groups)",
    "groupby_4": "Means of v1, v2 and v3 by id4",
    "groupby_5": "Sums of v1, v2 and v3 by id6 (many groups)",
    "groupby_6": "Median and standard deviation of v3 by id4 and id5",
    "groupby_7": "Largest v1 less smallest v2 by id3 (many groups)",
    "groupby_8": "Two largest v3 by id6 (many groups)",
    "groupby_9": "r² of v1 and v2 by id2 and id4",
    "groupby_10": "Sum of v3 and count by id1 to id6 (nearly as many groups as rows)",
}
JOIN = {
    "join_1": "Inner join with a small table on a whole number",
    "join_2": "Inner join with a medium table on a whole number",
    "join_3": "Left join with a medium table on a whole number",
    "join_4": "Inner join with a medium table on text",
    "join_5": "Inner join with a table as big on a whole number",
}
FLIGHTS = {"delay_features": "Read, join, group and roll real flights into a table of delay features"}
OWN = {
    "own_groupby": "Sum, mean, minimum and maximum of your values by your keys",
    "own_sort": "Your table sorted by your keys and values, each row with its position",
    "own_join": "Your table joined with a table of its keys",
}
FROM_FILES = " from files"
"""Ends the name of a question that reads its tables in each query."""
WORKLOADS = {"flights": FLIGHTS, "groupby": GROUPBY, "join": JOIN, "own": OWN}
QUESTIONS = FLIGHTS | GROUPBY | JOIN | OWN
"""Question → its words. `groupby_*` and `join_*` are those of the database-like-ops benchmark (db-benchmark)."""


def workload_of(question: str) -> str:
    """Return the workload of a question. Raise `UserError` with the nearest name if there is no such question."""
    one_of(question, QUESTIONS, "question")
    return next(name for name, questions in WORKLOADS.items() if question in questions)


@dataclass(frozen=True)
class Tables:
    """The tables of one workload at one size.

    workload: `flights`, `groupby`, `join` or `own`. rows: rows of the main table. paths: table name → absolute path.
    by, values: the user's own columns, for `own` only. summary: what was taken for what in the user's files.
    from_files: engines read the files in each query, instead of holding the tables in memory.
    """

    workload: str
    rows: int
    paths: dict[str, str]
    by: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    summary: str = ""
    from_files: bool = False
