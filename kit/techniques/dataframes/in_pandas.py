"""The questions in pandas, and, since nothing here is pandas' alone, in cuDF: frames come in, a frame goes out.

So that both give the same answer: a missing key is a group of its own (`dropna=False`); the sum of no values is 0,
which cuDF calls missing (`fillna`); quantiles interpolate linearly; nothing is changed in place; there are no object
columns. Text keys are categories where the frame was read with them, as is usual where memory or time counts.
"""

from collections.abc import Callable
from typing import Any

Frame = Any
"""A `pandas.DataFrame` or `cudf.DataFrame`: neither is imported here, so that cudf.pandas can be installed first."""


def by_keys(x: Frame, keys: str | list[str]) -> Any:
    """Return groups in which a missing key is one of its own, in any order."""
    return x.groupby(keys, observed=True, sort=False, dropna=False)


def groupby_7(x: Frame) -> Frame:
    ends = by_keys(x, "id3").agg({"v1": "max", "v2": "min"}).reset_index()
    return ends.assign(range_v1_v2=ends["v1"] - ends["v2"])[["id3", "range_v1_v2"]]


def groupby_8(x: Frame) -> Frame:
    falling = x[["id6", "v3"]].dropna(subset=["v3"]).sort_values("v3", ascending=False)
    return by_keys(falling, "id6").head(2).rename(columns={"v3": "largest2_v3"}).reset_index(drop=True)


def products(x: Frame) -> Frame:
    """What r² is summed from: exact for whole numbers. Rows with a missing value count nothing."""
    v1, v2 = x["v1"].astype("float64"), x["v2"].astype("float64")
    both = (v1 * v2).notna()
    v1, v2 = v1.where(both).fillna(0), v2.where(both).fillna(0)
    return x[["id2", "id4"]].assign(n=both.astype("int64"), v1=v1, v2=v2, v11=v1 * v1, v22=v2 * v2, v12=v1 * v2)


def r2(sums: Frame) -> Frame:
    n, v1, v2 = sums["n"], sums["v1"], sums["v2"]
    variances = (n * sums["v11"] - v1 * v1) * (n * sums["v22"] - v2 * v2)
    covariance = n * sums["v12"] - v1 * v2
    return sums[["id2", "id4"]].assign(r2=covariance * covariance / variances)


def groupby_10(x: Frame) -> Frame:
    groups = by_keys(x, ["id1", "id2", "id3", "id4", "id5", "id6"])
    return groups.agg(v3=("v3", "sum"), count=("v3", "size")).fillna({"v3": 0}).reset_index()


def own_groupby(x: Frame, by: list[str], values: list[str]) -> Frame:
    how = {"rows": ["sum"]} | {value: ["sum", "mean", "min", "max"] for value in values}
    answer = by_keys(x.assign(rows=1), by).agg(how)
    answer.columns = ["rows", *(f"{value}_{how}" for value in values for how in ("sum", "mean", "min", "max"))]
    empty = {f"{value}_sum": answer[f"{value}_sum"].where(~answer[f"{value}_min"].isna(), 0) for value in values}
    return answer.assign(**empty).reset_index()


def delay_features(paths: dict[str, str], read: Callable[..., Frame]) -> Frame:
    """Return delays by carrier, route, hour and weather, with how late the carrier was in the week before. read: the
    engine's `read_parquet`."""
    flights, weather, planes, airports, airlines = (read(paths[name], columns=READ[name]) for name in READ)
    flights = dated(flights)
    days = flights.groupby(["carrier", "origin", "date"], observed=True, sort=False)[["flown", "late"]]
    weeks = late_week(days.sum().fillna(0).reset_index())
    flights = flights.merge(weeks, on=["carrier", "origin", "date"], how="left")
    return named(features(located(flights, banded(weather), planes)), airlines, airports)


READ = {
    "flights": "year month day hour time_hour carrier tailnum origin dest dep_delay arr_delay".split(),
    "weather": "origin time_hour wind_speed precip visib".split(),
    "planes": "tailnum year seats".split(),
    "airports": "faa lat lon alt".split(),
    "airlines": "carrier name".split(),
}
"""The columns that the delay features need, by table."""


def dated(flights: Frame) -> Frame:
    """Add the date as a number, whether the flight left, and whether late: 1, 0 or, where it never left, missing."""
    date = flights["year"] * 10_000 + flights["month"] * 100 + flights["day"]
    flown = flights["dep_delay"].notna()
    late = (flights["dep_delay"] > 15).astype("float64").where(flown)
    return flights.assign(date=date, flown=flown.astype("int64"), late=late).drop(columns=["month", "day"])


def late_week(days: Frame) -> Frame:
    """Share of late departures of each carrier at each origin, over the seven days with flights before each date."""
    days = days.sort_values(["carrier", "origin", "date"], ignore_index=True)
    eight = days.groupby(["carrier", "origin"], observed=True, sort=True).rolling(8, min_periods=1)[["flown", "late"]]
    before = eight.sum().reset_index(drop=True) - days[["flown", "late"]]
    share = (before["late"] / before["flown"]).where(before["flown"] > 0)
    return days[["carrier", "origin", "date"]].assign(late_week=share)


def banded(weather: Frame) -> Frame:
    """Bands: 0 fair, 1 windy (from 20 mph), 2 poor (rain, or visibility under 3 miles); 3 is not known."""
    poor = (weather["precip"].fillna(0) > 0) | (weather["visib"].fillna(10) < 3)
    windy = weather["wind_speed"].fillna(0) >= 20
    weather = weather.assign(band=windy.astype("int8").where(~poor, 2)).drop(columns=["precip", "visib"])
    return weather.rename(columns={"wind_speed": "wind"})


def located(flights: Frame, weather: Frame, planes: Frame) -> Frame:
    """Give each flight its weather and plane for their keys."""
    weather = _alike(weather, "origin", flights["origin"])
    planes = _alike(planes.rename(columns={"year": "built"}), "tailnum", flights["tailnum"])
    flights = flights.merge(weather, on=["origin", "time_hour"], how="left").merge(planes, on="tailnum", how="left")
    flights = flights.assign(band=flights["band"].fillna(3).astype("int8"), age=flights["year"] - flights["built"])
    return flights.drop(columns=["time_hour", "tailnum", "year", "built"])


def _alike(table: Frame, key: str, keys: Any) -> Frame:
    """Return the rows of `table` whose key is among `keys`, in the type of those: equal categories join fast."""
    return table[table[key].isin(keys.dropna().unique())].astype({key: keys.dtype})


def features(flights: Frame) -> Frame:
    """Counts, means and quantiles of each carrier, route, hour and band of weather."""
    keys = ["carrier", "origin", "dest", "hour", "band"]
    groups = flights.groupby(keys, observed=True, sort=False)
    means = {f"{name}_mean": (name, "mean") for name in ("dep_delay", "arr_delay", "late_week", "age", "seats", "wind")}
    counts = {"flights": ("date", "count"), "flown": ("flown", "sum"), "late_share": ("late", "mean")}
    others = {"dep_delay_median": ("dep_delay", "median"), "late_week_max": ("late_week", "max")}
    answer = groups.agg(**means, **counts, **others).reset_index()
    ninety = groups["dep_delay"].quantile(0.9).reset_index().rename(columns={"dep_delay": "dep_delay_p90"})
    return answer.merge(ninety, on=keys)


def named(answer: Frame, airlines: Frame, airports: Frame) -> Frame:
    """Give bands and airlines their names, and each destination its place."""
    bands = {0: "fair", 1: "windy", 2: "poor", 3: "unknown"}
    answer = answer.assign(weather=answer["band"].map(bands)).drop(columns="band")
    airlines = _alike(airlines.rename(columns={"name": "airline"}), "carrier", answer["carrier"])
    airports = airports.rename(columns={"faa": "dest", "lat": "dest_lat", "lon": "dest_lon", "alt": "dest_alt"})
    airports = _alike(airports, "dest", answer["dest"])
    return answer.merge(airlines, on="carrier", how="left").merge(airports, on="dest", how="left")


QUERIES = {
    "groupby_1": lambda x: by_keys(x, "id1")[["v1"]].sum().fillna(0).reset_index(),
    "groupby_2": lambda x: by_keys(x, ["id1", "id2"])[["v1"]].sum().fillna(0).reset_index(),
    "groupby_3": lambda x: by_keys(x, "id3").agg({"v1": "sum", "v3": "mean"}).fillna({"v1": 0}).reset_index(),
    "groupby_4": lambda x: by_keys(x, "id4")[["v1", "v2", "v3"]].mean().reset_index(),
    "groupby_5": lambda x: by_keys(x, "id6")[["v1", "v2", "v3"]].sum().fillna(0).reset_index(),
    "groupby_6": lambda x: (
        by_keys(x, ["id4", "id5"]).agg(median_v3=("v3", "median"), sd_v3=("v3", "std")).reset_index()
    ),
    "groupby_7": groupby_7,
    "groupby_8": groupby_8,
    "groupby_9": lambda x: r2(by_keys(products(x), ["id2", "id4"]).sum().reset_index()),
    "groupby_10": groupby_10,
    "join_1": lambda x, small: x.merge(small, on="id1", suffixes=("", "_small")),
    "join_2": lambda x, medium: x.merge(medium, on="id2", suffixes=("", "_medium")),
    "join_3": lambda x, medium: x.merge(medium, on="id2", how="left", suffixes=("", "_medium")),
    "join_4": lambda x, medium: x.merge(medium, on="id5", suffixes=("", "_medium")),
    "join_5": lambda x, big: x.merge(big, on="id3", suffixes=("", "_big")),
    "own_groupby": own_groupby,
    "own_sort": lambda x, by, values: x.sort_values([*by, *values], na_position="last", ignore_index=True).assign(
        position=range(len(x))
    ),
    "own_join": lambda x, keys, by: x.merge(keys, on=by),
    "delay_features": delay_features,
}
