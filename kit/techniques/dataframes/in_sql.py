"""The questions in SQL (DuckDB's): names of tables come in, the text of a query goes out.

A missing key is a group of its own and joins with nothing, as SQL has it; the sum of no values, which SQL calls
missing, is 0 here (`coalesce`), as in the other idioms; `quantile_cont` interpolates linearly. DuckDB sums whole
numbers in 128 bits, which no other engine reads, hence the casts.
"""

from pathlib import Path

DELAY_FEATURES = Path(__file__).with_name("delay_features.sql").read_text(encoding="utf-8")


def own_groupby(x: str, by: list[str], values: list[str]) -> str:
    how = {"sum": "coalesce(sum({0}), 0)", "mean": "avg({0})", "min": "min({0})", "max": "max({0})"}
    values = [f"{sql.format(quoted(v))} AS {quoted(f'{v}_{name}')}" for v in values for name, sql in how.items()]
    return f"SELECT {listed(by)}, count(*) AS rows, {', '.join(values)} FROM {x} GROUP BY {listed(by)}"


def own_sort(x: str, by: list[str], values: list[str]) -> str:
    order = ", ".join(f"{quoted(column)} NULLS LAST" for column in [*by, *values])
    return f"SELECT *, row_number() OVER () - 1 AS position FROM (FROM {x} ORDER BY {order})"


def listed(columns: list[str]) -> str:
    """Return columns' names, quoted, with commas between them."""
    return ", ".join(quoted(column) for column in columns)


def quoted(column: str) -> str:
    """Return a column's name as SQL writes one that may hold anything."""
    return '"' + column.replace('"', '""') + '"'


def delay_features(paths: dict[str, str], read: str = "read_parquet('{}')", quantile: str = "quantile_cont") -> str:
    """Return delays by carrier, route, hour and weather, with how late the carrier was in the week before.

    read: how a FROM clause names a Parquet file; quantile: the function that interpolates. Spark shares the rest.
    """
    return DELAY_FEATURES.format(quantile=quantile, **{name: file(path, read) for name, path in paths.items()})


def file(path: str, read: str = "read_parquet('{}')") -> str:
    """Return a Parquet file as a FROM clause names it."""
    quote = read[read.index("{") - 1]
    return read.format(path.replace(quote, 2 * quote))


def _ids(*numbers: int, of: str = "medium") -> str:
    return ", ".join(f"{of[0]}.id{number} AS id{number}_{of}" for number in numbers)


QUERIES = {
    "groupby_1": lambda x: f"SELECT id1, coalesce(sum(v1), 0)::BIGINT AS v1 FROM {x} GROUP BY id1",
    "groupby_2": lambda x: f"SELECT id1, id2, coalesce(sum(v1), 0)::BIGINT AS v1 FROM {x} GROUP BY id1, id2",
    "groupby_3": lambda x: f"SELECT id3, coalesce(sum(v1), 0)::BIGINT AS v1, avg(v3) AS v3 FROM {x} GROUP BY id3",
    "groupby_4": lambda x: f"SELECT id4, avg(v1) AS v1, avg(v2) AS v2, avg(v3) AS v3 FROM {x} GROUP BY id4",
    "groupby_5": lambda x: (
        "SELECT id6, coalesce(sum(v1), 0)::BIGINT AS v1, coalesce(sum(v2), 0)::BIGINT AS v2, "
        f"coalesce(sum(v3), 0) AS v3 FROM {x} GROUP BY id6"
    ),
    "groupby_6": lambda x: f"SELECT id4, id5, median(v3) AS median_v3, stddev_samp(v3) AS sd_v3 FROM {x} GROUP BY ALL",
    "groupby_7": lambda x: f"SELECT id3, max(v1) - min(v2) AS range_v1_v2 FROM {x} GROUP BY id3",
    "groupby_8": lambda x: f"SELECT id6, unnest(max(v3, 2)) AS largest2_v3 FROM {x} WHERE v3 IS NOT NULL GROUP BY id6",
    "groupby_9": lambda x: f"SELECT id2, id4, pow(corr(v1, v2), 2) AS r2 FROM {x} GROUP BY id2, id4",
    "groupby_10": lambda x: (
        "SELECT id1, id2, id3, id4, id5, id6, coalesce(sum(v3), 0) AS v3, count(*) AS count "
        f"FROM {x} GROUP BY id1, id2, id3, id4, id5, id6"
    ),
    "join_1": lambda x, small: f"SELECT x.*, s.id4 AS id4_small, s.v2 FROM {x} AS x JOIN {small} AS s USING (id1)",
    "join_2": lambda x, medium: f"SELECT x.*, {_ids(1, 4, 5)}, m.v2 FROM {x} AS x JOIN {medium} AS m USING (id2)",
    "join_3": lambda x, medium: f"SELECT x.*, {_ids(1, 4, 5)}, m.v2 FROM {x} AS x LEFT JOIN {medium} AS m USING (id2)",
    "join_4": lambda x, medium: f"SELECT x.*, {_ids(1, 2, 4)}, m.v2 FROM {x} AS x JOIN {medium} AS m USING (id5)",
    "join_5": lambda x, big: f"SELECT x.*, {_ids(1, 2, 4, 5, 6, of='big')}, b.v2 FROM {x} x JOIN {big} b USING (id3)",
    "own_groupby": own_groupby,
    "own_sort": own_sort,
    "own_join": lambda x, keys, by: f"SELECT * FROM {x} JOIN {keys} USING ({listed(by)})",
    "delay_features": delay_features,
}
