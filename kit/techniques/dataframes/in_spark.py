"""The questions in PySpark, which Sail answers too: data frames come in, one goes out that is not computed yet.

A missing key is a group of its own and joins with nothing, as SQL has it; the sum of no values, which Spark calls
missing, is 0 here; quantiles interpolate linearly. Each call builds its frame again: Spark would answer a frame that it
has computed before from the shuffle files of the first time.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as f

from kit.techniques.dataframes.in_sql import delay_features


def _sum(column: str) -> Column:
    return f.coalesce(f.sum(column), f.lit(0)).alias(column)


def _means(*columns: str) -> list[Column]:
    return [f.mean(column).alias(column) for column in columns]


def _largest(x: DataFrame) -> DataFrame:
    """Rank within each group. Spark keeps the first two of each while it sorts."""
    order = Window.partitionBy("id6").orderBy(f.desc("v3"))
    return x.where("v3 IS NOT NULL").withColumn("rank", f.row_number().over(order)).where("rank <= 2")


def _joined(x: DataFrame, other: DataFrame, key: str, name: str, how: str = "inner") -> DataFrame:
    ids = {f"id{number}": f"id{number}_{name}" for number in range(1, 7) if f"id{number}" != key}
    return x.join(other.withColumnsRenamed(ids), key, how)


def _quoted(column: str) -> Column:
    return f.col("`" + column.replace("`", "``") + "`")


def _own_groupby(x: DataFrame, by: list[str], values: list[str]) -> DataFrame:
    how = {"mean": f.mean, "min": f.min, "max": f.max}
    sums = [f.coalesce(f.sum(_quoted(v)), f.lit(0)).alias(f"{v}_sum") for v in values]
    rest = [function(_quoted(v)).alias(f"{v}_{name}") for v in values for name, function in how.items()]
    return x.groupBy(*map(_quoted, by)).agg(f.count("*").alias("rows"), *sums, *rest)


def _own_sort(x: DataFrame, by: list[str], values: list[str]) -> DataFrame:
    order = Window.orderBy(*(_quoted(column).asc_nulls_last() for column in [*by, *values]))
    return x.withColumn("position", f.row_number().over(order) - 1)


IDS = [f"id{number}" for number in range(1, 7)]
QUERIES = {
    "groupby_1": lambda x: x.groupBy("id1").agg(_sum("v1")),
    "groupby_2": lambda x: x.groupBy("id1", "id2").agg(_sum("v1")),
    "groupby_3": lambda x: x.groupBy("id3").agg(_sum("v1"), *_means("v3")),
    "groupby_4": lambda x: x.groupBy("id4").agg(*_means("v1", "v2", "v3")),
    "groupby_5": lambda x: x.groupBy("id6").agg(*map(_sum, ("v1", "v2", "v3"))),
    "groupby_6": lambda x: x.groupBy("id4", "id5").agg(
        f.median("v3").alias("median_v3"), f.stddev_samp("v3").alias("sd_v3")
    ),
    "groupby_7": lambda x: x.groupBy("id3").agg((f.max("v1") - f.min("v2")).alias("range_v1_v2")),
    "groupby_8": lambda x: _largest(x).select("id6", f.col("v3").alias("largest2_v3")),
    "groupby_9": lambda x: x.groupBy("id2", "id4").agg(f.pow(f.corr("v1", "v2"), f.lit(2)).alias("r2")),
    "groupby_10": lambda x: x.groupBy(*IDS).agg(_sum("v3"), f.count("*").alias("count")),
    "join_1": lambda x, small: _joined(x, small, "id1", "small"),
    "join_2": lambda x, medium: _joined(x, medium, "id2", "medium"),
    "join_3": lambda x, medium: _joined(x, medium, "id2", "medium", "left"),
    "join_4": lambda x, medium: _joined(x, medium, "id5", "medium"),
    "join_5": lambda x, big: _joined(x, big, "id3", "big"),
    "own_groupby": _own_groupby,
    "own_sort": _own_sort,
    "own_join": lambda x, keys, by: x.join(keys, by),
    "delay_features": lambda paths, spark: spark.sql(delay_features(paths, "parquet.`{}`", "percentile")),
}
"""Question → function. The delay features are DuckDB's SQL, which both understand."""
