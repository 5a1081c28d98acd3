-- Delays of flights by carrier, route, hour and weather, and how late the carrier was in the week before: in DuckDB's SQL,
-- which Spark shares but for names of files and quantiles.
WITH
flights AS (
    SELECT *, year * 10000 + month * 100 + day AS date, dep_delay > 15 AS late FROM {flights}
),
-- share of late departures of each carrier at each origin, over the seven days with flights before each date
days AS (
    SELECT carrier, origin, date, count(late) AS flown, count(*) FILTER (WHERE late) AS late
    FROM flights GROUP BY 1, 2, 3
),
weeks AS (
    SELECT carrier, origin, date, sum(late) OVER week / nullif(sum(flown) OVER week, 0) AS late_week FROM days
    WINDOW week AS (PARTITION BY carrier, origin ORDER BY date ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING)
),
weather AS (
    SELECT origin, time_hour, wind_speed,
        CASE WHEN precip > 0 OR visib < 3 THEN 'poor' WHEN wind_speed >= 20 THEN 'windy' ELSE 'fair' END weather
    FROM {weather}
),
features AS (
    SELECT carrier, origin, dest, hour, coalesce(weather, 'unknown') AS weather,
        count(*) AS flights, count(dep_delay) AS flown, avg(late::INTEGER) AS late_share,
        avg(dep_delay) AS dep_delay_mean, median(dep_delay) AS dep_delay_median,
        {quantile}(dep_delay, 0.9) AS dep_delay_p90, avg(arr_delay) AS arr_delay_mean,
        avg(late_week) AS late_week_mean, max(late_week) AS late_week_max,
        avg(flights.year - planes.year) AS age_mean, avg(seats) AS seats_mean, avg(wind_speed) AS wind_mean
    FROM flights
    LEFT JOIN weeks USING (carrier, origin, date)
    LEFT JOIN weather USING (origin, time_hour)
    LEFT JOIN {planes} AS planes USING (tailnum)
    GROUP BY 1, 2, 3, 4, 5
)
SELECT features.*, airlines.name AS airline, lat AS dest_lat, lon AS dest_lon, alt AS dest_alt
FROM features
LEFT JOIN {airlines} AS airlines ON airlines.carrier = features.carrier
LEFT JOIN {airports} AS airports ON faa = dest
