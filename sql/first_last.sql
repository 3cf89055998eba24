-- The aggregates first and last: by the order of input, and by position.
CREATE EXTENSION IF NOT EXISTS cqrs_views;

-- no rows; one row; NULL is a value; what FILTER drops is not there
SELECT cqrs.first(x), cqrs.last(x), cqrs.first(x, p), cqrs.last(x, p)
FROM (VALUES ('a', 1::bigint)) v(x, p) WHERE false;
SELECT cqrs.first(x), cqrs.last(x), cqrs.first(x, p), cqrs.last(x, p)
FROM (VALUES ('a', 1::bigint)) v(x, p);
SELECT cqrs.first(x) AS null_first, cqrs.last(x) AS two, cqrs.first(x, p) AS null_at_1, cqrs.last(x, p) AS two_at_2
FROM (VALUES (NULL, 1::bigint), (2, 2)) v(x, p);
SELECT cqrs.first(x) AS one, cqrs.last(x) AS null_last, cqrs.first(x, p) AS one_at_1, cqrs.last(x, p) AS null_at_2
FROM (VALUES (1, 1::bigint), (NULL, 2)) v(x, p);
SELECT cqrs.first(x) FILTER (WHERE x > 1) AS two, cqrs.last(x) FILTER (WHERE x < 3) AS two,
	cqrs.first(x, p) FILTER (WHERE x < 3) AS two, cqrs.last(x, p) FILTER (WHERE x > 1) AS two,
	cqrs.last(x, p) FILTER (WHERE x > 3) AS none
FROM (VALUES (1, 3::bigint), (2, 2), (3, 1)) v(x, p);

-- the order of input, the caller's own order, and the order of positions
SELECT cqrs.first(x), cqrs.last(x), cqrs.first(x, p), cqrs.last(x, p)
FROM (VALUES ('b', 2::bigint), ('c', 3), ('a', 1), ('b', 2)) v(x, p);
SELECT cqrs.first(x ORDER BY x) AS a, cqrs.last(x ORDER BY x) AS c, cqrs.last(DISTINCT x) AS c
FROM (VALUES ('b', 2::bigint), ('c', 3), ('a', 1), ('b', 2)) v(x, p);
-- without a position: not looked at; at the same: the earlier one, the later one
SELECT cqrs.first(x, p) AS b, cqrs.last(x, p) AS c
FROM (VALUES ('a', NULL::bigint), ('b', 7), ('c', 7), ('d', NULL)) v(x, p);
SELECT cqrs.first(x, p) AS none, cqrs.last(x, p) AS none
FROM (VALUES ('a', NULL::bigint)) v(x, p);
-- positions are bigint, to both ends, and an integer will do
SELECT cqrs.first(x, p), cqrs.last(x, p) FROM (VALUES
	('low', -9223372036854775808), ('zero', 0), ('high', 9223372036854775807), ('zero', 0)) v(x, p);
SELECT cqrs.last(x, p) AS b FROM (VALUES ('b', 2), ('a', 1)) v(x, p);

-- the result's type and collation are the argument's
SELECT pg_typeof(cqrs.last(x)), pg_typeof(cqrs.first(x)), pg_typeof(cqrs.last(x, 1)), pg_collation_for(cqrs.last(x, 1))
FROM (VALUES (NULL::varchar COLLATE "C")) v(x);
SELECT cqrs.last(x COLLATE "C") < 'a' AS c, cqrs.first(x COLLATE "C", 1) < 'a' AS c FROM (VALUES ('B')) v(x);

-- many rows in random order: one and two arguments, over every kind of type
CREATE TYPE pair AS (a int, b text);
CREATE TABLE sample AS
SELECT p::bigint AS p, p % 97 AS g,
	CASE WHEN p % 7 <> 0 THEN p END AS i, CASE WHEN p % 7 <> 0 THEN repeat(p::text, p % 13) END AS t,
	p / 7.0 AS n, jsonb_build_object('p', p, 'l', repeat('x', p % 50)) AS j,
	CASE WHEN p % 11 <> 0 THEN ROW(p, p::text)::pair END AS c, ARRAY[p, p % 7, NULL] AS a,
	ARRAY[ROW(p, 'in')::pair] AS ca, p::text::name AS nm, int8range(p, p + 1) AS r
FROM generate_series(1, 20000) p ORDER BY md5(p::text);
ANALYZE sample;

CREATE VIEW ordered AS
SELECT g, cqrs.first(i ORDER BY p) AS i1, cqrs.last(i ORDER BY p) AS i2, cqrs.first(t ORDER BY p) AS t1,
	cqrs.last(t ORDER BY p) AS t2, cqrs.first(n ORDER BY p) AS n1, cqrs.last(n ORDER BY p) AS n2,
	cqrs.first(j ORDER BY p) AS j1, cqrs.last(j ORDER BY p) AS j2, cqrs.first(c ORDER BY p) AS c1,
	cqrs.last(c ORDER BY p) AS c2, cqrs.first(a ORDER BY p) AS a1, cqrs.last(a ORDER BY p) AS a2,
	cqrs.first(ca ORDER BY p) AS ca1, cqrs.last(ca ORDER BY p) AS ca2, cqrs.first(nm ORDER BY p) AS nm1,
	cqrs.last(nm ORDER BY p) AS nm2, cqrs.first(r ORDER BY p) AS r1, cqrs.last(r ORDER BY p) AS r2
FROM sample GROUP BY g;
CREATE VIEW positioned AS
SELECT g, cqrs.first(i, p) AS i1, cqrs.last(i, p) AS i2, cqrs.first(t, p) AS t1, cqrs.last(t, p) AS t2,
	cqrs.first(n, p) AS n1, cqrs.last(n, p) AS n2, cqrs.first(j, p) AS j1, cqrs.last(j, p) AS j2,
	cqrs.first(c, p) AS c1, cqrs.last(c, p) AS c2, cqrs.first(a, p) AS a1, cqrs.last(a, p) AS a2,
	cqrs.first(ca, p) AS ca1, cqrs.last(ca, p) AS ca2, cqrs.first(nm, p) AS nm1, cqrs.last(nm, p) AS nm2,
	cqrs.first(r, p) AS r1, cqrs.last(r, p) AS r2
FROM sample GROUP BY g;
-- what core says, from all values in order
CREATE VIEW expected AS
SELECT g, (array_agg(i ORDER BY p))[1] AS i1, (array_agg(i ORDER BY p DESC))[1] AS i2,
	(array_agg(t ORDER BY p))[1] AS t1, (array_agg(t ORDER BY p DESC))[1] AS t2,
	min(n) AS n1, max(n) AS n2, (array_agg(j ORDER BY p))[1] AS j1, (array_agg(j ORDER BY p DESC))[1] AS j2,
	(array_agg(c ORDER BY p))[1] AS c1, (array_agg(c ORDER BY p DESC))[1] AS c2, min(a) AS a1, max(a) AS a2,
	min(ca) AS ca1, max(ca) AS ca2, (array_agg(nm ORDER BY p))[1] AS nm1, (array_agg(nm ORDER BY p DESC))[1] AS nm2,
	(array_agg(r ORDER BY p))[1] AS r1, (array_agg(r ORDER BY p DESC))[1] AS r2
FROM sample GROUP BY g;
CREATE FUNCTION plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line ~ 'Aggregate' THEN RETURN btrim(line, ' ->'); END IF;
	END LOOP;
END $$;

SELECT plan('TABLE positioned'), count(*) FROM (SELECT * FROM positioned INTERSECT SELECT * FROM expected) s;
SET enable_hashagg = off;
SELECT plan('TABLE positioned'), count(*) FROM (SELECT * FROM positioned INTERSECT SELECT * FROM expected) s;
SELECT count(*) FROM (SELECT * FROM ordered INTERSECT SELECT * FROM expected) s;
RESET enable_hashagg;
-- where most groups are spilled, and aggregated later
SET work_mem = '64kB';
SET enable_sort = off;
CREATE TABLE result AS SELECT p % 5000 AS k, cqrs.last(j, p) AS j2, cqrs.first(t, p) AS t1 FROM sample GROUP BY 1;
SELECT count(*), count(*) FILTER (WHERE (j2->>'p')::int = s.p + 15000 AND t1 IS NOT DISTINCT FROM s.t) AS right
FROM result JOIN sample s ON s.p = CASE k WHEN 0 THEN 5000 ELSE k END;
RESET work_mem;
RESET enable_sort;

-- large values, inline and out of line, that grow and shrink; losers are not kept
CREATE TABLE large (p bigint, x text);
ALTER TABLE large ALTER x SET STORAGE EXTERNAL;
INSERT INTO large SELECT p, repeat(chr(64 + p), CASE WHEN p % 2 = 0 THEN 100000 ELSE 10 END) FROM generate_series(1, 20) p;
SELECT length(cqrs.first(x)), length(cqrs.last(x)), left(cqrs.last(x, p), 3), left(cqrs.first(x, -p), 3),
	length(cqrs.last(x || x, p)), length(cqrs.first(x || x, p)), left(cqrs.last(x || x, -p), 3) FROM large;
SELECT length(cqrs.last(repeat('x', 1000 * (1 + p % 3)), p)), length(cqrs.last(repeat('x', 1000 * (1 + p % 3))))
FROM generate_series(1, 100000) p;
-- expanded objects, as PL/pgSQL returns them
CREATE FUNCTION expanded(p int) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE a int[] := array_fill(0, ARRAY[3]);
BEGIN a[2] := p; RETURN a; END $$;
SELECT cqrs.first(expanded(p)), cqrs.last(expanded(p)), cqrs.first(expanded(p), p), cqrs.last(expanded(p), p),
	cqrs.last(CASE WHEN p % 2 = 1 THEN ARRAY[1,2,3,4,5,6,7,8,p] ELSE expanded(p) END, p)
FROM generate_series(1, 1000) p;
SELECT cqrs.last(ROW(p, 'record'), p), cqrs.first(ROW(p, 'record')) FROM generate_series(1, 3) p;

-- windows: growing, moving, all
SELECT x, p, cqrs.first(x) OVER growing AS f, cqrs.last(x) OVER growing AS l, cqrs.first(x, p) OVER growing AS fp,
	cqrs.last(x, p) OVER growing AS lp, cqrs.first(x, p) OVER moving AS mf, cqrs.last(x, p) OVER moving AS ml,
	cqrs.last(x) OVER () AS all
FROM (VALUES (1, 'b', 2::bigint), (2, NULL, 5), (3, 'a', 1), (4, 'ccc', 3), (5, 'dd', 4)) v(n, x, p)
WINDOW growing AS (ORDER BY n), moving AS (ORDER BY n ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)
ORDER BY n;
SELECT count(*) FILTER (WHERE cf IS NOT DISTINCT FROM f AND cl IS NOT DISTINCT FROM l AND cl IS NOT DISTINCT FROM lp) AS right
FROM (SELECT first_value(t) OVER w AS cf, last_value(t) OVER w AS cl, cqrs.first(t) OVER w AS f, cqrs.last(t) OVER w AS l,
	cqrs.last(t, p) OVER w AS lp FROM sample WINDOW w AS (PARTITION BY g ORDER BY p ROWS 3 PRECEDING)) s;

-- in a parallel worker
SELECT CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'force_parallel_mode'
	ELSE 'debug_parallel_query' END AS parallel_mode \gset
SET :parallel_mode = on;
SET min_parallel_table_scan_size = '1GB';
EXPLAIN (COSTS OFF) SELECT cqrs.first(n, p), cqrs.last(j, p), cqrs.first(nm), cqrs.last(nm) FROM sample;
SELECT round(cqrs.first(n, p), 3) AS n, cqrs.last(j->>'p', p) AS j, cqrs.first(nm ORDER BY p) AS nm,
	cqrs.last(nm ORDER BY p) AS nm FROM sample;
RESET :parallel_mode;
RESET min_parallel_table_scan_size;

-- for everybody, but only as aggregates
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SELECT cqrs.first(x), cqrs.last(x), cqrs.first(x, x), cqrs.last(x, x) FROM generate_series(1, 3) x;
RESET ROLE;
DROP ROLE regress_nobody;
SELECT cqrs.last_transition(1, 2); \echo :SQLSTATE
DO $$
BEGIN
	PERFORM cqrs.first_transition(NULL, 2);
EXCEPTION WHEN undefined_function OR feature_not_supported THEN
	RAISE NOTICE 'a value of type internal can''t be given';  -- said in two ways by PostgreSQL's minor versions
END $$;

DROP VIEW ordered, positioned, expected;
DROP TABLE sample, result, large;
DROP FUNCTION plan, expanded;
DROP TYPE pair;
DROP EXTENSION cqrs_views;
