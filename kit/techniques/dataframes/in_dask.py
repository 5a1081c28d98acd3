"""The questions in Dask: dask dataframes come in, one goes out that is not computed yet. Its partitions are pandas
frames, or, with Dask's dataframe backend set to `cudf`, cuDF frames.

A missing key is a group of its own; the sum of no values is 0; quantiles interpolate linearly. What needs a whole group
at once (medians, quantiles, the two largest) is computed where a shuffle has brought each group together.
"""

import dask.dataframe as dd
from dask.dataframe import DataFrame

from kit.techniques.dataframes import in_pandas

ROW_GROUPS = 4
"""Row groups of the file that make one partition: half a million rows, some 60 MB as pandas frames."""


def read(path: str, columns: list[str] | None = None) -> DataFrame:
    return dd.read_parquet(path, columns=columns, split_row_groups=ROW_GROUPS)


def delay_features(paths: dict[str, str]) -> DataFrame:
    """Return delays by carrier, route, hour and weather, with how late the carrier was in the week before."""
    flights = read(paths["flights"], in_pandas.FLIGHTS).map_partitions(in_pandas.dated)
    weather = dd.read_parquet(paths["weather"], columns=["origin", "time_hour", "wind_speed", "precip", "visib"])
    planes = dd.read_parquet(paths["planes"], columns=["tailnum", "year", "seats"])
    airports = dd.read_parquet(paths["airports"], columns=["faa", "lat", "lon", "alt"])
    airlines = dd.read_parquet(paths["airlines"])
    days = flights.groupby(["carrier", "origin", "date"], sort=False).agg(flown=("late", "count"), late=("late", "sum"))
    weeks = days.reset_index().map_partitions(in_pandas.late_week)
    flights = flights.merge(weeks, on=["carrier", "origin", "date"], how="left")
    flights = flights.map_partitions(in_pandas.located, weather.map_partitions(in_pandas.banded), planes)
    answer = flights.shuffle(["carrier", "origin", "dest"]).map_partitions(in_pandas.features)
    return answer.map_partitions(in_pandas.named, airlines, airports)
