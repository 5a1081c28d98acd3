-- The 22 queries of PDS-H: the questions of the TPC-H specification with its validation parameters, in SQL without
-- correlated subqueries, so that DuckDB, Polars, PySpark and Sail run the same text. Small and filtered tables come
-- first in a chain of joins, since not every engine reorders them. Where the specification leaves rows tied, a key
-- orders them. {fraction} of query 11 is 0.0001 / scale factor.

-- 1 Pricing summary
SELECT l_returnflag, l_linestatus,
       SUM(l_quantity) AS sum_qty,
       SUM(l_extendedprice) AS sum_base_price,
       SUM(l_extendedprice * (1 - l_discount)) AS sum_disc_price,
       SUM(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge,
       AVG(l_quantity) AS avg_qty,
       AVG(l_extendedprice) AS avg_price,
       AVG(l_discount) AS avg_disc,
       COUNT(*) AS count_order
FROM lineitem
WHERE l_shipdate <= DATE '1998-09-02'
GROUP BY l_returnflag, l_linestatus
ORDER BY l_returnflag, l_linestatus;

-- 2 Cheapest suppliers
WITH offers AS (
    SELECT p_partkey, p_mfgr, ps_supplycost, s_acctbal, s_name, s_address, s_phone, s_comment, n_name
    FROM region
    JOIN nation ON n_regionkey = r_regionkey
    JOIN supplier ON s_nationkey = n_nationkey
    JOIN partsupp ON ps_suppkey = s_suppkey
    JOIN part ON p_partkey = ps_partkey
    WHERE r_name = 'EUROPE' AND p_size = 15 AND p_type LIKE '%BRASS'
),
lowest AS (
    SELECT p_partkey AS lowest_partkey, MIN(ps_supplycost) AS lowest_cost
    FROM offers
    GROUP BY p_partkey
)
SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
FROM offers
JOIN lowest ON p_partkey = lowest_partkey AND ps_supplycost = lowest_cost
ORDER BY s_acctbal DESC, n_name, s_name, p_partkey
LIMIT 100;

-- 3 Unshipped orders
SELECT l_orderkey, SUM(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority
FROM customer
JOIN orders ON o_custkey = c_custkey
JOIN lineitem ON l_orderkey = o_orderkey
WHERE c_mktsegment = 'BUILDING' AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-03-15'
GROUP BY l_orderkey, o_orderdate, o_shippriority
ORDER BY revenue DESC, o_orderdate, l_orderkey
LIMIT 10;

-- 4 Late orders by priority
WITH late AS (
    SELECT l_orderkey
    FROM lineitem
    WHERE l_commitdate < l_receiptdate
)
SELECT o_orderpriority, COUNT(*) AS order_count
FROM orders
SEMI JOIN late ON o_orderkey = l_orderkey
WHERE o_orderdate >= DATE '1993-07-01' AND o_orderdate < DATE '1993-10-01'
GROUP BY o_orderpriority
ORDER BY o_orderpriority;

-- 5 Local suppliers' revenue
SELECT n_name, SUM(l_extendedprice * (1 - l_discount)) AS revenue
FROM region
JOIN nation ON n_regionkey = r_regionkey
JOIN customer ON c_nationkey = n_nationkey
JOIN orders ON o_custkey = c_custkey
JOIN lineitem ON l_orderkey = o_orderkey
JOIN supplier ON s_suppkey = l_suppkey AND s_nationkey = n_nationkey
WHERE r_name = 'ASIA' AND o_orderdate >= DATE '1994-01-01' AND o_orderdate < DATE '1995-01-01'
GROUP BY n_name
ORDER BY revenue DESC, n_name;

-- 6 Revenue from discounts
SELECT SUM(l_extendedprice * l_discount) AS revenue
FROM lineitem
WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1995-01-01'
  AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24;

-- 7 Volume between nations
WITH sellers AS (
    SELECT s_suppkey, n_name AS supp_nation
    FROM nation
    JOIN supplier ON s_nationkey = n_nationkey
    WHERE n_name IN ('FRANCE', 'GERMANY')
),
buyers AS (
    SELECT c_custkey, n_name AS cust_nation
    FROM nation
    JOIN customer ON c_nationkey = n_nationkey
    WHERE n_name IN ('FRANCE', 'GERMANY')
)
SELECT supp_nation, cust_nation, EXTRACT(YEAR FROM l_shipdate) AS l_year,
       SUM(l_extendedprice * (1 - l_discount)) AS revenue
FROM buyers
JOIN orders ON o_custkey = c_custkey
JOIN lineitem ON l_orderkey = o_orderkey
JOIN sellers ON s_suppkey = l_suppkey
WHERE supp_nation <> cust_nation AND l_shipdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
GROUP BY supp_nation, cust_nation, EXTRACT(YEAR FROM l_shipdate)
ORDER BY supp_nation, cust_nation, l_year;

-- 8 National market share
WITH sales AS (
    SELECT EXTRACT(YEAR FROM o_orderdate) AS o_year, l_extendedprice * (1 - l_discount) AS volume,
           sold.n_name AS seller
    FROM region
    JOIN nation AS bought ON bought.n_regionkey = r_regionkey
    JOIN customer ON c_nationkey = bought.n_nationkey
    JOIN orders ON o_custkey = c_custkey
    JOIN lineitem ON l_orderkey = o_orderkey
    JOIN part ON p_partkey = l_partkey
    JOIN supplier ON s_suppkey = l_suppkey
    JOIN nation AS sold ON sold.n_nationkey = s_nationkey
    WHERE r_name = 'AMERICA' AND p_type = 'ECONOMY ANODIZED STEEL'
      AND o_orderdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
)
SELECT o_year, SUM(CASE WHEN seller = 'BRAZIL' THEN volume ELSE 0 END) / SUM(volume) AS mkt_share
FROM sales
GROUP BY o_year
ORDER BY o_year;

-- 9 Profit by nation and year
WITH sales AS (
    SELECT n_name AS nation, EXTRACT(YEAR FROM o_orderdate) AS o_year,
           l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity AS amount
    FROM part
    JOIN partsupp ON ps_partkey = p_partkey
    JOIN supplier ON s_suppkey = ps_suppkey
    JOIN nation ON n_nationkey = s_nationkey
    JOIN lineitem ON l_partkey = p_partkey AND l_suppkey = s_suppkey
    JOIN orders ON o_orderkey = l_orderkey
    WHERE p_name LIKE '%green%'
)
SELECT nation, o_year, SUM(amount) AS sum_profit
FROM sales
GROUP BY nation, o_year
ORDER BY nation, o_year DESC;

-- 10 Returned items
SELECT c_custkey, c_name, SUM(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name, c_address, c_phone,
       c_comment
FROM nation
JOIN customer ON c_nationkey = n_nationkey
JOIN orders ON o_custkey = c_custkey
JOIN lineitem ON l_orderkey = o_orderkey
WHERE o_orderdate >= DATE '1993-10-01' AND o_orderdate < DATE '1994-01-01' AND l_returnflag = 'R'
GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment
ORDER BY revenue DESC, c_custkey
LIMIT 20;

-- 11 Most valuable stock
WITH stock AS (
    SELECT ps_partkey, SUM(ps_supplycost * ps_availqty) AS part_value
    FROM nation
    JOIN supplier ON s_nationkey = n_nationkey
    JOIN partsupp ON ps_suppkey = s_suppkey
    WHERE n_name = 'GERMANY'
    GROUP BY ps_partkey
),
total AS (
    SELECT SUM(part_value) * {fraction} AS threshold
    FROM stock
)
SELECT ps_partkey, part_value AS value
FROM stock
CROSS JOIN total
WHERE part_value > threshold
ORDER BY value DESC, ps_partkey;

-- 12 Late lines by ship mode
SELECT l_shipmode,
       SUM(CASE WHEN o_orderpriority IN ('1-URGENT', '2-HIGH') THEN 1 ELSE 0 END) AS high_line_count,
       SUM(CASE WHEN o_orderpriority IN ('1-URGENT', '2-HIGH') THEN 0 ELSE 1 END) AS low_line_count
FROM lineitem
JOIN orders ON o_orderkey = l_orderkey
WHERE l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate AND l_shipdate < l_commitdate
  AND l_receiptdate >= DATE '1994-01-01' AND l_receiptdate < DATE '1995-01-01'
GROUP BY l_shipmode
ORDER BY l_shipmode;

-- 13 Customers by orders
WITH kept AS (
    SELECT o_custkey, o_orderkey
    FROM orders
    WHERE o_comment NOT LIKE '%special%requests%'
),
counted AS (
    SELECT c_custkey, COUNT(o_orderkey) AS c_count
    FROM customer
    LEFT JOIN kept ON o_custkey = c_custkey
    GROUP BY c_custkey
)
SELECT c_count, COUNT(*) AS custdist
FROM counted
GROUP BY c_count
ORDER BY custdist DESC, c_count DESC;

-- 14 Promoted parts' share
SELECT 100.00 * SUM(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
       / SUM(l_extendedprice * (1 - l_discount)) AS promo_revenue
FROM lineitem
JOIN part ON p_partkey = l_partkey
WHERE l_shipdate >= DATE '1995-09-01' AND l_shipdate < DATE '1995-10-01';

-- 15 Top supplier
WITH revenue AS (
    SELECT l_suppkey, SUM(l_extendedprice * (1 - l_discount)) AS total_revenue
    FROM lineitem
    WHERE l_shipdate >= DATE '1996-01-01' AND l_shipdate < DATE '1996-04-01'
    GROUP BY l_suppkey
),
highest AS (
    SELECT MAX(total_revenue) AS highest_revenue
    FROM revenue
)
SELECT s_suppkey, s_name, s_address, s_phone, total_revenue
FROM highest
JOIN revenue ON total_revenue = highest_revenue
JOIN supplier ON s_suppkey = l_suppkey
ORDER BY s_suppkey;

-- 16 Suppliers by part
WITH criticized AS (
    SELECT s_suppkey
    FROM supplier
    WHERE s_comment LIKE '%Customer%Complaints%'
)
SELECT p_brand, p_type, p_size, COUNT(DISTINCT ps_suppkey) AS supplier_cnt
FROM part
JOIN partsupp ON ps_partkey = p_partkey
ANTI JOIN criticized ON ps_suppkey = s_suppkey
WHERE p_brand <> 'Brand#45' AND p_type NOT LIKE 'MEDIUM POLISHED%' AND p_size IN (49, 14, 23, 45, 19, 3, 36, 9)
GROUP BY p_brand, p_type, p_size
ORDER BY supplier_cnt DESC, p_brand, p_type, p_size;

-- 17 Small orders' revenue
WITH lines AS (
    SELECT p_partkey, l_quantity, l_extendedprice
    FROM part
    JOIN lineitem ON l_partkey = p_partkey
    WHERE p_brand = 'Brand#23' AND p_container = 'MED BOX'
),
small AS (
    SELECT p_partkey AS small_partkey, 0.2 * AVG(l_quantity) AS small_quantity
    FROM lines
    GROUP BY p_partkey
)
SELECT SUM(l_extendedprice) / 7.0 AS avg_yearly
FROM lines
JOIN small ON p_partkey = small_partkey
WHERE l_quantity < small_quantity;

-- 18 Large orders
WITH large AS (
    SELECT l_orderkey AS large_orderkey
    FROM lineitem
    GROUP BY l_orderkey
    HAVING SUM(l_quantity) > 300
)
SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, SUM(l_quantity) AS sum_qty
FROM large
JOIN orders ON o_orderkey = large_orderkey
JOIN customer ON c_custkey = o_custkey
JOIN lineitem ON l_orderkey = o_orderkey
GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice
ORDER BY o_totalprice DESC, o_orderdate, o_orderkey
LIMIT 100;

-- 19 Discounted revenue
SELECT SUM(l_extendedprice * (1 - l_discount)) AS revenue
FROM part
JOIN lineitem ON l_partkey = p_partkey
WHERE l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON' AND p_size >= 1
  AND (
    (p_brand = 'Brand#12' AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG')
     AND l_quantity BETWEEN 1 AND 11 AND p_size <= 5)
    OR (p_brand = 'Brand#23' AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK')
        AND l_quantity BETWEEN 10 AND 20 AND p_size <= 10)
    OR (p_brand = 'Brand#34' AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG')
        AND l_quantity BETWEEN 20 AND 30 AND p_size <= 15)
  );

-- 20 Suppliers' excess stock
WITH forest AS (
    SELECT p_partkey
    FROM part
    WHERE p_name LIKE 'forest%'
),
sold AS (
    SELECT l_partkey, l_suppkey, 0.5 * SUM(l_quantity) AS half_quantity
    FROM lineitem
    SEMI JOIN forest ON l_partkey = p_partkey
    WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1995-01-01'
    GROUP BY l_partkey, l_suppkey
),
stocked AS (
    SELECT ps_suppkey
    FROM sold
    JOIN partsupp ON ps_partkey = l_partkey AND ps_suppkey = l_suppkey
    WHERE ps_availqty > half_quantity
)
SELECT s_name, s_address
FROM nation
JOIN supplier ON s_nationkey = n_nationkey
SEMI JOIN stocked ON s_suppkey = ps_suppkey
WHERE n_name = 'CANADA'
ORDER BY s_name;

-- 21 Suppliers who delayed
WITH waiting AS (
    SELECT l_orderkey AS order_key, s_name
    FROM nation
    JOIN supplier ON s_nationkey = n_nationkey
    JOIN lineitem ON l_suppkey = s_suppkey
    JOIN orders ON o_orderkey = l_orderkey
    WHERE n_name = 'SAUDI ARABIA' AND o_orderstatus = 'F' AND l_receiptdate > l_commitdate
),
suppliers AS (
    SELECT l_orderkey, MIN(l_suppkey) AS lowest, MAX(l_suppkey) AS highest,
           MIN(CASE WHEN l_receiptdate > l_commitdate THEN l_suppkey END) AS lowest_late,
           MAX(CASE WHEN l_receiptdate > l_commitdate THEN l_suppkey END) AS highest_late
    FROM lineitem
    SEMI JOIN waiting ON l_orderkey = order_key
    GROUP BY l_orderkey
)
SELECT s_name, COUNT(*) AS numwait
FROM waiting
JOIN suppliers ON l_orderkey = order_key
WHERE lowest < highest AND lowest_late = highest_late
GROUP BY s_name
ORDER BY numwait DESC, s_name
LIMIT 100;

-- 22 Customers to win back
WITH chosen AS (
    SELECT c_custkey, c_acctbal, SUBSTRING(c_phone, 1, 2) AS cntrycode
    FROM customer
    WHERE SUBSTRING(c_phone, 1, 2) IN ('13', '31', '23', '29', '30', '18', '17')
),
average AS (
    SELECT AVG(c_acctbal) AS average_acctbal
    FROM chosen
    WHERE c_acctbal > 0
)
SELECT cntrycode, COUNT(*) AS numcust, SUM(c_acctbal) AS totacctbal
FROM chosen
CROSS JOIN average
ANTI JOIN orders ON c_custkey = o_custkey
WHERE c_acctbal > average_acctbal
GROUP BY cntrycode
ORDER BY cntrycode;
