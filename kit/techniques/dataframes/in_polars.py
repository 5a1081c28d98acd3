"""The questions in Polars: lazy frames come in, a lazy frame goes out; whoever collects it chooses the engine.

A missing key is a group of its own and joins with nothing; the sum of no values is 0; quantiles interpolate linearly.
"""

import polars as pl
from polars import LazyFrame, col


def delay_features(paths: dict[str, str]) -> LazyFrame:
    """Return delays by carrier, route, hour and weather, with how late the carrier was in the week before."""
    flights, weather, planes = (pl.scan_parquet(paths[name]) for name in ("flights", "weather", "planes"))
    date = col("year") * 10_000 + col("month") * 100 + col("day")
    flights = flights.with_columns(date=date, late=col("dep_delay") > 15)
    flights = (
        flights.join(_late_week(flights), on=["carrier", "origin", "date"], how="left")
        .join(_banded(weather), on=["origin", "time_hour"], how="left")
        .join(planes.select("tailnum", "seats", built="year"), on="tailnum", how="left")
        .with_columns(col("weather").fill_null("unknown"), age=col("year") - col("built"))
    )
    airlines = pl.scan_parquet(paths["airlines"]).select("carrier", airline="name")
    airports = pl.scan_parquet(paths["airports"]).select(dest="faa", dest_lat="lat", dest_lon="lon", dest_alt="alt")
    return _features(flights).join(airlines, on="carrier", how="left").join(airports, on="dest", how="left")


def _late_week(flights: LazyFrame) -> LazyFrame:
    """Share of late departures of each carrier at each origin, over the seven days with flights before each date."""
    days = flights.group_by("carrier", "origin", "date").agg(flown=col("late").count(), late=col("late").sum())
    counts = col("flown", "late").cast(pl.Int64)
    eight = counts.rolling_sum(8, min_samples=1).over("carrier", "origin", order_by="date")
    share = pl.when(col("flown") > 0).then(col("late") / col("flown"))
    return days.with_columns(eight - counts).select("carrier", "origin", "date", late_week=share)


def _banded(weather: LazyFrame) -> LazyFrame:
    """Bands: poor (rain, or visibility under 3 miles), windy (from 20 mph), fair."""
    poor, windy = (col("precip") > 0) | (col("visib") < 3), col("wind_speed") >= 20
    band = pl.when(poor).then(pl.lit("poor")).when(windy).then(pl.lit("windy")).otherwise(pl.lit("fair"))
    return weather.select("origin", "time_hour", wind="wind_speed", weather=band)


def _features(flights: LazyFrame) -> LazyFrame:
    delay = col("dep_delay")
    return flights.group_by("carrier", "origin", "dest", "hour", "weather").agg(
        col("dep_delay", "arr_delay", "late_week", "age", "seats", "wind").mean().name.suffix("_mean"),
        flights=pl.len(),
        flown=delay.count(),
        dep_delay_median=delay.median(),
        dep_delay_p90=delay.quantile(0.9, interpolation="linear"),
        late_share=col("late").mean(),
        late_week_max=col("late_week").max(),
    )


AGGREGATES = ("sum", "mean", "min", "max")
QUERIES = {
    "groupby_1": lambda x: x.group_by("id1").agg(col("v1").sum()),
    "groupby_2": lambda x: x.group_by("id1", "id2").agg(col("v1").sum()),
    "groupby_3": lambda x: x.group_by("id3").agg(col("v1").sum(), col("v3").mean()),
    "groupby_4": lambda x: x.group_by("id4").agg(col("v1", "v2", "v3").mean()),
    "groupby_5": lambda x: x.group_by("id6").agg(col("v1", "v2", "v3").sum()),
    "groupby_6": lambda x: x.group_by("id4", "id5").agg(median_v3=col("v3").median(), sd_v3=col("v3").std()),
    "groupby_7": lambda x: x.group_by("id3").agg(range_v1_v2=col("v1").max() - col("v2").min()),
    "groupby_8": lambda x: (
        x.drop_nulls("v3").group_by("id6").agg(largest2_v3=col("v3").top_k(2)).explode("largest2_v3")
    ),
    "groupby_9": lambda x: x.group_by("id2", "id4").agg(r2=pl.corr("v1", "v2") ** 2),
    "groupby_10": lambda x: x.group_by("id1", "id2", "id3", "id4", "id5", "id6").agg(col("v3").sum(), count=pl.len()),
    "join_1": lambda x, small: x.join(small, on="id1", suffix="_small"),
    "join_2": lambda x, medium: x.join(medium, on="id2", suffix="_medium"),
    "join_3": lambda x, medium: x.join(medium, on="id2", how="left", suffix="_medium"),
    "join_4": lambda x, medium: x.join(medium, on="id5", suffix="_medium"),
    "join_5": lambda x, big: x.join(big, on="id3", suffix="_big"),
    "own_groupby": lambda x, by, values: x.group_by(by).agg(
        pl.len().alias("rows"), *(getattr(col(values), how)().name.suffix(f"_{how}") for how in AGGREGATES)
    ),
    "own_sort": lambda x, by, values: x.sort([*by, *values], nulls_last=True).with_row_index("position"),
    "own_join": lambda x, keys, by: x.join(keys, on=by),
    "delay_features": delay_features,
}
