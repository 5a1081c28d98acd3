"""The questions in Dask: dask dataframes come in, one goes out that is not computed yet. Its partitions are pandas
frames, or, with Dask's dataframe backend set to `cudf`, cuDF frames.

A missing key is a group of its own; the sum of no values is 0; quantiles interpolate linearly. What needs a whole group
at once (medians, quantiles, the two largest) is computed where a shuffle has brought each group together.
"""

import dask
import dask.dataframe as dd
from dask.dataframe import DataFrame

from kit.techniques.dataframes import in_pandas
from kit.techniques.dataframes.in_pandas import by_keys

ROW_GROUPS = 4
"""Row groups of the file that make one partition: half a million rows, some 60 MB as pandas frames."""


def read(path: str, columns: list[str] | None = None, nullable: bool = False) -> DataFrame:
    """Return a table of several partitions; cuDF's are larger, by its own rule. nullable: with pandas' nullable types,
    in which whole numbers stay whole where some are missing, as in cuDF's."""
    if dask.config.get("dataframe.backend") == "cudf":
        return dd.read_parquet(path, columns=columns)
    types = {"dtype_backend": "numpy_nullable"} if nullable else {}
    return dd.read_parquet(path, columns=columns, split_row_groups=ROW_GROUPS, **types)


def groupby_6(x: DataFrame) -> DataFrame:
    return x[["id4", "id5", "v3"]].shuffle(["id4", "id5"]).map_partitions(in_pandas.QUERIES["groupby_6"])


def groupby_8(x: DataFrame) -> DataFrame:
    """The two largest of all are among the two largest of each partition, so that only those are shuffled."""
    few = x.map_partitions(in_pandas.groupby_8).rename(columns={"largest2_v3": "v3"})
    return few.shuffle("id6").map_partitions(in_pandas.groupby_8)


def groupby_9(x: DataFrame) -> DataFrame:
    sums = by_keys(x.map_partitions(in_pandas.products), ["id2", "id4"]).sum()
    return sums.reset_index().map_partitions(in_pandas.r2)


def groupby_10(x: DataFrame) -> DataFrame:
    """Groups are nearly as many as rows: partitions are not summed up first, and one key brings groups together."""
    columns = ["id1", "id2", "id3", "id4", "id5", "id6", "v3"]
    return x[columns].shuffle("id6").map_partitions(in_pandas.groupby_10)


def own_sort(x: DataFrame, by: list[str], values: list[str]) -> DataFrame:
    """Partitions are cut at values of the first key, which can't be missing there: rows without one are put last."""
    order = [*by, *values]
    whole = x.dropna(subset=by[:1]).sort_values(order, na_position="last")
    gaps = x[x[by[0]].isna()].repartition(npartitions=1).map_partitions(lambda part: part.sort_values(order))
    ordered = dd.concat([whole, gaps])
    return ordered.assign(position=ordered.assign(position=1)["position"].cumsum() - 1)


def delay_features(paths: dict[str, str]) -> DataFrame:
    """Return delays by carrier, route, hour and weather, with how late the carrier was in the week before."""
    columns = in_pandas.READ
    flights = read(paths["flights"], columns["flights"]).map_partitions(in_pandas.dated)
    weather, planes, airports, airlines = (
        dd.read_parquet(paths[name], columns=columns[name]) for name in list(columns)[1:]
    )
    days = flights.groupby(["carrier", "origin", "date"], sort=False)[["flown", "late"]]
    days = days.sum(split_out=1)  # into one partition, since a week goes over days
    weeks = days.reset_index().map_partitions(in_pandas.late_week)
    flights = flights.merge(weeks, on=["carrier", "origin", "date"], how="left")
    flights = flights.map_partitions(in_pandas.located, weather.map_partitions(in_pandas.banded), planes)
    answer = flights.shuffle(["carrier", "origin", "dest"]).map_partitions(in_pandas.features)
    return answer.map_partitions(in_pandas.named, airlines, airports)


SAME = [*map("groupby_{}".format, (1, 2, 3, 4, 5, 7)), *map("join_{}".format, range(1, 6)), "own_groupby", "own_join"]
QUERIES = {question: in_pandas.QUERIES[question] for question in SAME} | {
    "groupby_6": groupby_6,
    "groupby_8": groupby_8,
    "groupby_9": groupby_9,
    "groupby_10": groupby_10,
    "own_sort": own_sort,
    "delay_features": delay_features,
}
"""Question → function. `SAME` are pandas' own, which Dask's frames answer as they are."""
