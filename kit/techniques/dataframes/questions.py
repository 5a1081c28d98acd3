"""The questions: what each asks, in words, and of which workload."""

from difflib import get_close_matches

from kit.errors import UserError

GROUPBY = {
    "groupby_1": "sum of v1 by id1",
    "groupby_2": "sum of v1 by id1 and id2",
    "groupby_3": "sum of v1 and mean of v3 by id3 (many groups)",
    "groupby_4": "means of v1, v2 and v3 by id4",
    "groupby_5": "sums of v1, v2 and v3 by id6 (many groups)",
    "groupby_6": "median and standard deviation of v3 by id4 and id5",
    "groupby_7": "largest v1 less smallest v2 by id3 (many groups)",
    "groupby_8": "two largest v3 by id6 (many groups)",
    "groupby_9": "r² of v1 and v2 by id2 and id4",
    "groupby_10": "sum of v3 and count by id1 to id6 (nearly as many groups as rows)",
}
JOIN = {
    "join_1": "inner join with a small table on a whole number",
    "join_2": "inner join with a medium table on a whole number",
    "join_3": "left join with a medium table on a whole number",
    "join_4": "inner join with a medium table on text",
    "join_5": "inner join with a table as big on a whole number",
}
FLIGHTS = {"delay_features": "read, join, group and roll real flights into a table of delay features"}
OWN = {
    "own_groupby": "sum, mean, least and greatest of your values by your keys",
    "own_sort": "your table sorted by your keys and values, each row with its position",
    "own_join": "your table joined with a table of its keys",
}
WORKLOADS = {"flights": FLIGHTS, "groupby": GROUPBY, "join": JOIN, "own": OWN}
QUESTIONS = FLIGHTS | GROUPBY | JOIN | OWN
"""Question → what it asks. `groupby_*` and `join_*` are those of the database-like-ops benchmark (db-benchmark)."""


def workload(question: str) -> str:
    """Return which workload a question belongs to. Raise `UserError` for a name that is none."""
    for name, questions in WORKLOADS.items():
        if question in questions:
            return name
    nearest = get_close_matches(str(question), QUESTIONS, n=1, cutoff=0)[0]
    raise UserError(f"there is no question {question!r}; did you mean {nearest!r}? There are: {', '.join(QUESTIONS)}")
